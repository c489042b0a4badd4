"""How long a joiner takes until its first contribution counts, where every uplink is thin.

    python -m tests.e2e.join_run     # a minute and a half: three nodes, a fourth joins late

prints the figures as JSON. docs/benchmarks.md says what is to be read from them.
"""

import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import click

from demo_node.listening import KBIT_BYTES
from demo_node.views import NodeState, RoundView
from tests.e2e.nodes import RunningNode, make_run, started

ROUND_S = 3
UPLOAD_KBIT_S = 1_000
HOLDERS = 3
RECORDS = 16
"""Before somebody joins: more than are replayed without a snapshot."""

FACTOR, ROUNDS_MAX = 1.3, 2
"""The budget: so many times the bytes over the rate, and so many rounds."""

LONG_S = 240.0


@dataclass(frozen=True, slots=True)
class Joining:
    """What one joiner took. Seconds count from when it knew the run and began to ask around."""

    parameters: int
    round_s: int
    rate_bytes_s: int
    bytes_in: int
    snapshot_bytes: int
    snapshot_s: float
    snapshot_peers: int
    largest_share: float
    active_s: float
    included_s: float
    load: float

    @property
    def budget_s(self) -> float:
        """What it may take until the first contribution counts."""
        return FACTOR * self.bytes_in / self.rate_bytes_s + ROUNDS_MAX * self.round_s


def is_included(rounds: Sequence[RoundView]) -> bool:
    """Has a record listed a contribution of this node?"""
    return any(view.included and view.payload_bytes for view in rounds)


def read_events(node: RunningNode, name: str) -> list[dict[str, object]]:
    """Lines of a node's log."""
    lines = (json.loads(line) for line in node.stderr.splitlines() if line.startswith("{"))
    return [line for line in lines if line["event"] == name]


def find_state_s(node: RunningNode, state: NodeState) -> float:
    """When it came into this state, seconds since 1970."""
    found = next(e for e in read_events(node, "state.changed") if e["state"] == state.value)
    return datetime.fromisoformat(str(found["ts"])).timestamp()


def measure(folder: Path) -> Joining:
    """Begin a run of HOLDERS nodes, let it grow, join it; what the joiner took."""
    upload = ("--upload-kbit-s", str(UPLOAD_KBIT_S))
    make_run(folder / "0", "--preset", "small", "--round-seconds", str(ROUND_S), "--genesis", "+20")
    with ExitStack() as nodes:
        first = nodes.enter_context(started(folder / "0", "start", *upload))
        for number in range(1, HOLDERS):
            line = (*first.invitation(), *upload)
            nodes.enter_context(started(folder / str(number), *line))
        first.wait_for_status(lambda status: status.height >= RECORDS, LONG_S)
        joiner = nodes.enter_context(started(folder / "late", *first.invitation(), *upload))
        rounds = joiner.wait_for_rounds(is_included, LONG_S)
        status = joiner.status()
        counted = next(view for view in rounds if view.included and view.payload_bytes)
        begun_s = find_state_s(joiner, NodeState.SYNCING)
        counted_s = status.genesis_ms + counted.round * status.round_ms + counted.latency_ms
        (fetched,) = read_events(joiner, "snapshot.fetched")
        return Joining(
            parameters=status.parameters,
            round_s=ROUND_S,
            rate_bytes_s=HOLDERS * UPLOAD_KBIT_S * KBIT_BYTES,
            bytes_in=status.bytes_in,
            snapshot_bytes=int(str(fetched["bytes"])),
            snapshot_s=float(str(fetched["seconds"])),
            snapshot_peers=int(str(fetched["peers"])),
            largest_share=float(str(fetched["largest_share"])),
            active_s=round(find_state_s(joiner, NodeState.ACTIVE) - begun_s, 1),
            included_s=round(counted_s / 1000 - begun_s, 1),
            load=round(os.getloadavg()[0], 1),
        )


def main() -> None:
    """Measure once, in a folder that is gone afterwards."""
    begin_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        joining = measure(Path(folder))
    shown = dataclasses.asdict(joining) | {
        "budget_s": round(joining.budget_s, 1),
        "took_s": round(time.monotonic() - begin_s),
    }
    click.echo(json.dumps(shown, indent=2))


if __name__ == "__main__":
    main()
