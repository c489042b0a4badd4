"""A swarm of four nodes that can be made faulty, under the eyes of Prometheus and Alertmanager."""

import contextlib
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from demo_node.views import NodeState
from tests.cli.command import ROOT
from tests.e2e.nodes import RunningNode, make_run, started
from tests.monitoring.faulty_node import FAULTS_FOLDER
from tests.monitoring.stack import Webhook, ask, running_alertmanager, running_prometheus
from tests.waiting import wait_until_sync

NODES = 4
ROUND_S = 3
GENESIS_S = 25
"""From opening the run to its genesis: four nodes come up meanwhile, unless the cores are busy."""

UP_S = 120.0

FAULTY = (sys.executable, "-m", "tests.monitoring.faulty_node")


@dataclass(frozen=True, slots=True)
class WatchedNode:
    """One of the swarm."""

    index: int
    running: RunningNode
    metrics_url: str
    faults: Path
    """Where faults of tests.monitoring.faulty_node are switched on."""

    @property
    def datadir(self) -> Path:
        """Its data folder."""
        return self.running.datadir

    @property
    def pid(self) -> int:
        """The node process, not its trainer."""
        return self.running.process.pid

    @property
    def instance(self) -> str:
        """As Prometheus calls it."""
        return urllib.parse.urlsplit(self.metrics_url).netloc


@dataclass(frozen=True, slots=True)
class WatchedSwarm:
    """Everything a test of monitoring needs. `prometheus` and `alertmanager` are base URLs."""

    nodes: Sequence[WatchedNode]
    prometheus: str
    alertmanager: str
    webhook: Webhook

    def query(self, promql: str) -> list[dict[str, Any]]:
        """Series now: each `{"metric": labels, "value": [time, text]}`."""
        result: list[dict[str, Any]] = ask(self.prometheus, "/api/v1/query", query=promql)["result"]
        return result

    def query_range(
        self, promql: str, begin_s: float, end_s: float, step_s: float = 1
    ) -> list[dict[str, Any]]:
        """Series between two Unix times: each `{"metric": labels, "values": [[time, text]]}`."""
        answer = ask(
            self.prometheus,
            "/api/v1/query_range",
            query=promql,
            start=str(begin_s),
            end=str(end_s),
            step=str(step_s),
        )
        result: list[dict[str, Any]] = answer["result"]
        return result

    def read_metrics(self, node: WatchedNode) -> str:
        """What Prometheus sees when it scrapes that node."""
        with urllib.request.urlopen(node.metrics_url, timeout=20) as reply:
            text: str = reply.read().decode()
        return text


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[WatchedSwarm]:
    """Four nodes that train, and those who watch them; nothing is left when the block ends."""
    with contextlib.ExitStack() as stack:
        nodes = _start_nodes(folder, stack)
        webhook = stack.enter_context(Webhook().listening())
        alertmanager = stack.enter_context(
            running_alertmanager(folder / "alertmanager", webhook.url)
        )
        metrics_urls = [node.metrics_url for node in nodes]
        prometheus = stack.enter_context(
            running_prometheus(folder / "prometheus", metrics_urls, alertmanager)
        )
        swarm = WatchedSwarm(nodes, prometheus, alertmanager, webhook)
        for node in nodes:
            node.running.wait_for_status(lambda s: s.members == NODES, UP_S)
        wait_until_sync(lambda: len(swarm.query("demo_head_round >= 3")) == NODES, UP_S)
        yield swarm


def _start_nodes(folder: Path, stack: contextlib.ExitStack) -> list[WatchedNode]:
    """The first opens a run that begins a little later; the others paste its line."""
    genesis = datetime.now(UTC) + timedelta(seconds=GENESIS_S)
    line = ("--preset", "tiny", "--genesis", genesis.isoformat(), "--round-seconds", str(ROUND_S))
    make_run(folder / "node0", *line)
    running = [_start(folder, 0, stack)]
    running += [_start(folder, i, stack, *running[0].invitation()) for i in range(1, NODES)]
    states = (NodeState.WAITING, NodeState.ACTIVE)
    for node in running:
        node.wait_for_status(lambda status: status.state in states, UP_S)
    return [
        WatchedNode(i, node, node.metrics_url(), _faults_folder(folder, i))
        for i, node in enumerate(running)
    ]


def _start(folder: Path, index: int, stack: contextlib.ExitStack, *arguments: str) -> RunningNode:
    faults = _faults_folder(folder, index)
    faults.mkdir()
    environment = {"PYTHONPATH": str(ROOT), FAULTS_FOLDER: str(faults)}
    datadir = folder / f"node{index}"
    return stack.enter_context(started(datadir, *arguments, command=FAULTY, **environment))


def _faults_folder(folder: Path, index: int) -> Path:
    return folder / f"faults{index}"
