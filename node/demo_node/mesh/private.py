"""A private swarm: everything on a socket is enciphered with a key that all its nodes have.

As libp2p's "pnet" (/key/swarm/psk/1.0.0) says, so that nodes in Go take part: each side sends 24
random bytes, then all that follows under XSalsa20 with the shared key and those. It hides that this
is libp2p and keeps strangers from the handshake; who is who, and what nobody may change, stays
Noise's. The library's own `psk=` sends 8 bytes and ciphers with Salsa20, which nothing else reads.
"""

import os
import struct
from collections.abc import Callable
from typing import Final

from Crypto.Cipher import Salsa20
from libp2p.io.exceptions import IOException
from libp2p.io.trio import TrioTCPStream

from demo_node.mesh.remote import find_remote

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 24

HELLO: Final = b"\x13/multistream/1.0.0\n"
"""What each side of every libp2p connection says first: another key shows at once."""

OnStranger = Callable[[str, str], None]
"""Called with the host of who dialled us without our key, and what is wrong with it."""


class ForeignKey(IOException):
    """The other side has another pre-shared key, or none."""


class PrivateStream(TrioTCPStream):
    """A TCP stream under the swarm's key."""

    def __init__(self, inner: TrioTCPStream, key: bytes, on_stranger: OnStranger | None) -> None:
        """`on_stranger` is told of a peer that lacks the key; None: whoever dialled it is."""
        super().__init__(inner.stream)
        self._key = key
        self._on_stranger = on_stranger
        self._reader: Salsa20.Salsa20Cipher | None = None
        self._writer: Salsa20.Salsa20Cipher | None = None
        self._nonce = b""
        self._hello = HELLO

    def encipher(self, data: bytes) -> bytes:
        """What goes to the socket for `data`: all of it, and in the order of these calls."""
        nonce = b""
        if self._writer is None:
            nonce = os.urandom(NONCE_BYTES)
            self._writer = _make_cipher(self._key, nonce)
        return nonce + self._writer.encrypt(data)

    async def write(self, data: bytes) -> None:
        """All of `data`."""
        await super().write(self.encipher(data))

    async def read(self, n: int | None = None) -> bytes:
        """At most `n` bytes; none at the end. Raises ForeignKey."""
        while self._reader is None:
            piece = await super().read(NONCE_BYTES - len(self._nonce))
            if not piece:
                return b""
            self._nonce += piece
            if self._nonce.startswith(HELLO):
                self._refuse("has no pre-shared key")
            if len(self._nonce) == NONCE_BYTES:
                self._reader = _make_cipher(self._key, self._nonce)
        plain = self._reader.decrypt(await super().read(n))
        expected, self._hello = self._hello[: len(plain)], self._hello[len(plain) :]
        if not plain.startswith(expected):
            self._refuse("has another pre-shared key")
        return plain

    def _refuse(self, why: str) -> None:
        if self._on_stranger is not None:
            host, _ = find_remote(self) or ("", 0)
            self._on_stranger(host, why)
        raise ForeignKey(f"what answers there {why}")


def _make_cipher(key: bytes, nonce: bytes) -> Salsa20.Salsa20Cipher:
    """XSalsa20, of which pycryptodome has the second half."""
    return Salsa20.new(key=compute_subkey(key, nonce[:16]), nonce=nonce[16:])


def compute_subkey(key: bytes, nonce: bytes) -> bytes:
    """HSalsa20 (Bernstein, "Extending the Salsa20 nonce", section 2): 32 bytes from 32 and 16."""
    k, n = struct.unpack("<8I", key), struct.unpack("<4I", nonce)
    c = struct.unpack("<4I", b"expand 32-byte k")
    x = [c[0], *k[:4], c[1], *n, c[2], *k[4:], c[3]]
    for _ in range(10):
        for lane in _LANES:
            a, b, c_, d = lane
            x[b] ^= _rotate(x[a] + x[d], 7)
            x[c_] ^= _rotate(x[b] + x[a], 9)
            x[d] ^= _rotate(x[c_] + x[b], 13)
            x[a] ^= _rotate(x[d] + x[c_], 18)
    return struct.pack("<8I", *(x[i] for i in (0, 5, 10, 15, 6, 7, 8, 9)))


_LANES: Final = (
    *((0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11)),  # columns
    *((0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14)),  # rows
)


def _rotate(word: int, bits: int) -> int:
    word &= 0xFFFFFFFF
    return (word << bits | word >> (32 - bits)) & 0xFFFFFFFF
