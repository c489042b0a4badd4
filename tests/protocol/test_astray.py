"""When a node is told to begin again from a snapshot of the others' chain (rule 25)."""

import pytest

from demo_node.sim.keys import peer_name
from demo_protocol.astray import find_way_back
from demo_protocol.effects import BeginAgain, Effect, Leap
from demo_protocol.view import View
from tests.builders import MANIFEST, Tree, view

LATE = MANIFEST.agreement.late_rounds
SOME, NOWHERE = range(4), b"?" * 32
BY_KEY = sorted(SOME, key=peer_name)


def believed(me: int) -> View:
    """A node whose chain begins at a record of four members; it has just come to round 10."""
    tree = Tree()
    first = tree.grow(tree.start(4), 9, SOME)
    seen = view(me=me, root=tree.state(first))
    seen.round = seen.astray_since = 10
    return seen


def pass_rounds(seen: View, votes: dict[int, bytes], rounds: int = LATE + 1) -> list[BeginAgain]:
    """Let rounds pass in which these nodes vote so; what came of it in the last."""
    effects: list[Effect] = []
    for _ in range(rounds):
        seen.round += 1
        for number, vote in votes.items():
            seen.votes.add(peer_name(number), seen.round, vote)
        effects = find_way_back(seen)
    return [effect for effect in effects if isinstance(effect, BeginAgain)]


def test_while_most_voters_are_on_our_chain_nothing_is_done() -> None:
    seen = believed(BY_KEY[0])
    votes = {number: seen.head for number in BY_KEY[:3]} | {BY_KEY[3]: NOWHERE}
    assert pass_rounds(seen, votes, 50) == []


def test_most_voters_elsewhere_for_l_rounds_are_worth_any_chain() -> None:
    seen = believed(BY_KEY[0])
    votes = {number: NOWHERE for number in BY_KEY[1:]} | {BY_KEY[0]: seen.head}
    assert pass_rounds(seen, votes, LATE) == []
    assert pass_rounds(seen, votes, 1) == [BeginAgain(0)]


@pytest.mark.parametrize("lowest_is_here", [True, False])
def test_of_two_halves_that_did_equally_much_exactly_one_moves(lowest_is_here: bool) -> None:
    here, there = (BY_KEY[:2], BY_KEY[2:]) if lowest_is_here else (BY_KEY[2:], BY_KEY[:2])
    seen = believed(here[0])
    votes = {number: NOWHERE for number in there} | {number: seen.head for number in here}
    height = seen.head_state.height
    assert pass_rounds(seen, votes) == [BeginAgain(height if lowest_is_here else height - 1)]


def test_of_two_halves_the_one_that_admitted_others_meanwhile_stays() -> None:
    """It counts them among its voters: the other half must know that it is the smaller one."""
    seen = believed(BY_KEY[0])
    votes = {number: seen.head for number in BY_KEY[:2]}
    votes |= {number: NOWHERE for number in (*BY_KEY[2:], 7)}
    assert pass_rounds(seen, votes) == [BeginAgain(0)]
    assert (
        pass_rounds(
            believed(BY_KEY[0]),
            {n: NOWHERE for n in (7, 8, 9)} | {number: seen.head for number in BY_KEY[:2]},
        )
        == []
    )


def test_a_chain_whose_members_are_all_silent_is_left_for_a_longer_one() -> None:
    stranger = believed(9)
    assert pass_rounds(stranger, {9: stranger.head}) == [BeginAgain(stranger.head_state.height)]
    follower = believed(9)
    assert pass_rounds(follower, {9: follower.head, 2: follower.head}) == []


@pytest.mark.parametrize("holds_state", [True, False])
def test_rule_16_a_record_applied_once_is_leapt_over_if_state_and_payloads_are_gone(
    holds_state: bool,
) -> None:
    """Its trainer has died on a branch that it had left the others' chain for."""
    tree = Tree()
    chain = [tree.grow(tree.start(4), 9, SOME)]
    seen = view(me=0, root=tree.state(chain[0]))
    for round_ in range(10, 14):
        chain.append(tree.grow(chain[-1], round_, SOME))
    seen.chain = tree.chain
    seen.digests |= dict.fromkeys(chain, b"8 bytes.")
    seen.round = 40
    for number in SOME:
        seen.votes.add(peer_name(number), 39, chain[-1])
    held = {chain[0], chain[-1]} if holds_state else {chain[0]}
    assert find_way_back(seen, held) == ([] if holds_state else [Leap(chain[1], chain[-1])])
