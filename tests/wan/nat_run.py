"""In how many rounds nodes behind routers contribute, beside nodes that everybody reaches.

    python -m tests.wan.nat_run --rounds 60     # five minutes; needs root
    python -m tests.wan.nat_run --rounds 60 --mesh hivemind

prints the figures as JSON. docs/benchmarks.md says what is to be read from them.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from tests.e2e.nodes import RunningNode, make_run
from tests.wan.network import Network, made_network
from tests.wan.nodes import started_on, wait_agreed

ROUND_S = 4
DELAY_MS = 20
MEMBERS_S = 180.0
"""Four that import torch at once, beside whatever else the machine does."""

FIRST, PUBLIC, CONE, SYMMETRIC = range(4)
RELAYS = {"libp2p": PUBLIC, "hivemind": FIRST}
"""Who carries the hidden ones. p2pd asks nobody but those who were named with `--peers`."""

NAMES = ("public, named by all", "public, does not know its address", "cone NAT", "symmetric NAT")


@dataclass(frozen=True, slots=True)
class Part:
    """What one node took part in: rounds without a record, and records that do not list it."""

    node: str
    rounds: int
    empty: tuple[int, ...]
    missed: tuple[int, ...]

    @property
    def share(self) -> float:
        """Of all rounds, those whose record lists this node."""
        return 1 - (len(self.empty) + len(self.missed)) / self.rounds


@contextmanager
def routed(folder: Path) -> Iterator[Network]:
    """Two machines that everybody reaches, two that nobody does.

    One of the former has no way out of its network, so that it cannot tell its own address.
    """
    with made_network(folder, len(NAMES)) as made:
        made.close_way_out(PUBLIC)
        made.hide(CONE)
        made.hide(SYMMETRIC, is_symmetric=True)
        made.change(delay_ms=DELAY_MS)
        yield made


@contextmanager
def members(
    network: Network, folder: Path, round_s: int = ROUND_S, mesh: str = "libp2p"
) -> Iterator[list[RunningNode]]:
    """Four nodes with nothing configured, but for a relay, as soon as all of them are members."""

    def relay(index: int) -> Sequence[str]:
        return ("--relay",) if index == RELAYS[mesh] else ()

    make_run(folder / "0", "--preset", "tiny", "--round-seconds", str(round_s), "--genesis", "+20")
    with ExitStack() as stack:
        own = ("start", "--mesh", mesh, *relay(FIRST))
        nodes = [stack.enter_context(started_on(network, FIRST, folder / "0", *own))]
        line = nodes[FIRST].invitation()
        for index in (PUBLIC, CONE, SYMMETRIC):
            given = (*line, *relay(index))
            started = started_on(network, index, folder / str(index), *given, anywhere=True)
            nodes.append(stack.enter_context(started))
        nodes[FIRST].wait_for_status(lambda status: status.members == len(nodes), MEMBERS_S)
        yield nodes


def measure(nodes: Sequence[RunningNode], rounds: int, round_s: int = ROUND_S) -> list[Part]:
    """The part of each in the next so many rounds, by its own chain."""
    first, *_ = nodes
    begin = first.status().round + 2
    deadline_s = 90.0 + 2 * rounds * round_s
    # One more, for a round is closed in the next one.
    first.wait_for_status(lambda status: status.head_round > begin + rounds, deadline_s)
    wait_agreed(nodes, 0)
    return [_find_part(node, begin, rounds) for node in nodes]


def _find_part(node: RunningNode, begin: int, rounds: int) -> Part:
    views = {view.round: view for view in node.rounds() if view.record}
    counted = range(begin, begin + rounds)
    return Part(
        node.datadir.name,
        rounds,
        empty=tuple(round_ for round_ in counted if round_ not in views),
        missed=tuple(
            round_ for round_ in counted if round_ in views and not views[round_].included
        ),
    )


@click.command(help=__doc__)
@click.option("--rounds", default=60)
@click.option("--round-seconds", default=ROUND_S)
@click.option("--mesh", type=click.Choice(list(RELAYS)), default="libp2p")
def main(rounds: int, round_seconds: int, mesh: str) -> None:
    """See above."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        with (
            routed(path / "network") as network,
            members(network, path, round_seconds, mesh) as nodes,
        ):
            parts = measure(nodes, rounds, round_seconds)
            states = [node.status().reach.state.value for node in nodes]
    rows = [
        {**asdict(part), "node": name, "share": round(part.share, 3), "reachable": state}
        for name, state, part in zip(NAMES, states, parts, strict=True)
    ]
    click.echo(
        json.dumps({"mesh": mesh, "nodes": rows, "load": round(os.getloadavg()[0], 1)}, indent=1)
    )


if __name__ == "__main__":
    main()
