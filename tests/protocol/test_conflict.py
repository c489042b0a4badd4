"""A heavier chain with another final record is shown and never adopted silently (rule 19)."""

import pytest

from demo_node.sim.keys import peer_name
from demo_protocol.astray import find_way_back
from demo_protocol.conflict import adopt, judge_conflict
from demo_protocol.effects import BeginAgain, Effect, FinalsConflict
from demo_protocol.events import StartMoved
from demo_protocol.finality import Final
from demo_protocol.replica import Replica
from demo_protocol.view import View
from tests.builders import MANIFEST, Tree, view

LATE = MANIFEST.agreement.late_rounds
NOWHERE = b"?" * 32


def believed(*, has_final: bool = True) -> tuple[View, Tree, bytes]:
    """A node of four members on a chain of two records, of which the first is final."""
    tree = Tree()
    first = tree.grow(tree.start(4), 9, range(4))
    seen = view(me=0, root=tree.state(first))
    head = tree.grow(first, 10, range(4))
    seen.chain.records[head] = tree.chain[head]
    seen.chain.children = {first: [head], head: []}
    seen.begin_at(head, b"8 bytes.")
    seen.final = Final(first, 9, 2) if has_final else None
    seen.round = seen.undisputed = seen.astray_since = 10
    return seen, tree, first


def pass_rounds(seen: View, votes: dict[int, bytes], rounds: int = 2 * LATE + 1) -> list[Effect]:
    """Rounds in which these nodes vote so; what was said in them."""
    said: list[Effect] = []
    for _ in range(rounds):
        seen.round += 1
        for number, vote in votes.items():
            seen.votes.add(peer_name(number), seen.round, vote)
        said += judge_conflict(seen)
    return said


def test_as_many_elsewhere_for_2_l_rounds_are_shown_once_and_so_is_the_end() -> None:
    seen, _, _ = believed()
    apart = dict.fromkeys((0, 1, 2), seen.head) | dict.fromkeys((7, 8, 9), NOWHERE)
    assert pass_rounds(seen, apart, 2 * LATE) == []
    assert seen.conflict is None
    shown = FinalsConflict(NOWHERE, 3, 3)
    assert pass_rounds(seen, apart, 1) == [shown]
    assert pass_rounds(seen, apart, 20) == []
    assert seen.conflict == shown
    joined = dict.fromkeys((0, 1, 2, 7, 8, 9), seen.head)
    assert pass_rounds(seen, joined, 20) == [FinalsConflict(b"", 0, 6)]
    assert seen.conflict is None


def test_fewer_elsewhere_are_theirs_to_see() -> None:
    seen, _, _ = believed()
    assert pass_rounds(seen, {0: seen.head, 1: seen.head, 7: NOWHERE}, 50) == []


@pytest.mark.parametrize(("networks", "shown"), [(1, False), (2, False), (3, True)])
def test_strangers_are_heard_from_three_networks_and_not_from_fewer(
    networks: int, shown: bool
) -> None:
    seen, _, _ = believed()
    crowd = {number: NOWHERE for number in range(20, 60)}
    nets = {peer_name(number): f"net {number % networks}" for number in crowd}
    seen.network_of = lambda peer: nets.get(peer, peer.hex())
    assert bool(pass_rounds(seen, {0: seen.head, **crowd})) == shown


@pytest.mark.parametrize(("ours", "shown"), [(3, True), (4, False)])
def test_strangers_are_heard_from_as_many_networks_as_ours_are(ours: int, shown: bool) -> None:
    seen, _, _ = believed()
    crowd = {number: NOWHERE for number in range(20, 60)}
    nets: dict[bytes, str | None] = {peer_name(n): f"net {n % 3}" for n in crowd}
    nets[peer_name(0)] = None  # nobody knows its own
    seen.network_of = lambda peer: nets.get(peer, peer.hex())
    assert bool(pass_rounds(seen, {**dict.fromkeys(range(ours), seen.head), **crowd})) == shown


def test_networks_that_are_not_known_are_none_and_voters_need_none() -> None:
    for authors, shown in ((range(20, 60), False), ((1, 2, 3), True)):
        seen, _, _ = believed()
        seen.network_of = lambda peer: None
        assert bool(pass_rounds(seen, {0: seen.head, **dict.fromkeys(authors, NOWHERE)})) == shown


def test_whoever_is_behind_our_final_record_is_on_neither_side() -> None:
    seen, tree, _ = believed()
    older = tree.chain[tree.chain[seen.final_record or b""].parent]
    seen.chain.records[older.hash] = older  # as where the chain goes back further
    votes = {0: seen.head, 1: older.hash, 2: older.hash, 3: older.hash}
    assert pass_rounds(seen, votes, 50) == []


def test_a_branch_that_forks_off_below_the_final_record_conflicts_and_one_above_does_not() -> None:
    for below in (True, False):
        tree = Tree()
        start = tree.start(4)
        final = tree.grow(start, 9, range(4))
        head = tree.grow(final, 10, range(4))
        parent = start if below else final
        branch = tree.grow(parent, 11, range(4), by=tree.ranked(parent, 11)[1])
        seen = view(me=0, root=tree.state(start))
        seen.chain = tree.chain
        seen.begin_at(head, b"8 bytes.")
        seen.final = Final(final, 9, 2)
        votes = {0: head, 1: branch, 2: branch, 3: branch}
        assert bool(pass_rounds(seen, votes)) == below


def test_votes_of_long_ago_and_of_who_signed_twice_show_nothing() -> None:
    seen, _, _ = believed()
    pass_rounds(seen, {1: NOWHERE, 2: NOWHERE}, 1)
    assert pass_rounds(seen, {0: seen.head}, 50) == []
    seen, _, _ = believed()
    for liar in (1, 2):
        seen.votes.add_equivocation(peer_name(liar), 11)
    assert pass_rounds(seen, {0: seen.head, 1: NOWHERE, 2: NOWHERE}, 50) == []


def test_without_a_final_record_nothing_conflicts_and_the_others_snapshot_is_taken() -> None:
    seen, _, _ = believed(has_final=False)
    votes = {0: seen.head, 1: NOWHERE, 2: NOWHERE, 3: NOWHERE}
    assert pass_rounds(seen, votes) == []
    assert find_way_back(seen) == [BeginAgain(0)]


def test_with_a_final_record_it_is_not_taken_silently() -> None:
    seen, _, first = believed()
    votes = {0: seen.head, 1: NOWHERE, 2: NOWHERE, 3: NOWHERE}
    assert pass_rounds(seen, votes) == [FinalsConflict(NOWHERE, 3, 1)]
    assert find_way_back(seen) == []
    # A chain that begins after the final record cannot tell: theirs must lead through it.
    seen.chain.prune(seen.head)
    assert find_way_back(seen) == [BeginAgain(0, through=first)]


def test_records_named_since_it_began_can_be_adopted_by_prefix() -> None:
    seen, _, _ = believed()
    for number in range(2 * LATE + 3):
        pass_rounds(seen, {0: seen.head, 1: bytes([number]) * 32, 2: bytes([number]) * 32}, 1)
    assert adopt(seen, "03030303") == BeginAgain(0, adopts=(b"\3" * 32,))
    assert adopt(seen, "0A" * 32) == BeginAgain(0, adopts=(b"\n" * 32,))
    with pytest.raises(LookupError, match=f"demo-node status shows one: {'0e' * 8}"):
        adopt(seen, "ffffffff")
    assert adopt(seen, "ff" * 32) == BeginAgain(0, adopts=(b"\xff" * 32,))  # peers may know it
    pass_rounds(seen, dict.fromkeys((0, 1, 2), seen.head), 1)
    for prefix in ("03030303", "03" * 32):
        with pytest.raises(LookupError, match="nothing to adopt"):
            adopt(seen, prefix)


def test_a_prefix_that_does_not_name_one_record_adopts_none() -> None:
    seen, _, _ = believed()
    alike = [b"\3" * 31 + bytes([last]) for last in range(2 * LATE + 3)]
    for record in alike:
        pass_rounds(seen, {0: seen.head, 1: record, 2: record}, 1)
    for prefix in ("", "0303030", "0303 303", "zz" * 32, "03" * 33, "03030303\n"):
        with pytest.raises(LookupError, match="give 8 to 64 hexadecimal digits"):
            adopt(seen, prefix)
    with pytest.raises(LookupError, match="records begin with 03030303: give more of its digits"):
        adopt(seen, "03030303")
    assert adopt(seen, alike[-1].hex()) == BeginAgain(0, adopts=(alike[-1],))


def test_rivals_are_remembered_for_forget_rounds_and_no_longer() -> None:
    seen, _, _ = believed()
    rounds = MANIFEST.agreement.forget_rounds
    for number in range(rounds + 50):
        vote = number.to_bytes(2, "big") * 16
        pass_rounds(seen, {0: seen.head, 1: vote, 2: vote}, 1)
    assert len(seen.rivals) == rounds + 1


@pytest.mark.parametrize("adopted", [True, False])
def test_only_by_command_a_node_is_on_another_chain_and_without_its_old_final(
    adopted: bool,
) -> None:
    seen, _, _ = believed()
    pass_rounds(seen, {0: seen.head, 1: NOWHERE, 2: NOWHERE})
    final = seen.final
    other = Tree()
    record = other.start(3)
    Replica(seen).on_start_moved(StartMoved(0, other.state(record), b"8 bytes.", adopted))
    assert seen.head == record
    assert seen.final == (None if adopted else final)
    assert bool(seen.rivals) is not adopted
