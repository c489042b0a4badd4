"""Rule 21: which snapshot two thirds of the voters have built on, and which one is offered."""

from collections.abc import Iterable
from dataclasses import replace

from demo_node.sim.keys import cheap_verify
from demo_protocol.chain import listed_headers
from demo_protocol.finality import Final
from demo_protocol.joining import choose_offer, is_built_on
from demo_protocol.manifest import Agreement
from demo_protocol.messages import Header, Sealed
from tests.builders import MANIFEST, Tree, header, manifest, root_after, view


def built_on(tree: Tree, record: bytes) -> bool:
    headers = [h for r in tree.chain.records.values() for h in listed_headers(r)]
    state = tree.state(tree.chain[record].parent)
    agreement = MANIFEST.agreement
    return is_built_on(record, state, tree.links, headers, agreement=agreement, verify=cheap_verify)


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
    tree.grow_all(below, range(3, 8), [0, 1, *sybils])
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
    state, links = tree.state(first), tree.links

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
    first = tree.start(4)
    records = [first, *tree.grow_all(first, range(1, 9), range(4))]
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
