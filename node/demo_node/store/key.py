"""The node's identity: an Ed25519 key in a file only its operator can read.

The file is libp2p's protobuf encoding of a private key (KeyType 1, data = seed followed by public
key), so that other libp2p programs can use it and `peer id` means the same everywhere.
"""

from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from demo_node.store.atomic import write_atomic
from demo_node.store.disk import PRIVATE, Disk
from demo_protocol.errors import ConfigError
from demo_protocol.limits import PEER_BYTES

SEED_BYTES: Final = 32

_PREFIX: Final = bytes([0x08, 0x01, 0x12, SEED_BYTES + PEER_BYTES])
"""Field 1 (type) = 1 (Ed25519); field 2 (data), 64 bytes long."""

_PERMISSION: Final = 77


class NodeKey:
    """An Ed25519 key pair. `public` is the peer's name; `seed` is the secret."""

    __slots__ = ("_private", "public", "seed")

    def __init__(self, seed: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.seed = seed
        self.public = self._private.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        # Never the seed: a repr ends up in logs.
        return f"NodeKey(public={self.public.hex()})"

    def sign(self, message: bytes) -> bytes:
        """64-byte signature. Deterministic."""
        return self._private.sign(message)


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the holder of `public_key` signed `message`. Garbage of any shape is False."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def generate_key() -> NodeKey:
    """A new key from the system's randomness."""
    return NodeKey(Ed25519PrivateKey.generate().private_bytes_raw())


def encode_key(key: NodeKey) -> bytes:
    """libp2p protobuf encoding, 68 bytes. Secret."""
    return _PREFIX + key.seed + key.public


def decode_key(raw: bytes) -> NodeKey | None:
    """Inverse of `encode_key`; None for anything else, and when the halves do not match."""
    if len(raw) != len(_PREFIX) + SEED_BYTES + PEER_BYTES or not raw.startswith(_PREFIX):
        return None
    key = NodeKey(raw[len(_PREFIX) : len(_PREFIX) + SEED_BYTES])
    return key if encode_key(key) == raw else None


def create_key(disk: Disk, path: Path, key: NodeKey) -> None:
    """Write `key` to a new file, 0600 (fsyncs). Raises ConfigError when a file is there."""
    if path.name in disk.names(path.parent):
        raise ConfigError(f"{path}: there already; nothing is overwritten, move it away first")
    write_atomic(disk, path, encode_key(key), mode=PRIVATE)


def load_key(disk: Disk, path: Path) -> NodeKey:
    """Read the key.

    Raises ConfigError: exit code 77 when others can read it, 78 when it is missing or damaged.
    """
    try:
        mode = disk.mode(path)
        raw = disk.read(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no key; run: demo-node key new") from None
    if mode & 0o077:
        raise ConfigError(
            f"{path}: other users can read the key; run: chmod 600 '{path}'", exit_code=_PERMISSION
        )
    key = decode_key(raw)
    if key is None:
        raise ConfigError(f"{path}: not an Ed25519 key; restore it from your copy, or move it away")
    return key
