"""Rule 22: whom a joiner among strangers believes, and which snapshots it is pointed to."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_node.sim.keys import peer_name
from demo_protocol.answers import Link
from demo_protocol.joining import Answer, Choice, Refusal, choose, explain_trust, is_enough
from tests.builders import RUN_ID, Tree

Links = Mapping[bytes, Link]


def answer(number: int, head: bytes, **changes: object) -> Answer:
    """Peer `number`, in a network of its own."""
    said = Answer(peer=peer_name(number), network=f"net {number}", head=head)
    return replace(said, **changes)  # type: ignore[arg-type]


def chosen(answers: Sequence[Answer], links: Links, anchor: bytes = b"") -> Choice:
    found = choose(answers, links, RUN_ID, anchor)
    assert isinstance(found, Choice), found
    return found


def refused(answers: Sequence[Answer], links: Links, anchor: bytes = b"") -> str:
    found = choose(answers, links, RUN_ID, anchor)
    assert isinstance(found, Refusal), found
    return found.reason


@pytest.fixture
def tree() -> Tree:
    """The run, four members; and a chain that strangers made up, from the genesis, longer."""
    return Tree()


@pytest.fixture
def run(tree: Tree) -> list[bytes]:
    first = tree.start(4)
    return [first, *tree.grow_all(first, range(1, 10), range(4))]


@pytest.fixture
def forged(tree: Tree) -> list[bytes]:
    sybils = range(20, 30)
    first = tree.grow(tree.genesis, 0, sybils, joins=sybils)
    return [first, *tree.grow_all(first, range(1, 12), sybils)]


# --- rule 22: at least three networks -------------------------------------------------------------


@pytest.mark.parametrize(
    ("networks", "known", "is_so"),
    [
        ("abc", 9, True),
        ("aab", 9, False),
        ("ab", 9, False),
        ("ab", 2, True),
        ("aa", 2, True),
        ("a", 1, True),
        ("a", 2, False),
        ("", 0, True),
        ("", 1, False),
    ],
)
def test_three_networks_are_enough_and_so_are_all_there_are(
    networks: str, known: int, is_so: bool
) -> None:
    heard = [answer(n, RUN_ID, network=network) for n, network in enumerate(networks)]
    assert is_enough(heard, known) is is_so


def test_who_believes_fewer_than_three_networks_says_so() -> None:
    answers = [answer(n, RUN_ID) for n in range(3)]
    assert explain_trust(answers[:1], 1) == (
        "believing the only peer; give --anchor <record hash> to be sure"
    )
    assert "the only one of 7 peers that answered" in explain_trust(answers[:1], 7)
    assert "the 2 peers that answered, of 2 networks" in explain_trust(answers[:2], 2)
    assert explain_trust(answers, 3) == ""
    assert explain_trust(answers[:1], 1, b"a" * 32) == ""
    assert explain_trust([], 0) == ""


# --- rule 22: which head --------------------------------------------------------------------------


def test_peers_that_agree_are_followed_to_where_most_are(tree: Tree, run: list[bytes]) -> None:
    answers = [answer(n, run[-1], final=run[4]) for n in range(3)]
    answers.append(answer(3, run[-2], final=run[3]))
    found = chosen(answers, tree.links)
    assert (found.head, found.final) == (run[-1], run[4])
    assert set(found.trail) == set(run)
    assert found.set_aside == ()


def test_an_old_chain_shown_again_is_only_a_peer_that_is_behind(
    tree: Tree, run: list[bytes]
) -> None:
    answers = [answer(0, run[2], final=run[0]), *(answer(n, run[-1]) for n in (1, 2, 3))]
    found = chosen(answers, tree.links)
    assert (found.head, found.set_aside) == (run[-1], ())


@pytest.mark.parametrize("final", [True, False])
def test_a_chain_of_made_up_voters_with_more_work_does_not_win_against_three_networks(
    tree: Tree, run: list[bytes], forged: list[bytes], final: bool
) -> None:
    honest = [answer(n, run[-1], final=run[4] if final else b"") for n in range(3)]
    liar = answer(9, forged[-1], final=forged[8])
    found = chosen([liar, *honest], tree.links)
    assert found.head == run[-1]
    if final:
        assert (found.final, found.set_aside) == (run[4], (liar.peer,))


def test_a_heavier_branch_of_admitted_sybils_does_not_win_against_three_networks(
    tree: Tree, run: list[bytes]
) -> None:
    first = tree.grow(run[5], 6, range(2), joins=range(40, 48))
    sybil = [first, *tree.grow_all(first, range(7, 14), [0, 1, *range(40, 48)])]
    answers = [answer(9, sybil[-1]), *(answer(n, run[-1]) for n in range(3))]
    assert chosen(answers, tree.links).head == run[-1]


def test_peers_of_one_network_count_once(tree: Tree, run: list[bytes], forged: list[bytes]) -> None:
    liars = [answer(n, forged[-1], network="one house") for n in range(10, 20)]
    answers = [*liars, answer(0, run[-1]), answer(1, run[-1])]
    assert chosen(answers, tree.links).head == run[-1]


def test_what_one_peer_put_on_top_is_left_where_more_stand_below(
    tree: Tree, run: list[bytes]
) -> None:
    on_top = tree.grow(run[-1], 10, range(4))
    answers = [answer(9, on_top), answer(0, run[-1]), answer(1, run[-1])]
    assert chosen(answers, tree.links).head == run[-1]
    assert chosen(answers[:2], tree.links).head == on_top, "one against one: the newer"


@pytest.mark.parametrize("authors", [1, 2, 3])
def test_of_branches_with_equally_many_networks_the_one_that_goes_on_longer_is_taken(
    tree: Tree, run: list[bytes], authors: int
) -> None:
    longer = tree.grow_all(run[7], range(8, 12), range(authors))
    shorter = [run[-1], tree.grow(run[7], 9, range(authors, 4))]
    for other in shorter:
        answers = [answer(0, longer[-1]), answer(1, other)]
        assert chosen(answers, tree.links).head == longer[-1]


def test_the_choice_does_not_depend_on_the_order_of_the_answers(
    tree: Tree, run: list[bytes], forged: list[bytes]
) -> None:
    sibling = tree.grow(run[-2], 9, range(3))
    answers = [
        answer(0, run[-1], final=run[4], snapshot=run[2]),
        answer(1, sibling, final=run[3], snapshot=run[2]),
        answer(2, run[-2], snapshot=run[5]),
        answer(3, run[-1], snapshot=run[5]),
        answer(9, forged[-1], final=forged[6], snapshot=forged[5]),
    ]
    links = tree.links
    found = chosen(answers, links)
    again = chosen(answers[::-1], dict(reversed(links.items())))
    assert (again.head, again.final, again.set_aside) == (found.head, found.final, found.set_aside)
    assert [o.record for o in again.offers] == [o.record for o in found.offers]


def test_one_that_is_syncing_counts_only_where_all_are(
    tree: Tree, run: list[bytes], forged: list[bytes]
) -> None:
    syncing = [answer(n, forged[3], is_syncing=True) for n in range(5, 9)]
    assert chosen([answer(0, run[-1]), *syncing], tree.links).head == run[-1]
    assert chosen(syncing, tree.links).head == forged[3]


def test_a_young_run_has_nothing_but_the_genesis() -> None:
    found = chosen([answer(0, RUN_ID)], {})
    assert (found.head, found.trail, found.offers) == (RUN_ID, {}, ())


# --- rule 22: finals that disagree ----------------------------------------------------------------


@pytest.mark.parametrize(("honest", "others"), [(1, 1), (2, 1), (2, 2), (4, 2), (3, 3)])
def test_peers_that_disagree_on_finals_are_both_named_and_an_anchor_asked_for(
    tree: Tree, run: list[bytes], forged: list[bytes], honest: int, others: int
) -> None:
    answers = [answer(n, run[-1], final=run[4]) for n in range(honest)]
    answers += [answer(n, forged[-1], final=forged[7]) for n in range(9, 9 + others)]
    why = refused(answers, tree.links)
    assert run[4].hex()[:16] in why
    assert forged[7].hex()[:16] in why
    assert "--anchor" in why
    assert "\n" not in why


@pytest.mark.parametrize(("honest", "others"), [(3, 1), (5, 2), (7, 3)])
def test_less_than_a_third_of_the_networks_are_outvoted(
    tree: Tree, run: list[bytes], forged: list[bytes], honest: int, others: int
) -> None:
    answers = [answer(n, run[-1], final=run[4]) for n in range(honest)]
    liars = [answer(n, forged[-1], final=forged[7]) for n in range(19, 19 + others)]
    found = chosen([*liars, *answers], tree.links)
    assert found.set_aside == tuple(sorted(liar.peer for liar in liars))


def test_peers_of_one_network_do_not_outvote(
    tree: Tree, run: list[bytes], forged: list[bytes]
) -> None:
    answers = [answer(n, run[-1], final=run[4], network="one house") for n in range(7)]
    assert "--anchor" in refused([*answers, answer(9, forged[-1], final=forged[7])], tree.links)


def test_two_networks_do_not_outvote_one_even_where_it_is_one_of_the_two(
    tree: Tree, run: list[bytes], forged: list[bytes]
) -> None:
    answers = [answer(n, run[-1], final=run[4]) for n in range(2)]
    liar = answer(9, forged[-1], final=forged[7], network="net 1")
    assert "--anchor" in refused([*answers, liar], tree.links)


def test_a_lone_peer_that_calls_the_newest_record_final_makes_it_so_for_nobody(
    tree: Tree, run: list[bytes]
) -> None:
    answers = [answer(n, run[-1], final=run[4]) for n in range(3)]
    answers.append(answer(9, run[-1], final=run[-1]))
    assert chosen(answers, tree.links).final == run[4]
    answers[0] = answer(0, run[-1], final=run[2])
    assert chosen(answers, tree.links).final == run[4], "three of four networks"
    answers[1] = answer(1, run[-1])
    assert chosen(answers, tree.links).final == run[2]
    answers[2] = answer(2, run[-1])
    assert chosen(answers, tree.links).final == b""
    assert chosen([answer(0, run[-1], final=run[4])], tree.links).final == run[4]


def test_one_that_is_behind_takes_no_side(tree: Tree, run: list[bytes]) -> None:
    aside = tree.grow_all(run[3], range(4, 9), range(1))
    answers = [answer(n, run[-1], final=run[7]) for n in range(3)]
    answers += [answer(n, run[3], final=run[1]) for n in range(3, 6)]
    liar = answer(9, aside[-1], final=aside[1])
    found = chosen([*answers, liar], tree.links)
    assert (found.head, found.set_aside) == (run[-1], (liar.peer,))


def test_a_final_that_is_not_on_its_own_chain_is_a_lie(
    tree: Tree, run: list[bytes], forged: list[bytes]
) -> None:
    liar = answer(9, run[-1], final=forged[3])
    found = chosen([answer(0, run[-1], final=run[4]), liar], tree.links)
    assert (found.final, found.set_aside) == (run[4], (liar.peer,))
    assert "no peer gave a chain" in refused([liar], tree.links)


# --- rule 22: --anchor ----------------------------------------------------------------------------


def test_an_anchor_decides_whatever_the_others_say(
    tree: Tree, run: list[bytes], forged: list[bytes]
) -> None:
    liars = [answer(n, forged[-1], final=forged[7]) for n in range(9, 20)]
    found = chosen([*liars, answer(0, run[-1], final=run[4])], tree.links, anchor=run[5])
    assert (found.head, found.believed) == (run[-1], (peer_name(0),))


def test_an_anchor_that_no_peer_has_is_refused(tree: Tree, run: list[bytes]) -> None:
    why = refused([answer(0, run[-1])], tree.links, anchor=b"x" * 32)
    assert (b"x" * 32).hex()[:16] in why
    assert "no peer" in why


# --- rule 21: which snapshots it is pointed to ---------------------------------------------------


def test_snapshots_that_all_stand_on_come_first_and_the_newest_of_them(
    tree: Tree, run: list[bytes]
) -> None:
    branch = tree.grow_all(run[6], range(7, 10), range(2))
    answers = [
        answer(0, run[-1], snapshot=run[2]),
        answer(1, run[-1], snapshot=run[5]),
        answer(2, run[-1], snapshot=run[7]),
        answer(3, branch[-1], snapshot=branch[1]),
        answer(4, run[3], snapshot=run[2]),
    ]
    offers = chosen(answers, tree.links).offers
    assert [(o.record, o.is_common) for o in offers] == [
        (run[5], True),
        (run[2], True),
        (run[7], False),
        (branch[1], False),
    ]
    assert offers[1].holders == (peer_name(0), peer_name(4))


def test_a_snapshot_beside_its_holders_chain_is_not_offered(
    tree: Tree, run: list[bytes], forged: list[bytes]
) -> None:
    answers = [answer(0, run[-1], snapshot=forged[3]), answer(1, run[-1], snapshot=b"?" * 32)]
    assert chosen(answers, tree.links).offers == ()


# --- bounds ---------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.integers(0, 11), st.integers(-1, 11), st.integers(-1, 11), st.booleans()),
        min_size=1,
        max_size=8,
    ),
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=12),
)
def test_whatever_peers_say_there_is_an_answer(
    said: list[tuple[int, int, int, bool]], edges: list[tuple[int, int]]
) -> None:
    names = [bytes([n]) * 32 for n in range(12)]
    links = {
        names[child]: Link(names[child], names[parent], child)
        for child, parent in edges
        if parent < child  # a hash names its parent: there are no circles
    }
    answers = [
        answer(
            n,
            names[head],
            final=names[final] if final >= 0 else b"",
            snapshot=names[snapshot] if snapshot >= 0 else b"",
            is_syncing=syncing,
        )
        for n, (head, final, snapshot, syncing) in enumerate(said)
    ]
    found = choose(answers, links, names[0])
    if isinstance(found, Choice):
        assert found.head in names
        assert set(found.believed).isdisjoint(found.set_aside)
        assert {*found.believed, *found.set_aside} == {a.peer for a in answers}
    else:
        assert found.reason
