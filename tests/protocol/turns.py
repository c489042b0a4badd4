"""A run in which contributors are drawn: whose turn it is, and records that they make."""

from collections.abc import Iterable

from demo_node.sim.keys import peer_name
from demo_protocol.manifest import Agreement
from demo_protocol.roster import get_contributors
from tests.builders import Tree, manifest

C = 3
RUN = manifest(agreement=Agreement(contributors=C, expire_rounds=5, forget_rounds=200))
"""Three contribute in a round; who misses five turns is a member no more."""
AGREEMENT = RUN.agreement
USUAL = manifest(agreement=Agreement(contributors=C))
"""As usual: it takes twenty missed turns."""
NUMBERS = {peer_name(n): n for n in range(64)}


def drawn(tree: Tree, parent: bytes, round_: int) -> list[int]:
    """Who contributes in a round on top of a record."""
    due = get_contributors(tree.state(parent), round_, tree.run.agreement)
    assert due is not None
    return sorted(NUMBERS[peer] for peer in due)


def grow(
    tree: Tree, record: bytes, rounds: Iterable[int], *, silent: Iterable[int] = ()
) -> list[bytes]:
    """A record for each of these rounds; all whose turn it is contribute, the silent not."""
    records = [record]
    for round_ in rounds:
        heard = [n for n in drawn(tree, records[-1], round_) if n not in silent]
        if heard:
            records.append(tree.grow(records[-1], round_, heard))
    return records[1:]


def outsider(tree: Tree, parent: bytes, round_: int, members: int = 8) -> int:
    """A member whose turn it is not."""
    return next(n for n in range(members) if n not in drawn(tree, parent, round_))
