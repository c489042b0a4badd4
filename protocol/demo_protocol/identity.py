"""What is signed, what names it, and the hashes that order peers (rules T7 and 11).

Signing and checking are arguments: the node passes Ed25519, the simulator a cheap stand-in.
"""

import hashlib
from collections.abc import Callable
from enum import StrEnum

Sign = Callable[[bytes], bytes]
"""message -> 64-byte signature."""

Verify = Callable[[bytes, bytes, bytes], bool]
"""(public key, message, signature) -> does it hold?"""


class Kind(StrEnum):
    """Kinds of signed message; the kind is part of what is signed."""

    HEADER = "header"
    PROPOSAL = "proposal"
    MEMBERSHIP = "membership"


def signing_bytes(kind: Kind, run_id: bytes, body: bytes) -> bytes:
    """What the signature covers: a domain tag, the run, and the exact body (rule T7)."""
    return b"demo-node/" + kind.value.encode() + b"/1\0" + run_id + body


def compute_hash(kind: Kind, run_id: bytes, body: bytes) -> bytes:
    """Name of a signed message. The signature is left out: a signer can make many for one body."""
    return hashlib.sha256(signing_bytes(kind, run_id, body)).digest()


def compute_key(admitted_by: bytes, peer: bytes) -> bytes:
    """key_m of rule 11: fixed at admission, so nothing a proposer writes later moves it."""
    return hashlib.sha256(b"demo-node/member/1\0" + admitted_by + peer).digest()


def compute_rank_hash(key: bytes, round_: int) -> bytes:
    """H(key_m, r) of rule 11: members sorted by it propose in that order."""
    return hashlib.sha256(b"demo-node/rank/1\0" + key + round_.to_bytes(8, "big")).digest()


def compute_waiting_hash(record: bytes, peer: bytes) -> bytes:
    """hash(record, peer) of rule 6: breaks ties between candidates that wait equally long."""
    return hashlib.sha256(b"demo-node/waiting/1\0" + record + peer).digest()


def compute_stamp_seed(run_id: bytes, hour: int, peer: bytes) -> bytes:
    """What a stamp of rule 26 is made for: one run, one hour since 1970, one peer."""
    return b"demo-node/stamp/1\0" + run_id + hour.to_bytes(8, "big") + peer


def compute_lot(holder: bytes, round_: int, peer: bytes) -> bytes:
    """Which joins a node keeps where it hears too many: others in every round, and on every node.

    So nobody can choose names that keep another's join out everywhere, nor for long.
    """
    return hashlib.sha256(b"demo-node/lot/1\0" + holder + round_.to_bytes(8, "big") + peer).digest()
