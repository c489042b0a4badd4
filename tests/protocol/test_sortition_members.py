"""Contributor sortition: members, candidates and voters, where most have no turn in a round."""

from demo_node.sim.keys import peer_name
from demo_protocol.manifest import Agreement
from demo_protocol.roster import TURN, compute_interval, get_committee, get_member_names, get_voters
from tests.builders import Tree, manifest
from tests.protocol.turns import AGREEMENT, RUN, USUAL, C, drawn, grow, outsider

# --- membership ----------------------------------------------------------------------------------


def test_rule_7_expiry_counts_a_members_own_turns() -> None:
    """8 members, 3 a round: twenty turns take 53 rounds and a third, whoever is drawn when."""
    tree = Tree(USUAL)
    records = grow(tree, tree.start(8), range(1, 100), silent=[7])
    assert tree.state(records[0]).turns == TURN + TURN * C // 8
    for record in records:
        turns = tree.state(record).turns - TURN  # 7 was credited in round 0
        assert (peer_name(7) in tree.members(record)) == (turns < 20 * TURN)
    gone = next(r for r in records if peer_name(7) not in tree.members(r))
    assert tree.state(gone).round == 54
    assert {peer_name(n) for n in range(7)} <= tree.members(records[-1])


def test_a_member_that_expired_is_drawn_like_a_candidate_and_so_comes_back() -> None:
    tree = Tree(USUAL)
    records = grow(tree, tree.start(8), range(1, 60), silent=[7])
    assert peer_name(7) not in tree.members(records[-1])
    assert 7 in drawn(tree, records[-1], 60)
    assert peer_name(7) in tree.members(grow(tree, records[-1], [60])[0])


def test_who_expired_long_ago_is_forgotten_and_joins_again() -> None:
    tree = Tree(RUN)
    forgotten = RUN.agreement.forget_rounds + 60
    record = grow(tree, tree.start(8), range(1, forgotten), silent=[7])[-1]
    assert peer_name(7) not in tree.state(record).known
    again = tree.grow(record, forgotten, drawn(tree, record, forgotten), joins=[7])
    assert any(7 in drawn(tree, again, forgotten + later) for later in range(1, 20))
    assert tree.member(again, 7).admitted_by == b""


def test_rule_7_that_a_swarm_shrinks_expires_nobody_sooner() -> None:
    """Were turns told from today's members alone, those not drawn lately would all be gone."""
    tree = Tree(RUN)
    record = tree.start(30)
    record = grow(tree, record, range(1, 30))[-1]
    staying = tree.members(record)
    leaves = [n for n in range(30) if n % 6 and peer_name(n) in staying]
    record = tree.grow(record, 30, drawn(tree, record, 30), leaves=leaves)
    rest = {peer_name(n) for n in range(0, 30, 6)} & staying
    assert tree.members(record) == rest
    assert len(rest) >= 4


def test_a_candidate_gets_through_probation_by_its_own_turns() -> None:
    tree = Tree(RUN)
    record = grow(tree, tree.start(8), range(1, 5))[-1]
    record = tree.grow(record, 5, drawn(tree, record, 5), joins=[9])
    records = grow(tree, record, range(6, 9))
    assert [tree.member(r, 9).included for r in records] == [1, 2, 3]
    assert peer_name(9) in tree.members(records[-1])


def test_rule_t5_the_cursor_moves_by_the_intervals_of_those_whose_turn_it_is() -> None:
    tree = Tree(RUN)
    record = grow(tree, tree.start(8), range(1, 6))[-1]
    state = tree.state(record)
    due = drawn(tree, record, 6)
    dealt = [compute_interval(state, peer_name(n), 6, RUN) for n in due]
    assert {key for _, key in dealt} == {b""}
    numbers = sorted(n for i, _ in dealt for n in range(i.first, i.first + i.count))
    assert numbers == list(range(state.cursor, state.cursor + len(numbers)))
    child = tree.grow(record, 6, due)
    assert tree.state(child).cursor == state.cursor + len(numbers)
    _, key = compute_interval(state, peer_name(outsider(tree, record, 6)), 6, RUN)
    assert key  # it trains on samples of its own, as on probation


# --- rule 19 -------------------------------------------------------------------------------------


def test_rule_19_the_committee_is_whoever_was_due_in_the_last_eight_rounds() -> None:
    tree = Tree(RUN)
    records = grow(tree, tree.start(30), range(1, 12))
    state = tree.state(records[-1])
    expected = {
        peer_name(n)
        for r in range(4, 12)
        for n in drawn(tree, tree.chain[records[r - 1]].parent, r)
    }
    committee = get_committee(state, AGREEMENT)
    assert committee.peers == expected
    assert committee.size == len(expected) < len(get_voters(state, AGREEMENT))


def test_rule_19_voters_beyond_a_cut_count_though_nobody_draws_them_any_more() -> None:
    """A side that the others have expired on would else be final alone."""
    tree = Tree(RUN)
    records = grow(tree, tree.start(30), range(1, 90), silent=range(12, 30))
    state = tree.state(records[-1])
    assert get_member_names(state, AGREEMENT) == {peer_name(n) for n in range(12)}
    assert len(get_voters(state, AGREEMENT)) == 30
    committee = get_committee(state, AGREEMENT)
    assert len(committee.peers) <= 12
    assert committee.size == -(-len(committee.peers) * 30 // 12)
    assert 3 * len(committee.peers) < 2 * committee.size


def test_rule_19_where_everybody_contributes_the_committee_is_all_voters() -> None:
    tree = Tree(manifest(agreement=Agreement(contributors=0)))
    record = tree.grow(tree.start(4), 1, range(4))
    voters = get_voters(tree.state(record), tree.run.agreement)
    committee = get_committee(tree.state(record), tree.run.agreement)
    assert (committee.peers, committee.size) == (voters, 4)
