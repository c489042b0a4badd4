"""What a swarm came to: collected from its nodes and their files, never from hearsay.

The fingerprint of each node's parameters is computed here, from its snapshot file; losses come
from a node's trainer, bytes from its sockets, times from its rounds.
"""

import asyncio
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from safetensors.numpy import load_file

from demo_node.cli.swarm.agreeing import Heal
from demo_node.cli.swarm.inflicting import Suffered
from demo_node.cli.swarm.links import find_links, parse_port
from demo_node.cli.swarm.lives import count_forks, count_joins, count_replayed, merge_rounds
from demo_node.cli.swarm.node import SwarmNode
from demo_node.cli.swarm.outcomes import FaultOutcome, compute_outcomes
from demo_node.sim.scenario import Do
from demo_node.views import RoundView, StatusView
from demo_protocol.digest import compute_digest

SAMPLE_BYTES: Final = 120
DENSE_BYTES_PER_PARAMETER: Final = 4
"""fp32."""

RECORDS_WANTED: Final = 0.8
"""Of the rounds of a swarm whose nodes are killed, that so many get a record."""


@dataclass(frozen=True, slots=True)
class FileState:
    """The parameters in one node's snapshot file."""

    digest: bytes
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """What one node had at the end; rounds and counts over all its processes, if it was killed."""

    pid: int
    state: FileState
    text: bytes
    rounds: Sequence[RoundView]
    bytes_sent: int
    replayed: int = 0
    joins: int = 0
    forks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmReport:
    """Everything the table and the JSON document show. Losses in nats per byte, times in s."""

    nodes: Sequence[NodeReport]
    rounds: int
    loss_first: float
    loss_last: float
    links: Sequence[tuple[int, int]]
    records: int
    participants_median: float
    payload_bytes: float
    parameters: int
    round_latencies_s: Sequence[float]
    exchanges_s: Sequence[float]
    train_share: float
    started: int = 0
    """Nodes there ever were; `nodes` are those present at the end."""
    scenario: str = ""
    outcomes: Sequence[FaultOutcome] = ()
    heals: Sequence[Heal] = ()
    held: int = 0
    """Pieces of data, and connections about to begin, that a cut has held up."""
    agree_within_s: float = math.inf
    """After a heal."""
    records_wanted: float = RECORDS_WANTED
    unclean: Sequence[int] = ()
    """Nodes that did not end with 0."""
    left_behind: Sequence[int] = ()
    """Processes that had to be killed after all nodes had ended."""

    @property
    def kills(self) -> int:
        """Processes killed: nodes and trainers."""
        return len(self.get_outcomes(Do.KILL, Do.POWER_CUT, Do.TRAINER_DIES))

    @property
    def stalls(self) -> int:
        """How often a node was stopped for a while."""
        return len(self.get_outcomes(Do.STOP))

    @property
    def joins(self) -> int:
        """How often a node that was gone came back, or a new one came, and took part."""
        new = sum(outcome.back_s is not None for outcome in self.get_outcomes(Do.JOIN))
        return new + sum(node.joins for node in self.nodes)

    @property
    def replayed_rounds(self) -> int:
        """Records that nodes applied to catch up, all nodes together."""
        return sum(node.replayed for node in self.nodes)

    @property
    def rollbacks(self) -> int:
        """How often a node left its branch for another one, all nodes together."""
        return sum(node.forks for node in self.nodes)

    def get_outcomes(self, *kinds: Do) -> list[FaultOutcome]:
        """Faults of these kinds, oldest first."""
        return [outcome for outcome in self.outcomes if outcome.kind in kinds]

    @property
    def digests_equal(self) -> bool:
        """Whether every node's file holds the same bits."""
        return len({node.state for node in self.nodes}) == 1

    @property
    def texts_equal(self) -> bool:
        """Whether every node generated the same text."""
        return len({node.text for node in self.nodes}) == 1

    @property
    def bytes_sent_per_node_per_round(self) -> float:
        """Everything that left the mesh sockets, from the process's start on."""
        return sum(node.bytes_sent for node in self.nodes) / len(self.nodes) / self.rounds

    def find_faults(self) -> list[str]:
        """Why this run did not show what it should; empty when it did."""
        faults = []
        if not self.digests_equal:
            digests = ", ".join(node.state.digest.hex() for node in self.nodes)
            faults.append(f"the nodes hold different parameters (digests {digests})")
        if not self.loss_last < self.loss_first:
            faults.append(f"the loss did not fall ({self.loss_first:.4f} to {self.loss_last:.4f})")
        if self.unclean:
            faults.append(f"not left cleanly: nodes {_join(self.unclean)}; see their node.log")
        if self.left_behind:
            faults.append(f"processes were left behind: {_join(self.left_behind)}")
        return faults + (self._find_damage() if self.outcomes else [])

    def _find_damage(self) -> list[str]:
        """What the faults should not have done."""
        damage = []
        if self.records < self.records_wanted * self.rounds:
            damage.append(f"only {self.records} of {self.rounds} rounds got a record")
        back = [lost for lost in self.get_outcomes(Do.KILL) if lost.back_s is not None]
        if back and not self.replayed_rounds:
            damage.append("nodes were killed, and none has replayed a round")
        damage += [
            f"the nodes did not agree within {self.agree_within_s:.0f} s of the heal in round"
            f" {heal.round}"
            for heal in self.heals
            if heal.agreed_s is None or heal.agreed_s > self.agree_within_s
        ]
        damage += [
            f"node {lost.node} never got another trainer after round {lost.round}"
            for lost in self.get_outcomes(Do.TRAINER_DIES)
            if lost.back_s is None
        ]
        return damage


def _join(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


async def evaluate_genesis(node: SwarmNode) -> float:
    """Held-out loss of the parameters that the run begins with."""
    assert node.status is not None
    async with node.client() as client:
        return await client.evaluate(node.status.run_id)  # the genesis record is the run's hash


async def measure_swarm(
    nodes: Sequence[SwarmNode],
    rounds: int,
    bytes_sent: Sequence[int],
    loss_first: float,
    suffered: Sequence[Suffered],
    heals: Sequence[Heal],
) -> SwarmReport:
    """Ask every node that is there, read its snapshot file.

    `bytes_sent`: per node, when training ended; `loss_first` is that of the genesis parameters.
    """
    present = [node for node in nodes if not node.away]
    states = await asyncio.gather(*(_save_and_read(node) for node in present))
    views = await asyncio.gather(*(_fetch_rounds(node, rounds) for node in present))
    texts = await asyncio.gather(*(_sample(node) for node in present))
    statuses = [node.status for node in present if node.status is not None]
    async with present[0].client() as client:  # replicas are equal: one node's trainer will do
        loss_last = await client.evaluate()
    reports = [
        NodeReport(
            pid=node.pid,
            state=state,
            text=text,
            rounds=own,
            bytes_sent=bytes_sent[node.index],
            replayed=count_replayed(node.lives),
            joins=count_joins(node.lives),
            forks=count_forks(node.lives),
        )
        for node, state, text, own in zip(present, states, texts, views, strict=True)
    ]
    return compute_report(
        reports,
        rounds=rounds,
        loss_first=loss_first,
        loss_last=loss_last,
        links=await asyncio.to_thread(_find_links, present),
        status=max(statuses, key=lambda status: status.height),
        suffered=suffered,
        everybody=[_select(merge_rounds(node.lives), rounds) for node in nodes],
        heals=heals,
    )


def compute_report(
    nodes: Sequence[NodeReport],
    *,
    rounds: int,
    loss_first: float,
    loss_last: float,
    links: Sequence[tuple[int, int]],
    status: StatusView,
    suffered: Sequence[Suffered] = (),
    everybody: Sequence[Sequence[RoundView]] | None = None,
    heals: Sequence[Heal] = (),
) -> SwarmReport:
    """Figures from the nodes' rounds. `status`: of a node at the end, for round length and height.

    `everybody`: by number, the rounds of those, too, that are gone by then; None: nobody is.
    No node need have seen all records happen: participants are those of any node that did.
    """
    everybody = [node.rounds for node in nodes] if everybody is None else everybody
    recorded = [[view for view in node.rounds if view.record] for node in nodes]
    participants = {view.round: view.participants for own in recorded for view in own}
    payloads = [v.payload_bytes for node in nodes for v in node.rounds if v.payload_bytes]
    applied = [view for own in recorded for view in own]
    return SwarmReport(
        nodes=nodes,
        rounds=rounds,
        loss_first=loss_first,
        loss_last=loss_last,
        links=links,
        records=status.height,
        participants_median=statistics.median(participants.values() or [0]),
        payload_bytes=statistics.fmean(payloads or [0]),
        parameters=nodes[0].state.parameters,
        round_latencies_s=sorted(v.latency_ms / 1000 for v in applied),
        exchanges_s=sorted(v.exchange_ms / 1000 for v in applied),
        train_share=statistics.fmean(
            compute_train_share(node.rounds, status.round_ms) for node in nodes
        ),
        started=len(everybody),
        outcomes=compute_outcomes(suffered, everybody, rounds),
        heals=heals,
    )


def compute_train_share(rounds: Sequence[RoundView], round_ms: int) -> float:
    """Time spent training over the time from genesis until the last record was applied."""
    recorded = [view for view in rounds if view.record]
    if not recorded:
        return 0.0
    last = max(recorded, key=lambda view: view.round)
    wall_ms = last.round * round_ms + last.latency_ms
    return sum(view.train_ms for view in rounds if view.round <= last.round) / wall_ms


def read_state(path: Path) -> FileState:
    """Fingerprint and size of the parameters in a snapshot file. Reads and hashes all of it."""
    tensors = load_file(path)
    return FileState(compute_digest(tensors), sum(tensor.size for tensor in tensors.values()))


async def _save_and_read(node: SwarmNode) -> FileState:
    async with node.client() as client:
        path = await client.save_snapshot()
    return await asyncio.to_thread(read_state, path)


async def _fetch_rounds(node: SwarmNode, rounds: int) -> list[RoundView]:
    async with node.client() as client:
        node.life.look(await client.status(), await client.rounds(limit=rounds + 100))
    return _select(merge_rounds(node.lives), rounds)


def _select(views: Sequence[RoundView], rounds: int) -> list[RoundView]:
    """Those of the run's rounds that were asked for."""
    return [view for view in views if 0 <= view.round < rounds]


async def _sample(node: SwarmNode) -> bytes:
    async with node.client() as client:
        return await client.sample(SAMPLE_BYTES)


def _find_links(nodes: Sequence[SwarmNode]) -> list[tuple[int, int]]:
    ports = {
        node.pid: parse_port(node.status.addresses[0])
        for node in nodes
        if node.status is not None and node.status.addresses
    }
    return find_links(ports)
