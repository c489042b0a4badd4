"""Keys, runs and signed messages of the protocol vectors. Everything is fixed: no dice."""

import hashlib
from dataclasses import replace

from demo_node.store.key import NodeKey
from demo_protocol.manifest import (
    Agreement,
    Data,
    Learning,
    Manifest,
    Model,
    compute_run_id,
)
from demo_protocol.messages import (
    Header,
    Membership,
    Proposal,
    Sealed,
    seal_header,
    seal_membership,
    seal_proposal,
)
from demo_protocol.payload import typical_payload_bytes
from demo_protocol.schedule import Schedule
from demo_protocol.schema import compute_schema

KEYS = tuple(NodeKey(bytes([number]) * 32) for number in range(18))
"""Known test keys: seed n is 32 times the byte n."""

PEERS = tuple(key.public for key in KEYS)

MANIFEST = Manifest(
    name="vectors",
    seed=7,
    schedule=Schedule(
        genesis_ms=1_700_000_000_000,
        round_ms=10_000,
        train_bps=5_500,
        contribute_bps=2_000,
        propose_bps=1_500,
        slots=3,
        slot_offset_ms=400,
        skew_max_ms=200,
    ),
    agreement=Agreement(
        late_rounds=2,
        expire_rounds=3,
        forget_rounds=60,
        probation=2,
        final_depth=3,
        final_min_records=3,
        contributors=0,
        snapshot_every=4,
        payload_window_rounds=10,
    ),
    model=Model(layers=1, width=64, hidden=64, heads=2, context=16),
    learning=Learning(k=2, samples_start=8, weight_decay_ppb=100_000_000, lr_warmup_rounds=3),
    data=Data(kind="stdlib-bytes", root="ab" * 32, train_bytes=10_000, heldout_bytes=1_000),
)
RUN_ID = compute_run_id(MANIFEST)

STAMPED = replace(MANIFEST, agreement=replace(MANIFEST.agreement, admission="stamp", stamp_bits=12))

PAYLOAD_BYTES = typical_payload_bytes(compute_schema(MANIFEST.model), 1)


def number_of(peer: bytes) -> int:
    """Which test key a peer has."""
    return PEERS.index(peer)


def digest_after(record: bytes) -> bytes:
    """Made up: nobody trains here."""
    return hashlib.sha256(b"state after " + record).digest()[:8]


def make_header(
    author: int, round_: int, base: bytes, *, k: int = 1, samples: int = 16
) -> Sealed[Header]:
    """A header that votes for its base; `k` 0: a heartbeat."""
    name = hashlib.sha256(f"payload of {author} in {round_}".encode()).digest()
    header = Header(
        round=round_,
        peer=PEERS[author],
        base=base,
        digest=digest_after(base),
        vote=base,
        payload_hash=name if k else b"",
        payload_bytes=PAYLOAD_BYTES if k else 0,
        k=k,
        samples=samples if k else 0,
        loss_micronats=2_000_000 + author if k else 0,
    )
    return seal_header(header, RUN_ID, KEYS[author].sign)


def make_wish(
    author: int,
    round_: int,
    *,
    joins: bool = True,
    never_drawn: bool = False,
    nonce: int = 0,
    run_id: bytes = RUN_ID,
) -> Sealed[Membership]:
    """A join or a leave."""
    wish = Membership(
        joins=joins, peer=PEERS[author], round=round_, never_drawn=never_drawn, nonce=nonce
    )
    return seal_membership(wish, run_id, KEYS[author].sign)


def sign_proposal(author: int, proposal: Proposal) -> Sealed[Proposal]:
    """By its author's key."""
    return seal_proposal(proposal, RUN_ID, KEYS[author].sign)
