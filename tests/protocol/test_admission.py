"""Rule 26: who may join a run that asks for work, or lists its nodes."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_node.sim.keys import cheap_sign, peer_name
from demo_protocol.admission import HOUR_MS, compute_hour, is_admitted, search_stamp
from demo_protocol.asking import Asking
from demo_protocol.effects import Announce, MakeStamp
from demo_protocol.errors import ConfigError, Reject
from demo_protocol.events import GossipReceived, StampMade
from demo_protocol.identity import Kind, compute_stamp_seed
from demo_protocol.limits import ALLOWED_MAX, MEMBERSHIP_BYTES_MAX
from demo_protocol.manifest import (
    Agreement,
    Manifest,
    decode_manifest,
    encode_manifest,
    join_allowed,
    list_allowed,
    validate_manifest,
)
from demo_protocol.messages import Membership, Sealed, decode_membership, seal_membership
from demo_protocol.receive import on_gossip
from demo_protocol.round import Round
from demo_protocol.schedule import round_start_ms
from demo_protocol.view import View
from tests.builders import Tree, manifest, proposal, run_id_of, schedule, view

BITS = 8
STAMPED = manifest(agreement=Agreement(admission="stamp", stamp_bits=BITS))
LISTED = manifest(
    agreement=Agreement(admission="allowlist", allowlist=join_allowed(map(peer_name, range(4))))
)
ROUNDS_PER_HOUR = HOUR_MS // STAMPED.schedule.round_ms


def stamp_of(run: Manifest, author: int, round_: int) -> int:
    hour = compute_hour(run.schedule, round_)
    seed = compute_stamp_seed(run_id_of(run), hour, peer_name(author))
    nonce = search_stamp(seed, run.agreement.stamp_bits, 0, 1 << 16)
    assert nonce is not None
    return nonce


def join(run: Manifest, author: int, round_: int, nonce: int = 0) -> Sealed[Membership]:
    wish = Membership(joins=True, peer=peer_name(author), round=round_, nonce=nonce)
    return seal_membership(wish, run_id_of(run), cheap_sign(peer_name(author)))


# --- stamps --------------------------------------------------------------------------------------


@given(seed=st.binary(max_size=80), bits=st.integers(1, 10))
def test_a_stamp_is_the_first_nonce_whose_hash_begins_with_so_many_zero_bits(
    seed: bytes, bits: int
) -> None:
    nonce = search_stamp(seed, bits, 0, 1 << 14)
    assert nonce is not None
    for tried in range(nonce + 1):
        digest = hashlib.sha256(seed + tried.to_bytes(8, "big")).digest()
        assert (int.from_bytes(digest) >> (256 - bits) == 0) is (tried == nonce)


def test_a_search_goes_on_where_it_stopped() -> None:
    nonce = search_stamp(b"seed", 10, 0, 1 << 16)
    assert nonce is not None
    assert nonce > 100
    slices = [search_stamp(b"seed", 10, first, 50) for first in range(0, nonce + 50, 50)]
    assert next(found for found in slices if found is not None) == nonce
    assert slices.index(nonce) == nonce // 50


def test_a_join_with_its_stamp_is_admitted_and_without_it_is_not() -> None:
    nonce = stamp_of(STAMPED, 1, 5)
    assert is_admitted(join(STAMPED, 1, 5, nonce).body, STAMPED, run_id_of(STAMPED))
    assert not is_admitted(join(STAMPED, 1, 5, nonce + 1).body, STAMPED, run_id_of(STAMPED))


def test_a_stamp_is_of_one_peer_one_run_and_one_hour() -> None:
    nonce = next(  # one that happens to be nobody else's
        n
        for n in range(1 << 16)
        if is_admitted(join(STAMPED, 1, 5, n).body, STAMPED, run_id_of(STAMPED))
        and not is_admitted(join(STAMPED, 2, 5, n).body, STAMPED, run_id_of(STAMPED))
        and not is_admitted(join(STAMPED, 1, 5, n).body, STAMPED, b"another run".ljust(32))
        and not is_admitted(
            join(STAMPED, 1, 5 + ROUNDS_PER_HOUR, n).body, STAMPED, run_id_of(STAMPED)
        )
    )
    hour = compute_hour(STAMPED.schedule, 5)
    same = [r for r in range(3 * ROUNDS_PER_HOUR) if compute_hour(STAMPED.schedule, r) == hour]
    assert 5 in same
    assert len(same) <= ROUNDS_PER_HOUR
    for round_ in (same[0], same[-1]):
        assert is_admitted(join(STAMPED, 1, round_, nonce).body, STAMPED, run_id_of(STAMPED))


def test_hours_are_those_of_the_clock_on_the_wall() -> None:
    timing = schedule()
    for round_ in range(0, 5_000, 7):
        hour = compute_hour(timing, round_)
        assert hour * HOUR_MS <= round_start_ms(timing, round_) < (hour + 1) * HOUR_MS


@pytest.mark.parametrize("run", [STAMPED, LISTED], ids=["stamp", "allowlist"])
def test_a_leave_needs_neither(run: Manifest) -> None:
    leave = Membership(joins=False, peer=peer_name(9), round=5)
    assert is_admitted(leave, run, run_id_of(run))


def test_the_largest_nonce_fits_a_join() -> None:
    wish = join(STAMPED, 1, 2**32 - 1, 2**64 - 1)
    assert len(wish.raw) <= MEMBERSHIP_BYTES_MAX
    assert decode_membership(wish.raw, run_id_of(STAMPED)) == wish


# --- what others send ----------------------------------------------------------------------------


def hear(believed: View, sealed: Sealed[Membership]) -> None:
    now_ms = round_start_ms(believed.manifest.schedule, sealed.body.round)
    on_gossip(believed, GossipReceived(now_ms, Kind.MEMBERSHIP, sealed.raw, peer_name(77)))


def test_a_join_that_is_not_admitted_is_rejected_before_its_signature_is_looked_at() -> None:
    looked: list[bytes] = []

    def verify(key: bytes, message: bytes, signature: bytes) -> bool:
        looked.append(key)
        return True

    for run, good, bad in (
        (STAMPED, join(STAMPED, 9, 5, stamp_of(STAMPED, 9, 5)), join(STAMPED, 9, 5, 2**40)),
        (LISTED, join(LISTED, 3, 5), join(LISTED, 9, 5)),
    ):
        believed = view(run)
        believed.verify = verify
        with pytest.raises(Reject, match="admitted"):
            hear(believed, bad)
        assert not believed.pool.wishes
        assert not looked
        hear(believed, good)
        assert list(believed.pool.wishes) == looked
        looked.clear()


def test_a_record_that_lists_such_a_join_is_rejected_by_everybody() -> None:
    tree = Tree(LISTED)
    record = tree.start(4)
    sealed = tree.propose(record, 1, range(4), joins=[9])
    with pytest.raises(Reject, match="admitted"):
        tree.add(sealed)


def test_a_record_lists_joins_with_their_stamps() -> None:
    tree = Tree(STAMPED)
    run_id = run_id_of(STAMPED)
    body = tree.propose(tree.genesis, 0, [0]).body
    for nonce, is_taken in ((stamp_of(STAMPED, 0, 0), True), (2**40, False)):
        sealed = proposal(
            0,
            0,
            run_id,
            run=STAMPED,
            contributions=[tree.headers[name] for name in body.contributions],
            joins=[join(STAMPED, 0, 0, nonce)],
        )
        if is_taken:
            assert tree.members(tree.add(sealed).hash) == {peer_name(0)}
        else:
            with pytest.raises(Reject, match="admitted"):
                tree.add(sealed)


# --- what a node does about it -------------------------------------------------------------------


def asked(believed: View, asking: Asking, round_: int) -> Membership | MakeStamp | None:
    effects = asking.ask(round_, leaving=False, never_drawn=False)
    if not effects:
        return None
    (effect,) = effects
    if isinstance(effect, Announce):
        return decode_membership(effect.raw, believed.run_id).body
    assert isinstance(effect, MakeStamp)
    return effect


def test_a_node_asks_for_a_stamp_once_an_hour_and_joins_with_it() -> None:
    believed = view(STAMPED)
    asking = Asking(believed)
    order = asked(believed, asking, 5)
    assert isinstance(order, MakeStamp)
    assert asked(believed, asking, 6) is None  # it is being made
    nonce = search_stamp(order.seed, order.bits, 0, 1 << 16)
    assert nonce is not None
    asking.stamp = StampMade(0, order.hour, nonce)
    for round_ in (7, 8):
        wish = asked(believed, asking, round_)
        assert isinstance(wish, Membership)
        assert is_admitted(wish, STAMPED, believed.run_id)
    another = asked(believed, asking, 8 + ROUNDS_PER_HOUR)
    assert isinstance(another, MakeStamp)
    assert another.hour == order.hour + 1


def test_a_stamp_that_came_is_used_at_once() -> None:
    machine = Round(view(STAMPED))
    machine.view.round = 5
    (order,) = machine._announce_membership(5)
    assert isinstance(order, MakeStamp)
    nonce = search_stamp(order.seed, order.bits, 0, 1 << 16)
    assert nonce is not None
    now_ms = round_start_ms(STAMPED.schedule, 5) + 100
    effects = machine.step(StampMade(now_ms, order.hour, nonce))
    (sent,) = [e for e in effects if isinstance(e, Announce) and e.kind is Kind.MEMBERSHIP]
    wish = decode_membership(sent.raw, machine.view.run_id).body
    assert (wish.round, wish.nonce) == (5, nonce)


def test_who_leaves_makes_no_stamp_and_who_is_in_asks_for_nothing() -> None:
    tree = Tree(LISTED)
    state = replace(tree.state(tree.start(4)))
    run = replace(LISTED, agreement=replace(STAMPED.agreement))
    believed = view(run, me=0)
    believed.chain.records[believed.head] = replace(
        believed.chain[believed.head], state=replace(state, record=believed.head)
    )
    asking = Asking(believed)
    assert asked(believed, asking, 5) is None
    (leave,) = asking.ask(5, leaving=True, never_drawn=False)
    assert isinstance(leave, Announce)


# --- the manifest --------------------------------------------------------------------------------


@given(st.sets(st.binary(min_size=32, max_size=32), min_size=1, max_size=20))
def test_a_list_of_keys_has_one_form(peers: set[bytes]) -> None:
    text = join_allowed(peers)
    assert list_allowed(text) == peers
    assert join_allowed(sorted(peers)[::-1] * 2) == text
    run = manifest(agreement=Agreement(admission="allowlist", allowlist=text))
    validate_manifest(run)
    assert decode_manifest(encode_manifest(run)) == run


A, B = "aa" * 32, "bb" * 32


@pytest.mark.parametrize(
    ("key", "agreement"),
    [
        ("admission", Agreement(admission="invite")),
        ("stamp_bits", Agreement(admission="stamp")),
        ("stamp_bits", Agreement(admission="stamp", stamp_bits=33)),
        ("stamp_bits", Agreement(stamp_bits=5)),
        ("stamp_bits", Agreement(admission="allowlist", allowlist=A, stamp_bits=1)),
        ("allowlist", Agreement(admission="allowlist")),
        ("allowlist", Agreement(allowlist=A)),
        ("allowlist", Agreement(admission="stamp", stamp_bits=5, allowlist=A)),
        ("allowlist", Agreement(admission="allowlist", allowlist=f"{B},{A}")),
        ("allowlist", Agreement(admission="allowlist", allowlist=f"{A},{A}")),
        ("allowlist", Agreement(admission="allowlist", allowlist=A.upper())),
        ("allowlist", Agreement(admission="allowlist", allowlist=A[:-1])),
        ("allowlist", Agreement(admission="allowlist", allowlist=f"{A},")),
        (
            "allowlist",
            Agreement(
                admission="allowlist",
                allowlist=join_allowed(n.to_bytes(32, "big") for n in range(ALLOWED_MAX + 1)),
            ),
        ),
    ],
)
def test_a_manifest_that_nobody_could_go_by_is_refused(key: str, agreement: Agreement) -> None:
    with pytest.raises(ConfigError, match=f"agreement.{key}: must be"):
        validate_manifest(manifest(agreement=agreement))


def test_the_longest_list_fits_a_manifest() -> None:
    longest = join_allowed(n.to_bytes(32, "big") for n in range(ALLOWED_MAX))
    run = manifest(agreement=Agreement(admission="allowlist", allowlist=longest))
    validate_manifest(run)
    assert decode_manifest(encode_manifest(run)) == run
