"""Who may join (rule 26): anybody, whoever has worked for it, or those that the manifest lists."""

import hashlib
from functools import lru_cache
from typing import Final

from demo_protocol.identity import compute_stamp_seed
from demo_protocol.manifest import Agreement, Manifest, list_allowed
from demo_protocol.messages import Membership
from demo_protocol.schedule import Schedule, round_start_ms

HOUR_MS: Final = 3_600_000

get_allowed = lru_cache(maxsize=16)(list_allowed)


def compute_hour(schedule: Schedule, round_: int) -> int:
    """The hour since 1970 in which a round begins: a stamp is good for the joins of one hour."""
    return round_start_ms(schedule, round_) // HOUR_MS


def search_stamp(seed: bytes, bits: int, first: int, count: int) -> int | None:
    """The first of `count` nonces from `first` on that is a stamp: SHA-256(seed, nonce) begins with
    `bits` zero bits. About 2^bits nonces are looked at before one is found."""
    below = (1 << (256 - bits)).to_bytes(32, "big")
    begun = hashlib.sha256(seed)
    for nonce in range(first, first + count):
        attempt = begun.copy()
        attempt.update(nonce.to_bytes(8, "big"))
        if attempt.digest() < below:
            return nonce
    return None


def is_listed(peer: bytes, agreement: Agreement) -> bool:
    """May the key be a member at all? Where there is no list, any may."""
    return agreement.admission != "allowlist" or peer in get_allowed(agreement.allowlist)


def is_admitted(wish: Membership, manifest: Manifest, run_id: bytes) -> bool:
    """May a record list this join? One hash, or one look-up; leaves are everybody's right."""
    agreement = manifest.agreement
    if not wish.joins or agreement.admission == "open":
        return True
    if agreement.admission == "allowlist":
        return is_listed(wish.peer, agreement)
    seed = compute_stamp_seed(run_id, compute_hour(manifest.schedule, wish.round), wish.peer)
    return search_stamp(seed, agreement.stamp_bits, wish.nonce, 1) is not None
