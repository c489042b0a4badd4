"""Keys and signatures of simulated nodes."""

import hashlib
import hmac
from collections.abc import Callable


def peer_name(index: int) -> bytes:
    """A 32-byte public key for node `index`."""
    return hashlib.sha256(b"node" + index.to_bytes(4, "big")).digest()


def cheap_sign(seed: bytes) -> Callable[[bytes], bytes]:
    """A stand-in for Ed25519 (rule T7): a keyed hash, whose key is public here."""
    return lambda message: hmac.digest(seed, message, "sha256") * 2


def cheap_verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Checks `cheap_sign`: the simulator's key pairs have equal halves."""
    return hmac.compare_digest(cheap_sign(public_key)(message), signature)
