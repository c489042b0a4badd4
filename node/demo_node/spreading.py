"""Whom to ask for a payload: a tree with its author at the root, that nobody hands out.

All peers stand in a circle, another one each round. Counted from the author on, the first two ask
the author, the next four those two, and so on: each serves two, and an author's uplink carries its
payload twice instead of to everybody. As every author begins at its own place, each peer serves as
much as the others where all are authors. Whoever is asked stands nearer to the author, whatever
part of the peers one knows: nobody waits in a circle.
"""

import hashlib
from collections.abc import Iterable

CHILDREN = 2
"""Peers that ask one holder. More make the tree flatter and each uplink's part longer."""

DIRECT_MAX = 3
"""So few receivers ask the author: a way round would save its uplink nothing that matters."""

CIRCLE = 1 << 256


def order_holders(
    round_: int, named: Iterable[bytes], me: bytes, connected: Iterable[bytes]
) -> list[bytes]:
    """The connected peers, in the order in which they are to be asked for a payload of a round.

    `named`: its author, then whoever else is said to have it.
    """
    author, *others = named
    at_hand = set(connected) - {me}
    start = _find_place(round_, author)
    receivers = sorted(
        (at_hand | {me}) - {author},
        key=lambda peer: (_find_place(round_, peer) - start) % CIRCLE,
    )
    # Its own payload a node asks for where it has lost it, and any peer may have it.
    is_on_tree = author != me and len(receivers) > DIRECT_MAX
    above = _find_ancestors(receivers, me) if is_on_tree else []
    if author in at_hand:
        # After those who have it from the author, but by the first two before each other.
        above.insert(len(above) if len(above) > 1 else 0, author)
    elif len(above) <= 1:  # nobody here is nearer to the author than who handed its header over
        above = [*others, *above]
    order = dict.fromkeys([*above, *others, *receivers])
    return [peer for peer in order if peer in at_hand]


def _find_place(round_: int, peer: bytes) -> int:
    """Where a peer stands in the circle of a round."""
    return int.from_bytes(hashlib.sha256(round_.to_bytes(8, signed=True) + peer).digest())


def _find_ancestors(receivers: list[bytes], me: bytes) -> list[bytes]:
    """Who is to be asked, its sibling, whom those ask, and so on; of the first two the other."""
    at = receivers.index(me)
    if at < CHILDREN:
        return [receivers[at ^ 1]]
    found: list[bytes] = []
    while at >= CHILDREN:
        at = at // CHILDREN - 1
        found += [receivers[at], receivers[at ^ 1]]
    return found
