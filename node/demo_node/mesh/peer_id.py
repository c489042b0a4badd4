"""Peer ids: how libp2p writes an Ed25519 public key. No libp2p here, so the CLI stays fast.

An id is the base58 (Bitcoin alphabet) form of an identity multihash of the key's protobuf:
    00 24              multihash: identity, 36 bytes
    08 01 12 20 <key>  PublicKey{Type: Ed25519, Data: 32 bytes}
Source: libp2p specs, peer-ids.md.
"""

import functools
from typing import Final

from demo_protocol.limits import PEER_BYTES

_PREFIX: Final = bytes.fromhex("002408011220")
_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS: Final = {letter: digit for digit, letter in enumerate(_ALPHABET)}
_LETTERS_MAX: Final = 64
"""An Ed25519 id has 52; base58 is quadratic, so longer text is refused unread."""


def encode_peer_id(public_key: bytes) -> str:
    """The peer id ("12D3Koo...") of a 32-byte Ed25519 public key."""
    if len(public_key) != PEER_BYTES:
        raise ValueError(f"an Ed25519 public key has {PEER_BYTES} bytes, not {len(public_key)}")
    return _base58(encode_peer_id_bytes(public_key))


def decode_peer_id(text: str) -> bytes:
    """The 32-byte Ed25519 public key of a peer id. Raises ValueError on anything else."""
    if len(text) > _LETTERS_MAX:
        raise ValueError("too long for a peer id")
    number = 0
    for letter in text:
        if letter not in _DIGITS:
            raise ValueError(f"{text!r} is not base58")
        number = number * 58 + _DIGITS[letter]
    zeros = len(text) - len(text.lstrip("1"))
    return decode_peer_id_bytes(bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8))


def encode_peer_id_bytes(public_key: bytes) -> bytes:
    """The binary form of the id."""
    return _PREFIX + public_key


def decode_peer_id_bytes(peer_id: bytes) -> bytes:
    """The public key inside a binary id. Raises ValueError unless it is an Ed25519 key's."""
    if len(peer_id) != len(_PREFIX) + PEER_BYTES or not peer_id.startswith(_PREFIX):
        raise ValueError("not the peer id of an Ed25519 key")
    return peer_id[len(_PREFIX) :]


@functools.lru_cache(1024)
def _base58(raw: bytes) -> str:
    """Of the peers' keys, mostly: each is written some times a second."""
    number = int.from_bytes(raw)
    letters = []
    while number:
        number, digit = divmod(number, 58)
        letters.append(_ALPHABET[digit])
    zeros = len(raw) - len(raw.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(letters))
