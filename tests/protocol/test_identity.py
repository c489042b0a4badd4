"""Rules T7 and 11: what is signed, what names it, what orders peers."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from demo_node.sim.keys import cheap_sign, cheap_verify
from demo_node.store.key import generate_key, verify
from demo_protocol.identity import (
    Kind,
    Sign,
    Verify,
    compute_hash,
    compute_key,
    compute_rank_hash,
    compute_waiting_hash,
    signing_bytes,
)

RUN, OTHER_RUN, PEER = b"r" * 32, b"s" * 32, b"p" * 32


def test_rule_t7_the_signature_covers_kind_run_and_body() -> None:
    variants = {
        signing_bytes(kind, run, body)
        for kind in Kind
        for run in (RUN, OTHER_RUN)
        for body in (b"", b"body")
    }
    assert len(variants) == len(Kind) * 2 * 2
    assert signing_bytes(Kind.HEADER, RUN, b"body") == b"demo-node/header/1\0" + RUN + b"body"


def test_rule_t7_a_signature_of_one_kind_is_none_of_another() -> None:
    key = generate_key()
    signers: list[tuple[bytes, Sign, Verify]] = [
        (key.public, key.sign, verify),
        (PEER, cheap_sign(PEER), cheap_verify),
    ]
    for public, sign, check in signers:
        signature = sign(signing_bytes(Kind.HEADER, RUN, b"body"))
        assert check(public, signing_bytes(Kind.HEADER, RUN, b"body"), signature)
        assert not check(public, signing_bytes(Kind.PROPOSAL, RUN, b"body"), signature)
        assert not check(public, signing_bytes(Kind.HEADER, OTHER_RUN, b"body"), signature)
        assert not check(public, signing_bytes(Kind.HEADER, RUN, b"bodz"), signature)


def test_hashes_of_different_purposes_never_meet() -> None:
    record, peer = b"a" * 32, b"b" * 32
    hashes = [
        compute_hash(Kind.HEADER, record, peer),
        compute_hash(Kind.PROPOSAL, record, peer),
        compute_key(record, peer),
        compute_waiting_hash(record, peer),
        compute_rank_hash(record, 0),
    ]
    assert all(a != b for a, b in itertools.combinations(hashes, 2))


@given(
    admitted=st.lists(st.binary(min_size=32, max_size=32), min_size=2, max_size=2, unique=True),
    round_=st.integers(0, 2**32 - 1),
)
def test_rule_11_the_order_depends_on_the_admitting_record_the_peer_and_the_round(
    admitted: list[bytes], round_: int
) -> None:
    one, other = (compute_key(record, PEER) for record in admitted)
    assert one != other
    assert compute_rank_hash(one, round_) != compute_rank_hash(other, round_)
    assert compute_rank_hash(one, round_) != compute_rank_hash(one, round_ + 1)
    assert compute_key(admitted[0], b"q" * 32) != one
