"""What a person sees while a swarm runs: a live table on a terminal, else one line per round."""

import contextlib
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from demo_node.cli.show import format_bytes
from demo_node.views import StatusView

Statuses = Sequence[StatusView | None]


class SwarmView:
    """Shows statuses on standard error."""

    def __init__(self, console: Console, live: Live | None) -> None:
        self._console = console
        self._live = live
        self._rounds = 0
        self._round_shown = -1
        self._note = ""
        self._hint = ""

    def start(self, nodes: int, folder: Path) -> None:
        """So many nodes are being started, with their data folders in `folder`."""
        self._hint = f"to look closer: demo-node top --datadir {folder}/node0"
        note = f"starting {nodes} nodes; logs in {folder}/node*/node.log"
        self.say(note if self._live is not None else f"{note}; {self._hint}")

    def say(self, note: str) -> None:
        """What the swarm is about now."""
        self._note = note
        if self._live is None:
            self._print(note)

    def tell(self, event: str) -> None:
        """Something happened to a node: one line that stays, above a live table too."""
        self._print(event)

    def _print(self, line: str) -> None:
        """A live table is drawn again below with this line's options: it must not overflow."""
        is_whole = self._live is None
        self._console.print(line, highlight=False, markup=False, soft_wrap=is_whole)

    def begin(self, rounds: int) -> None:
        """Genesis is set."""
        self._rounds = rounds
        self.say(f"all nodes are up: {rounds} rounds begin in a few seconds")

    def show(self, statuses: Statuses, away: Sequence[str] = ()) -> None:
        """The nodes now. `away`: for each node why it cannot answer, or nothing."""
        if self._live is not None:
            self._live.update(self._draw(statuses, away), refresh=True)
            return
        round_ = max((s.round for s in statuses if s), default=-1)
        if self._round_shown < round_ <= self._rounds and round_ >= 0:
            self._round_shown = round_
            self._print(self._format_line(statuses))

    def _format_line(self, statuses: Statuses) -> str:
        known = [status for status in statuses if status]
        losses = [status.loss for status in known if not math.isnan(status.loss)]
        loss = f"{statistics.fmean(losses):.3f}" if losses else "-"
        sent = statistics.fmean(status.bytes_out for status in known)
        heads = len({status.head for status in known})
        return (
            f"round {self._round_shown}/{self._rounds}  loss {loss}"
            f"  records {max(status.height for status in known)}"
            f"  heads {heads}  peers {min(status.peers for status in known)}"
            f"  sent per node {format_bytes(sent)}"
        )

    def _draw(self, statuses: Statuses, away: Sequence[str]) -> Group:
        known = [status for status in statuses if status]
        clock = max(known, key=lambda status: status.round, default=None)
        title = self._note
        if self._rounds and clock is not None and 0 <= clock.round < self._rounds:
            title = f"round {clock.round + 1} of {self._rounds}, phase {clock.phase.value}"
        table = Table(title=title, title_justify="left", caption="loss in nats per byte")
        for name in ("node", "pid", "state", "record", "loss", "peers", "sent", "received"):
            table.add_column(name, justify="left" if name in ("state", "record") else "right")
        for index, status in enumerate(statuses):
            if status is None:
                table.add_row(str(index), "", (away[index] if away else "") or "starting")
                continue
            table.add_row(
                str(index),
                str(status.pid),
                status.state.value,
                f"{status.head.hex()[:8]} ({status.height})",
                "" if math.isnan(status.loss) else f"{status.loss:.3f}",
                str(status.peers),
                format_bytes(status.bytes_out),
                format_bytes(status.bytes_in),
            )
        return Group(table, Text(self._hint, overflow="fold", no_wrap=False))


@contextlib.contextmanager
def swarm_view() -> Iterator[SwarmView]:
    """A view for standard error, whatever that is."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield SwarmView(console, None)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield SwarmView(console, live)
