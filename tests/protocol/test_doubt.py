"""Rule 20: who is accused, what is replayed, and what becomes of it."""

import pytest

from demo_node.sim.keys import peer_name
from demo_protocol.doubt import Doubts, find_accusation, find_verified, is_vindicated
from demo_protocol.effects import FaultCleared, PullPayload, Replay, ReplayAgreed, StateFault
from demo_protocol.events import StatesLost
from demo_protocol.limits import ACCUSERS_MIN, REPLAYS_PER_HOUR_MAX
from demo_protocol.manifest import Agreement, Manifest
from demo_protocol.replica import Replica
from demo_protocol.roster import get_contributors
from demo_protocol.view import View
from tests.builders import MANIFEST, Tree, header, manifest, view
from tests.protocol.hearing import bundle, give

OURS, THEIRS, OTHERS = b"ours....", b"theirs..", b"others.."
MEMBERS = 7
ROUNDS = 6


def grown(rounds: int = ROUNDS, run: Manifest = MANIFEST) -> tuple[View, list[bytes]]:
    """Node 0 of seven members, in the round after the last of these records; all are applied."""
    tree = Tree(run)
    records = [tree.start(MEMBERS)]
    for round_ in range(1, rounds):
        due = get_contributors(tree.state(records[-1]), round_, run.agreement)
        authors = [n for n in range(MEMBERS) if due is None or peer_name(n) in due]
        records.append(tree.grow(records[-1], round_, authors))
    believed = view(run=run)
    give(believed, *(bundle(tree, record) for record in records))
    believed.digests |= dict.fromkeys(records, OURS)
    believed.head, believed.round = records[-1], rounds
    return believed, records


def say(believed: View, digest: bytes, *authors: int, base: bytes | None = None) -> None:
    """These nodes announce what they have after `base`, or after our head, in this round."""
    for author in authors:
        sealed = header(author, believed.round, base=base or believed.head, digest=digest)
        believed.pool.add_header(sealed)
        believed.votes.add(sealed.body.peer, believed.round, believed.head)


def is_accused(believed: View) -> bool:
    return find_accusation(believed) is not None


@pytest.mark.parametrize(
    ("theirs", "ours", "accused"), [(3, 3, False), (4, 2, True), (3, 2, False), (3, 1, True)]
)
def test_it_takes_more_than_half_of_all_members_headers_ours_among_them(
    theirs: int, ours: int, accused: bool
) -> None:
    believed, _ = grown()
    say(believed, THEIRS, *range(1, 1 + theirs))
    say(believed, OURS, *range(1 + theirs, 1 + theirs + ours))
    assert is_accused(believed) is accused


def test_fewer_than_three_others_are_not_most_however_few_there_are() -> None:
    believed, _ = grown()
    say(believed, THEIRS, *range(1, ACCUSERS_MIN))
    assert not is_accused(believed)
    say(believed, THEIRS, ACCUSERS_MIN)
    assert is_accused(believed)


def test_they_must_be_of_three_networks_that_are_known() -> None:
    believed, _ = grown()
    say(believed, THEIRS, *range(1, MEMBERS))
    networks = {peer_name(n): "a" if n < 4 else "b" for n in range(MEMBERS)}
    believed.network_of = networks.get
    assert not is_accused(believed)
    del networks[peer_name(6)]  # nobody knows where it is: that makes no third one
    assert not is_accused(believed)
    networks[peer_name(6)] = "c"
    assert is_accused(believed)


def test_those_who_do_not_agree_with_each_other_accuse_nobody() -> None:
    believed, _ = grown()
    say(believed, THEIRS, 1, 2, 3)
    say(believed, OTHERS, 4, 5, 6)
    assert not is_accused(believed)


def test_a_few_liars_cannot_choose_a_base_where_they_are_most() -> None:
    believed, records = grown()
    say(believed, THEIRS, 1, 2, 3, base=records[-2])
    say(believed, OURS, 4, 5, 6)
    assert not is_accused(believed)


def test_strangers_and_those_who_sign_twice_have_no_voice() -> None:
    believed, _ = grown()
    say(believed, THEIRS, 1, 2, 3, *range(50, 70))
    say(believed, OURS, 4, 5, 6)
    assert not is_accused(believed)
    for author in (4, 5, 6):
        believed.votes.add_equivocation(peer_name(author), believed.round)
    assert is_accused(believed)


def test_of_a_state_that_is_not_here_nothing_is_said() -> None:
    believed, records = grown()
    del believed.digests[records[-1]]
    say(believed, THEIRS, *range(1, MEMBERS))
    assert not is_accused(believed)


# --- where contributors are drawn ----------------------------------------------------------------

DRAWN = manifest(agreement=Agreement(contributors=3))


def drawn() -> tuple[View, list[bytes]]:
    """As `grown`, of a run where three of the seven are drawn a round; none is heard yet."""
    believed, records = grown(ROUNDS, DRAWN)
    believed.pool.by_round.clear()
    return believed, records


def test_liars_who_are_a_whole_committee_once_accuse_nobody() -> None:
    believed, _ = drawn()
    say(believed, THEIRS, 4, 5, 6)
    believed.round += 1
    say(believed, OURS, 1, 2, 3)
    believed.round += 1
    say(believed, THEIRS, 4, 5, 6)
    assert not is_accused(believed)


def test_most_members_over_the_last_rounds_accuse_though_no_base_is_named_by_most() -> None:
    believed, records = drawn()
    say(believed, THEIRS, 1, 2, 3, base=records[-2])
    assert not is_accused(believed)
    believed.round += 1
    say(believed, OTHERS, 4, 5, base=records[-1])
    assert is_accused(believed)
    believed.round += 1
    say(believed, OURS, 4, 5, base=records[-1])  # the newest word of each
    assert not is_accused(believed)


def test_what_was_said_more_than_l_rounds_ago_accuses_nobody() -> None:
    believed, _ = drawn()
    say(believed, THEIRS, *range(1, MEMBERS))
    believed.round += DRAWN.agreement.late_rounds
    assert is_accused(believed)
    believed.round += 1
    assert not is_accused(believed)


def test_who_was_drawn_and_is_silent_is_not_of_the_accusers() -> None:
    believed, _ = drawn()
    say(believed, THEIRS, 1, 2, 3)
    assert len(frozenset().union(*believed.head_state.due.values()) - {believed.me}) >= 5
    assert not is_accused(believed)
    say(believed, THEIRS, 4, 5)
    assert is_accused(believed)


def test_a_witness_comes_back_though_only_its_accusers_are_heard_once_they_are_few() -> None:
    believed, records = drawn()
    doubts = Doubts(believed)
    say(believed, THEIRS, *range(1, MEMBERS))
    assert [type(effect) for effect in doubts.judge()] == [Replay]
    assert [type(effect) for effect in doubts.on_applied(records[-1])] == [StateFault]
    believed.round += 1
    assert doubts.judge() == []
    believed.pool.by_round.clear()  # all others are witnesses, too, and sign nothing more
    say(believed, THEIRS, 4, 5, 6)
    assert doubts.judge() == [FaultCleared()]
    assert not believed.is_faulty


def test_what_is_said_of_states_that_are_not_here_clears_no_witness() -> None:
    believed, records = drawn()
    say(believed, THEIRS, *range(1, MEMBERS))
    del believed.digests[records[-1]]
    assert not is_vindicated(believed)


# --- what is replayed ----------------------------------------------------------------------------


def test_replaying_starts_at_or_below_the_newest_record_that_most_confirm() -> None:
    believed, records = grown()
    for base in records[:4]:  # in headers of the round after each
        say(believed, OURS, 1, 2, 3, base=base)
    say(believed, THEIRS, 4, 5, 6, 1, base=records[4])
    verified = find_verified(believed, records[5])
    assert verified == {believed.run_id, *records[:4]}


def test_without_any_word_of_others_the_genesis_is_verified_since_it_is_computed() -> None:
    believed, records = grown()
    believed.digests[believed.run_id] = OURS  # the listed headers say STATE_0
    assert find_verified(believed, records[5]) == {believed.run_id}
    del believed.digests[believed.run_id]
    assert find_verified(believed, records[5]) == set()


def accused() -> tuple[View, list[bytes], Doubts]:
    """A node whose state after its head was contradicted, and is being replayed."""
    believed, records = grown()
    doubts = Doubts(believed)
    say(believed, THEIRS, *range(1, MEMBERS))
    replay = doubts.judge()
    assert replay == [Replay(records[-1], find_verified(believed, records[-1]))]
    return believed, records, doubts


def test_a_replay_that_gives_what_most_have_ends_the_matter() -> None:
    believed, records, doubts = accused()
    assert doubts.on_applied(records[-2]) == []
    believed.digests[records[-1]] = THEIRS
    assert doubts.on_applied(records[-1]) == [ReplayAgreed(records[-1])]
    assert doubts.fault is None
    assert doubts.judge() == []


@pytest.mark.parametrize("digest", [OURS, OTHERS], ids=["its own again", "yet another"])
def test_a_replay_that_gives_anything_else_is_a_fault(digest: bytes) -> None:
    believed, records, doubts = accused()
    believed.digests[records[-1]] = digest
    assert doubts.on_applied(records[-1]) == [StateFault(records[-1], ROUNDS - 1)]
    assert doubts.fault is not None
    believed.round += 1
    say(believed, THEIRS, *range(1, MEMBERS))
    assert doubts.judge() == []  # it is known, and nothing is replayed again


def test_a_fault_names_the_round_of_the_first_record_that_differs() -> None:
    believed, records, doubts = accused()
    believed.round = 3
    say(believed, OURS, 1, 2, 3, base=records[2])
    believed.round = 4
    say(believed, THEIRS, 1, 2, 3, base=records[3])
    assert doubts.on_applied(records[-1]) == [StateFault(records[-1], 3)]


def test_a_fault_ends_when_most_say_as_we_do_and_not_before() -> None:
    believed, records, doubts = accused()
    doubts.on_applied(records[-1])
    believed.round += 1
    say(believed, OURS, 1, 2, 3)
    say(believed, THEIRS, 4, 5, 6)
    assert not is_vindicated(believed)
    assert doubts.judge() == []
    believed.round += 1
    say(believed, OURS, 1, 2, 3, 4)
    say(believed, THEIRS, 5, 6)
    assert doubts.judge() == [FaultCleared()]
    assert doubts.fault is None


def test_one_record_is_replayed_once_whatever_is_said_of_it() -> None:
    believed, records, doubts = accused()
    believed.digests[records[-1]] = THEIRS
    doubts.on_applied(records[-1])
    believed.round += 1
    say(believed, OTHERS, *range(1, MEMBERS))
    assert is_accused(believed)
    assert doubts.judge() == []


def test_no_more_than_so_many_are_replayed_in_an_hour() -> None:
    believed, records = grown(12)
    doubts = Doubts(believed)
    replayed = 0
    for record in records:
        say(believed, THEIRS, *range(1, MEMBERS), base=record)
        replayed += len(doubts.judge())
        believed.digests[record] = THEIRS
        doubts.on_applied(record)
        believed.round += 1
    assert replayed == REPLAYS_PER_HOUR_MAX
    believed.round += 3_600_000 // MANIFEST.schedule.round_ms
    say(believed, OTHERS, *range(1, MEMBERS), base=records[-1])
    assert len(doubts.judge()) == 1


def test_while_one_is_replayed_no_other_is_and_what_never_ends_is_dropped() -> None:
    believed, records, doubts = accused()
    for _ in range(MANIFEST.agreement.late_rounds):
        believed.round += 1
        say(believed, THEIRS, *range(1, MEMBERS), base=records[-2])
        assert doubts.judge() == []
    believed.round += 1
    say(believed, THEIRS, *range(1, MEMBERS), base=records[-2])
    assert [type(effect) for effect in doubts.judge()] == [Replay]


def test_what_was_applied_before_and_is_to_be_again_is_pulled_where_it_is_not_here() -> None:
    """By an earlier process, perhaps: nobody's vote asks for its payloads."""
    believed, records = grown()
    replica = Replica(believed)
    replica.states = {records[-1]}
    listed = [h.body.payload_hash for r in records[3:] for h in believed.chain[r].contributions]
    believed.pool.add_payloads(5, (listed.pop(),))
    effects = replica.on_states_lost(StatesLost(0, records[2], OURS))
    pulls = [effect.payload_hash for effect in effects if isinstance(effect, PullPayload)]
    assert sorted(pulls) == sorted(listed)
    replica.states.add(believed.head)
    assert replica.pull_missing() == []
