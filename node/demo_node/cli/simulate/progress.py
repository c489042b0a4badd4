"""How far a run is, on one line of a terminal that is written again and again."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, TextIO

from demo_node.cli.simulate.width import find_columns

if TYPE_CHECKING:
    from demo_node.sim.simulation import Progress

EVERY_S: Final = 0.3
"""Between two lines, at least: who watches sees no more, and a slow terminal costs time."""


class ProgressLine:
    """On `stream`, a terminal. `clock` gives seconds that only grow."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._begin_s = clock()
        self._shown_s = -EVERY_S
        self._width = 0

    def show(self, progress: "Progress") -> None:
        """Write it in the place of what stands there, unless that is quite new."""
        now_s = self._clock() - self._begin_s
        if now_s - self._shown_s < EVERY_S:
            return
        self._shown_s = now_s
        self._write(
            f"round {progress.round} of {progress.rounds}, {progress.nodes_up} nodes up,"
            f" {progress.records} records, {progress.faults} faults, {now_s:.0f} s"
        )

    def erase(self) -> None:
        """Leave the line as it was."""
        self._write("")  # blanks
        self._write("")  # and the cursor before them

    def _write(self, text: str) -> None:
        text = text[: find_columns(self._stream, 80) - 1]  # it must not become two lines
        self._stream.write(f"\r{text.ljust(self._width)}")
        self._stream.flush()
        self._width = len(text)


@contextlib.contextmanager
def show_progress(stream: TextIO) -> "Iterator[Callable[[Progress], None] | None]":
    """What to call after every round; None where nobody watches, as in a pipe or a file."""
    if not stream.isatty():
        yield None
        return
    line = ProgressLine(stream)
    try:
        yield line.show
    finally:
        line.erase()
