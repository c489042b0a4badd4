"""The swarm's nodes: each with a data folder of its own, none outliving the swarm."""

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from demo_node.cli.swarm.links import find_diallers
from demo_node.cli.swarm.node import SwarmNode, compute_log_path, stop_nodes
from demo_node.cli.swarm.processes import end_marked, find_free_ports, spawn
from demo_node.cli.swarm.targets import Target, listed_targets
from demo_node.cli.swarm.wires import Connection, Wires, relay_host
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.sim.scenario import Scenario
from demo_node.store.corpus import compute_corpus_path, save_corpus
from demo_node.store.datadir import DataDir, open_datadir
from demo_node.store.disk import FileDisk
from demo_node.store.key import create_key, generate_key
from demo_node.store.manifest_file import save_manifest
from demo_node.store.stdlib import build_stdlib_corpus
from demo_protocol.manifest import Data, Manifest, compute_run_id

LEAVE_MARGIN_S: Final = 15.0
"""A node leaves within one round and 10 s; what takes longer is killed."""

HOST: Final = "127.0.0.1"
"""Where nodes listen."""

PEERS_NAMED: Final = 3
"""To a new node: one of them may be away, and rule 22 asks several."""


BEHIND_US: Final = ("nice", "-n", "5")
"""Before the command of a node whose wires we are: a network does not wait for its nodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmOptions:
    """What the command line asked for. `is_wired`: connections can be cut and are slowed."""

    scenario: Scenario
    is_wired: bool
    preset: str
    device: str
    train_percent: int = 100
    targets: Path | None = None

    @property
    def rounds(self) -> int:
        """How many rounds are trained."""
        return self.scenario.rounds

    @property
    def round_ms(self) -> int:
        """Length of a round."""
        return round(self.scenario.round_seconds * 1000)


@dataclass(slots=True)
class Swarm:
    """All nodes there ever were; once they have ended, also what of them did not go by itself."""

    folder: Path
    scratch: Path
    options: SwarmOptions
    nodes: list[SwarmNode] = field(default_factory=list)
    left_behind: Sequence[int] = ()
    wires: Wires = field(init=False)
    _data: Data | None = None
    _run_id: bytes = b""
    _ports: set[int] = field(default_factory=set)
    _starting: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        links = self.options.scenario.links

        def find(connections: Collection[Connection]) -> dict[Connection, int]:
            pids = {node.pid: node.index for node in list(self.nodes)}
            return find_diallers(pids, connections)

        self.wires = Wires(find, links.latency_ms / 1000, links.jitter_ms / 1000)

    @property
    def leave_s(self) -> float:
        """A node that takes longer to leave hangs."""
        return self.options.round_ms / 1000 + LEAVE_MARGIN_S

    @property
    def present(self) -> list[SwarmNode]:
        """Nodes that run, as far as we know."""
        return [node for node in self.nodes if not node.away]

    async def start(self) -> None:
        """Start the nodes that are there at genesis. The others know the first one."""
        for index in range(self.options.scenario.nodes):
            peers = [self.nodes[0].address] if index else []
            await self._start_node(peers, ["--wait-manifest"])

    def share_corpus(self) -> Data:
        """One copy of the text on disk, a link to it in every data folder."""
        corpus = build_stdlib_corpus()
        self._data = corpus.data
        save_corpus(FileDisk(), self.nodes[0].datadir.corpus, corpus)
        for node in self.nodes[1:]:
            self._link_corpus(node.datadir)
        return corpus.data

    def give_manifest(self, manifest: Manifest) -> None:
        """Let the run begin."""
        self._run_id = compute_run_id(manifest)
        for node in self.nodes:
            save_manifest(FileDisk(), node.datadir.manifest, manifest)

    async def join(self) -> SwarmNode:
        """One more node, which knows some that are present, and which run it is."""
        peers = [node.address for node in self.present][:PEERS_NAMED]
        return await self._start_node(peers, ["--run-id", self._run_id.hex()])

    async def _start_node(self, peers: Sequence[str], flags: Sequence[str]) -> SwarmNode:
        """Every node keeps its ports over a restart, so that others still find it there."""
        async with self._starting:  # a node's number is its place in the list
            node = await self._make_node(len(self.nodes), peers, flags)
            self.nodes.append(node)
        return node

    async def _make_node(self, index: int, peers: Sequence[str], flags: Sequence[str]) -> SwarmNode:
        port, metrics_port = find_free_ports(2, self._ports)
        self._ports |= {port, metrics_port}
        listen = reached = f"/ip4/{HOST}/tcp/{port}"
        announce: list[str] = []
        if self.options.is_wired:
            await self.wires.lead_to(index, port, (HOST, port))
            reached = f"/ip4/{relay_host(index)}/tcp/{port}"
            announce = ["--announce", reached]
        datadir, peer_id = await asyncio.to_thread(_make_datadir, self.folder / f"node{index}")
        if self._data is not None:
            await asyncio.to_thread(self._link_corpus, datadir)
        metrics_address = f"{HOST}:{metrics_port}"
        command = [*self._make_command(datadir), *flags, *announce]
        command += ["--listen", listen, "--metrics-address", metrics_address]
        for peer in peers:
            command += ["--peers", peer]
        process = await spawn(command, compute_log_path(datadir), self.scratch)
        address = f"{reached}/p2p/{peer_id}"
        return SwarmNode(index, datadir, address, command, self.scratch, process, metrics_address)

    def _link_corpus(self, datadir: DataDir) -> None:
        assert self._data is not None
        first = compute_corpus_path(self.nodes[0].datadir.corpus, self._data)
        os.link(first, compute_corpus_path(datadir.corpus, self._data))

    def _make_command(self, datadir: DataDir) -> list[str]:
        options = self.options
        threads = max(1, (os.cpu_count() or 1) // options.scenario.nodes)
        command = [sys.executable, "-m", "demo_node.cli", "start"]
        if options.is_wired:
            command = [*BEHIND_US, *command]
        command += ["--datadir", str(datadir.path)]
        command += ["--rounds", str(options.rounds), "--threads", str(threads)]
        command += ["--device", options.device, "--train-percent", str(options.train_percent)]
        return [*command, "--log-format", "json"]


@contextlib.asynccontextmanager
async def running_swarm(folder: Path, options: SwarmOptions) -> AsyncIterator[Swarm]:
    """Start the nodes; when the block ends, however it ends, no process of theirs is left."""
    # Of its own, and short: trainers have sockets in there, and paths of sockets may not be long.
    with tempfile.TemporaryDirectory(prefix="demo-swarm-", ignore_cleanup_errors=True) as name:
        swarm = Swarm(folder, Path(name), options)
        try:
            await swarm.start()
            with _listed(swarm.nodes, options.targets):
                yield swarm
        finally:
            await stop_nodes(swarm.nodes, swarm.leave_s)
            swarm.left_behind = await end_marked(Path(name))
            await swarm.wires.close()


def _listed(
    nodes: Sequence[SwarmNode], targets: Path | None
) -> contextlib.AbstractContextManager[None]:
    if targets is None:
        return contextlib.nullcontext()
    return listed_targets(
        targets, [Target(node.metrics_address, node.index, node.datadir.path) for node in nodes]
    )


def _make_datadir(path: Path) -> tuple[DataDir, str]:
    disk, key = FileDisk(), generate_key()
    datadir = open_datadir(disk, path)
    create_key(disk, datadir.key, key)
    return datadir, encode_peer_id(key.public)
