"""What came of dials and requests."""

import contextlib
from collections import Counter
from collections.abc import Iterator

from demo_node.ports import Blob, DialResult, NotHeld, PullResult, Unreachable


class Tally:
    """Totals since start. What was cancelled came to nothing, and is in none."""

    def __init__(self) -> None:
        self.pulls: Counter[tuple[Blob, PullResult]] = Counter()
        self.dials: Counter[DialResult] = Counter()

    @contextlib.contextmanager
    def pull(self, kind: Blob) -> Iterator[None]:
        """Count what comes of the request in this block."""
        try:
            yield
        except NotHeld:
            self.pulls[kind, PullResult.NOT_HELD] += 1
            raise
        except Unreachable:
            self.pulls[kind, PullResult.UNREACHABLE] += 1
            raise
        self.pulls[kind, PullResult.OK] += 1
