"""Rule 22: whom a joiner among strangers believes; rule 21: which snapshot it may take."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_node.sim.keys import cheap_verify, peer_name
from demo_protocol.answers import Link
from demo_protocol.chain import listed_headers
from demo_protocol.finality import Final
from demo_protocol.joining import (
    Answer,
    Choice,
    Refusal,
    choose,
    choose_offer,
    explain_trust,
    is_built_on,
    is_enough,
)
from demo_protocol.manifest import Agreement
from demo_protocol.messages import Header, Sealed
from tests.builders import MANIFEST, RUN_ID, Tree, header, manifest, root_after, view

Links = Mapping[bytes, Link]


def links_of(*trees: Tree) -> dict[bytes, Link]:
    """All records that were grown."""
    records = [r for tree in trees for r in tree.chain.records.values() if r.proposal]
    return {r.hash: Link(r.hash, r.parent, r.round) for r in records}


def chain(rounds: range, authors: Sequence[int], below: bytes, tree: Tree) -> list[bytes]:
    """Records of these rounds with these contributors, one below the other."""
    records = []
    for round_ in rounds:
        below = tree.grow(below, round_, authors)
        records.append(below)
    return records


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
    return [first, *chain(range(1, 10), range(4), first, tree)]


@pytest.fixture
def forged(tree: Tree) -> list[bytes]:
    sybils = range(20, 30)
    first = tree.grow(tree.genesis, 0, sybils, joins=sybils)
    return [first, *chain(range(1, 12), sybils, first, tree)]


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
    found = chosen(answers, links_of(tree))
    assert (found.head, found.final) == (run[-1], run[4])
    assert set(found.trail) == set(run)
    assert found.set_aside == ()


def test_an_old_chain_shown_again_is_only_a_peer_that_is_behind(
    tree: Tree, run: list[bytes]
) -> None:
    answers = [answer(0, run[2], final=run[0]), *(answer(n, run[-1]) for n in (1, 2, 3))]
    found = chosen(answers, links_of(tree))
    assert (found.head, found.set_aside) == (run[-1], ())


@pytest.mark.parametrize("final", [True, False])
def test_a_chain_of_made_up_voters_with_more_work_does_not_win_against_three_networks(
    tree: Tree, run: list[bytes], forged: list[bytes], final: bool
) -> None:
    honest = [answer(n, run[-1], final=run[4] if final else b"") for n in range(3)]
    liar = answer(9, forged[-1], final=forged[8])
    found = chosen([liar, *honest], links_of(tree))
    assert found.head == run[-1]
    if final:
        assert (found.final, found.set_aside) == (run[4], (liar.peer,))


def test_a_heavier_branch_of_admitted_sybils_does_not_win_against_three_networks(
    tree: Tree, run: list[bytes]
) -> None:
    first = tree.grow(run[5], 6, range(2), joins=range(40, 48))
    sybil = [first, *chain(range(7, 14), [0, 1, *range(40, 48)], first, tree)]
    answers = [answer(9, sybil[-1]), *(answer(n, run[-1]) for n in range(3))]
    assert chosen(answers, links_of(tree)).head == run[-1]


def test_peers_of_one_network_count_once(tree: Tree, run: list[bytes], forged: list[bytes]) -> None:
    liars = [answer(n, forged[-1], network="one house") for n in range(10, 20)]
    answers = [*liars, answer(0, run[-1]), answer(1, run[-1])]
    assert chosen(answers, links_of(tree)).head == run[-1]


def test_what_one_peer_put_on_top_is_left_where_more_stand_below(
    tree: Tree, run: list[bytes]
) -> None:
    on_top = tree.grow(run[-1], 10, range(4))
    answers = [answer(9, on_top), answer(0, run[-1]), answer(1, run[-1])]
    assert chosen(answers, links_of(tree)).head == run[-1]
    assert chosen(answers[:2], links_of(tree)).head == on_top, "one against one: the newer"


@pytest.mark.parametrize("authors", [1, 2, 3])
def test_of_branches_with_equally_many_networks_the_one_that_goes_on_longer_is_taken(
    tree: Tree, run: list[bytes], authors: int
) -> None:
    longer = chain(range(8, 12), range(authors), run[7], tree)
    shorter = [run[-1], tree.grow(run[7], 9, range(authors, 4))]
    for other in shorter:
        answers = [answer(0, longer[-1]), answer(1, other)]
        assert chosen(answers, links_of(tree)).head == longer[-1]


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
    links = links_of(tree)
    found = chosen(answers, links)
    again = chosen(answers[::-1], dict(reversed(links.items())))
    assert (again.head, again.final, again.set_aside) == (found.head, found.final, found.set_aside)
    assert [o.record for o in again.offers] == [o.record for o in found.offers]


def test_one_that_is_syncing_counts_only_where_all_are(
    tree: Tree, run: list[bytes], forged: list[bytes]
) -> None:
    syncing = [answer(n, forged[3], is_syncing=True) for n in range(5, 9)]
    assert chosen([answer(0, run[-1]), *syncing], links_of(tree)).head == run[-1]
    assert chosen(syncing, links_of(tree)).head == forged[3]


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
    why = refused(answers, links_of(tree))
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
    found = chosen([*liars, *answers], links_of(tree))
    assert found.set_aside == tuple(sorted(liar.peer for liar in liars))


def test_peers_of_one_network_do_not_outvote(
    tree: Tree, run: list[bytes], forged: list[bytes]
) -> None:
    answers = [answer(n, run[-1], final=run[4], network="one house") for n in range(7)]
    assert "--anchor" in refused([*answers, answer(9, forged[-1], final=forged[7])], links_of(tree))


def test_two_networks_do_not_outvote_one_even_where_it_is_one_of_the_two(
    tree: Tree, run: list[bytes], forged: list[bytes]
) -> None:
    answers = [answer(n, run[-1], final=run[4]) for n in range(2)]
    liar = answer(9, forged[-1], final=forged[7], network="net 1")
    assert "--anchor" in refused([*answers, liar], links_of(tree))


def test_a_lone_peer_that_calls_the_newest_record_final_makes_it_so_for_nobody(
    tree: Tree, run: list[bytes]
) -> None:
    answers = [answer(n, run[-1], final=run[4]) for n in range(3)]
    answers.append(answer(9, run[-1], final=run[-1]))
    assert chosen(answers, links_of(tree)).final == run[4]
    answers[0] = answer(0, run[-1], final=run[2])
    assert chosen(answers, links_of(tree)).final == run[4], "three of four networks"
    answers[1] = answer(1, run[-1])
    assert chosen(answers, links_of(tree)).final == run[2]
    answers[2] = answer(2, run[-1])
    assert chosen(answers, links_of(tree)).final == b""
    assert chosen([answer(0, run[-1], final=run[4])], links_of(tree)).final == run[4]


def test_one_that_is_behind_takes_no_side(tree: Tree, run: list[bytes]) -> None:
    aside = chain(range(4, 9), range(1), run[3], tree)
    answers = [answer(n, run[-1], final=run[7]) for n in range(3)]
    answers += [answer(n, run[3], final=run[1]) for n in range(3, 6)]
    liar = answer(9, aside[-1], final=aside[1])
    found = chosen([*answers, liar], links_of(tree))
    assert (found.head, found.set_aside) == (run[-1], (liar.peer,))


def test_a_final_that_is_not_on_its_own_chain_is_a_lie(
    tree: Tree, run: list[bytes], forged: list[bytes]
) -> None:
    liar = answer(9, run[-1], final=forged[3])
    found = chosen([answer(0, run[-1], final=run[4]), liar], links_of(tree))
    assert (found.final, found.set_aside) == (run[4], (liar.peer,))
    assert "no peer gave a chain" in refused([liar], links_of(tree))


# --- rule 22: --anchor ----------------------------------------------------------------------------


def test_an_anchor_decides_whatever_the_others_say(
    tree: Tree, run: list[bytes], forged: list[bytes]
) -> None:
    liars = [answer(n, forged[-1], final=forged[7]) for n in range(9, 20)]
    found = chosen([*liars, answer(0, run[-1], final=run[4])], links_of(tree), anchor=run[5])
    assert (found.head, found.believed) == (run[-1], (peer_name(0),))


def test_an_anchor_that_no_peer_has_is_refused(tree: Tree, run: list[bytes]) -> None:
    why = refused([answer(0, run[-1])], links_of(tree), anchor=b"x" * 32)
    assert (b"x" * 32).hex()[:16] in why
    assert "no peer" in why


# --- rule 21: which snapshot ----------------------------------------------------------------------


def test_snapshots_that_all_stand_on_come_first_and_the_newest_of_them(
    tree: Tree, run: list[bytes]
) -> None:
    branch = chain(range(7, 10), range(2), run[6], tree)
    answers = [
        answer(0, run[-1], snapshot=run[2]),
        answer(1, run[-1], snapshot=run[5]),
        answer(2, run[-1], snapshot=run[7]),
        answer(3, branch[-1], snapshot=branch[1]),
        answer(4, run[3], snapshot=run[2]),
    ]
    offers = chosen(answers, links_of(tree)).offers
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
    assert chosen(answers, links_of(tree)).offers == ()


def built_on(tree: Tree, record: bytes) -> bool:
    headers = [h for r in tree.chain.records.values() for h in listed_headers(r)]
    state = tree.state(tree.chain[record].parent)
    agreement = MANIFEST.agreement
    links = links_of(tree)
    return is_built_on(record, state, links, headers, agreement=agreement, verify=cheap_verify)


def test_rule_21_two_thirds_of_the_voters_built_on_it() -> None:
    tree = Tree()
    first = tree.start(6)
    record = tree.grow(first, 1, range(6))
    assert not built_on(tree, record), "all voted for its parent"
    three = tree.grow(record, 2, range(3))
    assert not built_on(tree, record)
    tree.grow(three, 3, [3])
    assert built_on(tree, record), "four of six"


def test_rule_21_sybils_on_a_branch_are_no_voters_below_it() -> None:
    tree = Tree()
    first = tree.start(6)
    record = tree.grow(first, 1, range(6))
    sybils = range(50, 70)
    below = tree.grow(record, 2, range(2), joins=sybils)
    chain(range(3, 8), [0, 1, *sybils], below, tree)
    assert not built_on(tree, record), "two of six, whoever else joined since"


def test_rule_21_only_the_newest_vote_of_a_voter_counts() -> None:
    tree = Tree()
    first = tree.start(3)
    record = tree.grow(first, 1, range(3))
    on_it = tree.grow(record, 2, range(3))
    assert built_on(tree, record)
    other = tree.grow(first, 3, range(3))
    tree.grow(other, 4, range(2))
    assert not built_on(tree, record), "two of three have left it"
    assert built_on(tree, on_it) is False


def test_rule_21_who_signed_twice_and_who_did_not_sign_counts_nowhere() -> None:
    tree = Tree()
    first = tree.start(3)
    record = tree.grow(first, 1, range(3))
    tree.grow(record, 2, range(2))
    headers = [h for r in tree.chain.records.values() for h in listed_headers(r)]
    state, links = tree.state(first), links_of(tree)

    def holds(extra: list[Sealed[Header]]) -> bool:
        return is_built_on(
            record,
            state,
            links,
            [*headers, *extra],
            agreement=MANIFEST.agreement,
            verify=cheap_verify,
        )

    assert holds([])
    again = header(0, 2, vote=first)
    assert not holds([again])
    assert holds([replace(again, signature=b"0" * 64)])
    unsigned = replace(header(0, 1, vote=b"?" * 32), signature=b"0" * 64)
    assert holds([unsigned]), "beside what it signed in an older round"
    assert not holds([header(0, 3, vote=first)])
    assert holds([replace(header(0, 3, vote=first), signature=b"0" * 64)])


# --- rule 21: which snapshot is offered -----------------------------------------------------------


def test_the_newest_snapshot_below_what_is_final_is_offered_else_one_with_two_records_on_top() -> (
    None
):
    agreement = Agreement(snapshot_every=2, contributors=0)
    tree = Tree(manifest(agreement=agreement))
    records = [tree.start(4)]
    for round_ in range(1, 9):
        records.append(tree.grow(records[-1], round_, range(4)))
    # Records of even heights carry the roots of those before them: 1, 3, 5 and 7 in this list.
    held = [(records[at], root_after(records[at])) for at in (0, 2, 4, 6)]
    believed = view(tree.run)
    believed.chain, believed.head = tree.chain, records[7]

    def offered(names: Iterable[tuple[bytes, bytes]]) -> bytes | None:
        found = choose_offer(believed, names)
        return found[0] if found else None

    assert offered(held) == records[4], "two records follow the one that carries it"
    assert offered(held[3:]) == records[6], "there is no other"
    believed.final = Final(records[3], 3, 4)
    assert offered(held) == records[2]
    believed.final = Final(records[0], 0, 1)
    assert offered(held[1:]) == records[4], "none is final"
    assert offered([(records[4], b"another root".ljust(32))]) is None
    assert offered([(records[5], b"")]) is None, "no record carries its root"
    believed.head = records[0]
    assert offered(held) is None, "nothing is on our chain"


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
