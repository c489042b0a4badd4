"""How often this node gives its own payload: an author's uplink is not everybody's.

The first few who ask get it. Others are told to ask those first: by then these have it, or wait for
it. Who comes back once more after that has found nobody else.
"""

from collections import Counter
from collections.abc import Callable, Iterator

from demo_node.observer import Figure

COPIES_MAX = 3
"""Copies of a payload that its author gives without being asked twice: two children and a hedge."""

SENT_ON_MAX = 2
"""So often a peer is told to ask others. It comes back after a turn of asking everybody."""

REMEMBERED_MAX = 8
"""Payloads of ours that are counted, the newest; who asks for an older one is catching up."""


class Copies:
    """Whom this node gives payloads."""

    def __init__(self, is_member: Callable[[bytes], bool] = lambda peer: True) -> None:
        """`is_member`: others are sent on at once, and take no copy from those who are."""
        self._is_member = is_member
        self._own: dict[bytes, int] = {}
        """Copies given of each."""
        self._sent_on: dict[bytes, Counter[bytes]] = {}
        self._totals: Counter[str] = Counter()

    def figures(self) -> Iterator[Figure]:
        """What was given, by whose it was."""
        for whose, total in self._totals.items():
            yield Figure("demo_payload_copies_total", total, (whose,))

    def add_own(self, name: bytes) -> None:
        """This payload is ours."""
        self._own[name] = 0
        if len(self._own) > REMEMBERED_MAX:
            oldest = next(iter(self._own))
            del self._own[oldest]
            self._sent_on.pop(oldest, None)

    def may_give(self, name: bytes, asking: bytes) -> bool:
        """Is it given to this peer, now? A copy is set aside if so, and the peer remembered if not.

        `answered` hears what became of it.
        """
        given = self._own.get(name)
        if given is None:
            return True
        sent_on = self._sent_on.setdefault(name, Counter())
        is_member = self._is_member(asking)
        if (given >= COPIES_MAX or not is_member) and sent_on[asking] < SENT_ON_MAX:
            sent_on[asking] += 1
            return False
        self._own[name] += is_member
        return True

    def answered(self, name: bytes, asking: bytes, *, is_given: bool) -> None:
        """A copy that might be given begins to leave, or was called off before."""
        whose = "own" if name in self._own else "other"
        if is_given:
            self._totals[whose] += 1
        elif whose == "own" and self._is_member(asking):
            self._own[name] = max(self._own[name] - 1, 0)
