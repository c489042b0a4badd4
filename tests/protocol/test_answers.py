"""Answers to pulls: they round-trip, garbage is rejected, counts are bounded."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_protocol.answers import (
    HeadAnswer,
    decode_bundle,
    decode_chain_state,
    decode_head,
    decode_links,
    decode_peers,
    decode_records,
    encode_bundle,
    encode_chain_state,
    encode_head,
    encode_peers,
    encode_records,
)
from demo_protocol.chain import make_bundle
from demo_protocol.errors import Reject
from demo_protocol.events import Bundle
from demo_protocol.limits import (
    ADDRESS_BYTES_MAX,
    ADDRESSES_MAX,
    CONTRIBUTIONS_MAX,
    RECORDS_PER_REPLY_MAX,
)
from demo_protocol.pb import wire_pb2
from demo_protocol.roster import SAMPLES_HISTORY, ChainState
from tests.builders import RUN_ID, Tree, header, proposal

hashes = st.binary(min_size=32, max_size=32)
bundles = st.builds(
    Bundle, st.binary(max_size=50), st.lists(st.binary(max_size=50), max_size=5).map(tuple)
)


@given(st.lists(bundles, max_size=5))
def test_records_round_trip_oldest_first(given_bundles: list[Bundle]) -> None:
    raws = [encode_bundle(bundle) for bundle in given_bundles]
    assert [decode_bundle(raw) for raw in raws] == given_bundles
    assert decode_records(encode_records(raws)) == tuple(given_bundles)


@given(head=hashes, round_=st.integers(0, 2**32 - 1), size=st.integers(0, 2**40), has=st.booleans())
def test_a_head_answer_round_trips_with_and_without_a_snapshot(
    head: bytes, round_: int, size: int, has: bool
) -> None:
    answer = HeadAnswer(
        head=head,
        round=round_,
        snapshot_record=head if has else b"",
        height=round_,
        syncing=has,
        final=head[1:] + b"f" if has else b"",
        snapshot_root=head[1:] + b"r" if has else b"",
        payloads_from=round_ // 2,
    )
    assert decode_head(encode_head(answer)) == answer


@pytest.mark.parametrize("field", ["final", "snapshot_root"])
def test_a_head_answer_with_half_a_hash_is_rejected(field: str) -> None:
    message = wire_pb2.Head(head=bytes(32))
    setattr(message, field, bytes(31))
    with pytest.raises(Reject):
        decode_head(message.SerializeToString())


def test_a_head_at_the_genesis_is_given_as_round_0() -> None:
    answer = HeadAnswer(
        head=bytes(32),
        round=-1,
        snapshot_record=b"",
        height=0,
        syncing=True,
    )
    assert decode_head(encode_head(answer)).round == 0


def test_addresses_round_trip_and_only_so_many_are_given() -> None:
    many = [f"/ip4/127.0.0.1/tcp/{port}" for port in range(ADDRESSES_MAX + 9)]
    assert decode_peers(encode_peers(many)) == tuple(many[:ADDRESSES_MAX])


def states() -> list[ChainState]:
    """Genesis; members, candidates, leavers and credits; the same long after."""
    tree = Tree()
    record = tree.start(4)
    for round_ in range(1, 5):
        record = tree.grow(record, round_, [0, 1, 2])
    record = tree.grow(record, 5, [0, 1, 9], joins=[9], leaves=[2], late=[header(3, 3)])
    late = record
    for round_ in range(6, 20):
        late = tree.grow(late, round_, [0, 1, 9])
    return [tree.state(r) for r in (tree.genesis, record, late)]


@pytest.mark.parametrize("state", states(), ids=["genesis", "mixed", "late"])
def test_the_chains_state_round_trips(state: ChainState) -> None:
    assert decode_chain_state(encode_chain_state(state)) == state


def test_equal_states_have_equal_bytes_in_whatever_order_peers_became_known() -> None:
    state = states()[1]
    shuffled = replace(state, known=dict(reversed(list(state.known.items()))))
    assert shuffled == state
    assert encode_chain_state(shuffled) == encode_chain_state(state)


DECODERS: list[Callable[[bytes], object]] = [
    decode_bundle,
    decode_records,
    decode_head,
    decode_peers,
    decode_chain_state,
]


@pytest.mark.parametrize("decode", DECODERS)
@given(raw=st.binary(max_size=300))
def test_garbage_is_decoded_or_rejected_and_nothing_else(
    decode: Callable[[bytes], object], raw: bytes
) -> None:
    try:
        decode(raw)
    except Reject:
        return


@given(at=st.integers(0, 10**4), flip=st.integers(1, 255))
def test_a_chain_state_with_one_byte_changed_is_decoded_or_rejected(at: int, flip: int) -> None:
    raw = bytearray(encode_chain_state(STATE))
    raw[at % len(raw)] ^= flip
    try:
        state = decode_chain_state(bytes(raw))
    except Reject:
        return
    assert state != STATE or encode_chain_state(state) == encode_chain_state(STATE)


STATE = states()[1]


@pytest.mark.parametrize(
    ("decode", "raw"),
    [
        (decode_records, encode_records([b""] * (RECORDS_PER_REPLY_MAX + 1))),
        (decode_bundle, encode_bundle(Bundle(b"", (b"",) * (CONTRIBUTIONS_MAX + 1)))),
        (decode_peers, encode_peers(["x" * (ADDRESS_BYTES_MAX + 1)])),
        (decode_head, b""),
        (decode_chain_state, encode_chain_state(replace(STATE, record=b"short"))),
        (decode_chain_state, encode_chain_state(replace(STATE, credits=frozenset({(1, b"x")})))),
    ],
)
def test_impossible_answers_are_rejected(decode: Callable[[bytes], object], raw: bytes) -> None:
    with pytest.raises(Reject):
        decode(raw)


@pytest.mark.parametrize(
    "change",
    [
        {"peer": b"short"},
        {"admitted_by": b"short"},
        {"samples": (1,) * (SAMPLES_HISTORY + 1)},
    ],
)
def test_a_chain_state_with_an_impossible_member_is_rejected(change: dict[str, object]) -> None:
    peer, member = next(iter(STATE.known.items()))
    known = {**STATE.known, peer: replace(member, **change)}  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(Reject):
        decode_chain_state(encode_chain_state(replace(STATE, known=known)))


def test_a_chain_state_with_a_peer_twice_is_rejected() -> None:
    member = next(iter(STATE.known.values()))
    doubled = {b"a": member, b"b": member}
    with pytest.raises(Reject):
        decode_chain_state(encode_chain_state(replace(STATE, known=doubled)))


def test_an_answer_about_a_record_holds_it_and_its_ancestors_and_nothing_else() -> None:
    tree = Tree()
    records = [tree.start(2)]
    for round_ in range(1, 5):
        records.append(tree.grow(records[-1], round_, range(2)))
    chain = [make_bundle(tree.chain[record]) for record in records]
    links = decode_links(chain[1:4], RUN_ID, records[3])
    assert [(link.record, link.parent, link.round) for link in links] == [
        (records[number], records[number - 1], number) for number in (3, 2, 1)
    ]
    for lie in (chain[1:3], [chain[1], chain[3]], [chain[3], chain[2]], chain[:5]):
        with pytest.raises(Reject):
            decode_links(lie, RUN_ID, records[3])
    later = proposal(0, 9, records[2])
    backwards = proposal(0, 9, later.hash)
    with pytest.raises(Reject):
        decode_links([Bundle(p.raw, ()) for p in (later, backwards)], RUN_ID, backwards.hash)
