"""A swarm's life: up, genesis, rounds, agreement, measurement."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from demo_node.cli.plan import plan_run, plan_schedule
from demo_node.cli.swarm.faults import Fault
from demo_node.cli.swarm.killing import Killer
from demo_node.cli.swarm.live import SwarmView
from demo_node.cli.swarm.lives import TAKES_PART, count_sent
from demo_node.cli.swarm.measure import SwarmReport, evaluate_genesis, measure_swarm
from demo_node.cli.swarm.nodes import (
    SwarmFailed,
    SwarmNode,
    SwarmOptions,
    check_alive,
    running_swarm,
)
from demo_node.control.client import NotRunning, Refused
from demo_node.store.corpus import compute_corpus_path, save_corpus
from demo_node.store.disk import FileDisk
from demo_node.store.manifest_file import save_manifest
from demo_node.store.stdlib import build_stdlib_corpus
from demo_node.views import NodeState
from demo_protocol.manifest import Data, Manifest
from demo_protocol.schedule import Schedule, round_start_ms

POLL_S: Final = 0.5
"""How often all nodes are asked for their status."""

UP_DEADLINE_S: Final = 180.0
"""Starting is mostly importing; on a busy machine with cold disks that takes long."""

GENESIS_DELAY_MS: Final = 6_000
"""From the manifest being there to round 0: the mesh forms and the trainers load."""

AGREE_ROUNDS: Final = 3
AGREE_MS: Final = 15_000
"""At most so long after the last round, the longer of both, for all to hold the last record."""


async def run_swarm(
    folder: Path, options: SwarmOptions, faults: Sequence[Fault], view: SwarmView
) -> SwarmReport:
    """Run it to its end; no process is left afterwards. Raises SwarmFailed."""
    async with running_swarm(folder, options) as swarm:
        nodes = swarm.nodes
        view.start(options.nodes, folder)
        data = await asyncio.to_thread(_share_corpus, nodes)
        await _until(nodes, _all_waiting(nodes), UP_DEADLINE_S, view)
        schedule = plan_schedule(_now_ms() + GENESIS_DELAY_MS, options.round_ms)
        manifest = plan_run(
            name="swarm",
            seed=options.seed,
            preset=options.preset,
            schedule=schedule,
            data=data,
            rounds=options.rounds,
        )
        await asyncio.to_thread(_give_manifest, nodes, manifest)
        view.begin(options.rounds)
        await _until(nodes, _all_loaded(nodes), UP_DEADLINE_S, view)
        loss_first = await evaluate_genesis(nodes[0])  # now: no trainer is busy, each holds it
        end_ms = round_start_ms(schedule, options.rounds)
        killer = Killer(nodes, schedule, view.tell)
        async with _meanwhile(killer.run(faults)):
            await _until(nodes, lambda: _now_ms() >= end_ms, (end_ms - _now_ms()) / 1000 + 60, view)
            sent = [count_sent(node.lives) for node in nodes]
            await _agree(nodes, schedule, options.rounds, view)
        view.say("reading the nodes' snapshot files")
        try:
            report = await measure_swarm(
                nodes, options.rounds, sent, loss_first, tuple(killer.suffered)
            )
        except (NotRunning, Refused) as error:
            raise SwarmFailed(f"a node does not answer at the end: {error}") from None
    unclean = [node.index for node in nodes if node.process.returncode]
    return replace(report, unclean=unclean, left_behind=swarm.left_behind)


@contextlib.asynccontextmanager
async def _meanwhile(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Do `work` while the block lasts; what is not done by its end is given up."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(result, Exception):  # a bug: it explains whatever else went wrong
            raise result


def _share_corpus(nodes: Sequence[SwarmNode]) -> Data:
    """One copy of the text on disk, a link to it in every data folder."""
    corpus = build_stdlib_corpus()
    first, *others = (node.datadir.corpus for node in nodes)
    path = save_corpus(FileDisk(), first, corpus)
    for folder in others:
        os.link(path, compute_corpus_path(folder, corpus.data))
    return corpus.data


def _give_manifest(nodes: Sequence[SwarmNode], manifest: Manifest) -> None:
    for node in nodes:
        save_manifest(FileDisk(), node.datadir.manifest, manifest)


def _all_waiting(nodes: Sequence[SwarmNode]) -> Callable[[], bool]:
    return lambda: all(node.status and node.status.state is NodeState.WAITING for node in nodes)


def _all_loaded(nodes: Sequence[SwarmNode]) -> Callable[[], bool]:
    return lambda: all(node.status and node.status.parameters for node in nodes)


async def _agree(
    nodes: Sequence[SwarmNode], schedule: Schedule, rounds: int, view: SwarmView
) -> None:
    """Wait until all take part and hold the same last record; if they differ, the files will tell.

    A node shows a round one round after it has ended, so at least that long is waited.
    """
    shown_ms = round_start_ms(schedule, rounds + 1) + schedule.round_ms // 10
    end_ms = round_start_ms(schedule, rounds)
    deadline_ms = end_ms + max(AGREE_ROUNDS * schedule.round_ms, AGREE_MS)

    def missing() -> list[SwarmNode]:
        return [n for n in nodes if n.status is None or n.status.state not in TAKES_PART]

    def agreed() -> bool:
        heads = {node.status.head for node in nodes if node.status}
        now_ms = _now_ms()
        return now_ms >= deadline_ms or (now_ms >= shown_ms and not missing() and len(heads) == 1)

    view.say("waiting for every node to hold the last record")
    await _until(nodes, agreed, (deadline_ms - _now_ms()) / 1000 + 60, view)
    for node in missing():
        state = node.status.state.value if node.status else node.away or "silent"
        raise SwarmFailed(f"node {node.index} is not back at the end: {state}")


async def _until(
    nodes: Sequence[SwarmNode], holds: Callable[[], bool], deadline_s: float, view: SwarmView
) -> None:
    """Return once `holds()`; meanwhile look after the nodes and show them."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + deadline_s
    while True:
        refreshes: list[Awaitable[None]] = [node.refresh() for node in nodes]
        await asyncio.gather(*refreshes)
        check_alive(nodes)
        view.show([node.status for node in nodes], [node.away for node in nodes])
        if holds():
            return
        if loop.time() > deadline:
            states = ", ".join(node.status.state if node.status else "silent" for node in nodes)
            raise SwarmFailed(f"the nodes did not come along within {deadline_s:.0f} s: {states}")
        await asyncio.sleep(POLL_S)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
