"""A swarm's life: up, genesis, rounds, agreement, measurement."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from demo_node.cli.plan import plan_run, plan_schedule
from demo_node.cli.swarm.agreeing import Agreeing
from demo_node.cli.swarm.inflicting import Inflicter
from demo_node.cli.swarm.live import SwarmView
from demo_node.cli.swarm.lives import TAKES_PART, count_sent
from demo_node.cli.swarm.measure import (
    RECORDS_WANTED,
    SwarmReport,
    evaluate_genesis,
    measure_swarm,
)
from demo_node.cli.swarm.node import SwarmFailed, SwarmNode, check_alive
from demo_node.cli.swarm.nodes import SwarmOptions, running_swarm
from demo_node.control.client import NotAnswering, NotRunning, Refused
from demo_node.views import NodeState
from demo_protocol.manifest import Data, Manifest, validate_manifest
from demo_protocol.schedule import Schedule, round_start_ms

POLL_S, POLLS_A_ROUND, POLL_MAX_S = 0.5, 10, 2.0
"""How often all nodes are asked for their status; more seldom where a round is long, as each answer
costs a node some milliseconds."""

UP_DEADLINE_S: Final = 180.0
"""Starting is mostly importing; on a busy machine with cold disks that takes long."""

GENESIS_DELAY_MS, GENESIS_DELAY_MAX_MS = 6_000, 30_000
"""From the manifest being there to round 0: the mesh forms and the trainers load. Where nodes took
longer until they were up, that takes longer, too."""

GENESIS_NODES: Final = 8
GENESIS_PER_NODE_MS: Final = 2_000
"""So much longer for each node above so many: each has to shake hands with a dozen others."""

AGREE_ROUNDS: Final = 3
AGREE_MS: Final = 15_000
"""At most so long after the last round, the longer of both, for all to hold the last record."""


async def run_swarm(folder: Path, options: SwarmOptions, view: SwarmView) -> SwarmReport:
    """Run it to its end; no process is left afterwards. Raises SwarmFailed."""
    begin_ms = _now_ms()
    async with running_swarm(folder, options) as swarm:
        nodes, rounds = swarm.nodes, options.rounds
        view.start(len(nodes), folder)
        data = await asyncio.to_thread(swarm.share_corpus)
        await _until(nodes, _all_waiting(nodes), UP_DEADLINE_S, view)
        delay_ms = compute_delay_ms(len(nodes), _now_ms() - begin_ms)
        manifest = plan_manifest(options, _now_ms() + delay_ms, data)
        schedule = manifest.schedule
        await asyncio.to_thread(swarm.give_manifest, manifest)
        view.begin(rounds)
        await _until(nodes, _all_loaded(nodes), UP_DEADLINE_S, view)
        loss_first = await evaluate_genesis(nodes[0])  # now: no trainer is busy, each holds it
        end_ms = round_start_ms(schedule, rounds)
        agreeing = Agreeing()
        inflicter = Inflicter(swarm, schedule, agreeing, view.tell)
        scenario = options.scenario

        def look() -> None:
            agreeing.look(nodes)

        async with _meanwhile(inflicter.run(scenario.plan(), scenario.seed)):
            deadline_s = (end_ms - _now_ms()) / 1000 + 60
            await _until(
                nodes, lambda: _now_ms() >= end_ms, deadline_s, view, look, compute_poll_s(schedule)
            )
            sent = [count_sent(node.lives) for node in nodes]
            await _agree(nodes, schedule, rounds, view, look)
        view.say("reading the nodes' snapshot files")
        try:
            report = await measure_swarm(
                nodes,
                rounds,
                sent,
                loss_first,
                inflicter.suffered,
                agreeing.heals,
            )
        except (NotRunning, NotAnswering, Refused) as error:
            raise SwarmFailed(f"a node does not answer at the end: {error}") from None
    unclean = [node.index for node in nodes if node.process.returncode and not node.is_down]
    return replace(
        report,
        scenario=scenario.name,
        held=swarm.wires.held,
        agree_within_s=manifest.agreement.final_depth * schedule.round_ms / 1000,
        records_wanted=0.0 if options.is_wired else RECORDS_WANTED,
        unclean=unclean,
        left_behind=swarm.left_behind,
    )


def compute_delay_ms(nodes: int, up_ms: int) -> int:
    """From the manifest being there to round 0, where nodes were up after so long."""
    load_ms = min(max(up_ms, GENESIS_DELAY_MS), GENESIS_DELAY_MAX_MS)
    return load_ms + GENESIS_PER_NODE_MS * max(0, nodes - GENESIS_NODES)


def plan_manifest(options: SwarmOptions, genesis_ms: int, data: Data) -> Manifest:
    """The swarm's run. Raises ConfigError where the scenario asks for none that works."""
    scenario = options.scenario
    manifest = plan_run(
        name="swarm",
        seed=scenario.seed,
        preset=options.preset,
        schedule=plan_schedule(genesis_ms, options.round_ms),
        data=data,
        rounds=scenario.rounds,
    )
    agreement = scenario.adjust(manifest.agreement)
    schedule = plan_schedule(genesis_ms, options.round_ms, agreement.overlap_rounds)
    manifest = replace(manifest, agreement=agreement, schedule=schedule)
    validate_manifest(manifest)
    return manifest


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


def _all_waiting(nodes: Sequence[SwarmNode]) -> Callable[[], bool]:
    return lambda: all(node.status and node.status.state is NodeState.WAITING for node in nodes)


def _all_loaded(nodes: Sequence[SwarmNode]) -> Callable[[], bool]:
    return lambda: all(node.status and node.status.parameters for node in nodes)


async def _agree(
    nodes: Sequence[SwarmNode],
    schedule: Schedule,
    rounds: int,
    view: SwarmView,
    look: Callable[[], None],
) -> None:
    """Wait until all take part and hold the same last record; if they differ, the files will tell.

    Who is away by then does not count. A node shows a round one round after it has ended, so at
    least that long is waited.
    """
    shown_ms = round_start_ms(schedule, rounds + 1) + schedule.round_ms // 10
    end_ms = round_start_ms(schedule, rounds)
    deadline_ms = end_ms + max(AGREE_ROUNDS * schedule.round_ms, AGREE_MS)

    def missing() -> list[SwarmNode]:
        present = [node for node in nodes if not node.away]
        return [n for n in present if n.status is None or n.status.state not in TAKES_PART]

    def agreed() -> bool:
        heads = {node.status.head for node in nodes if node.status}
        now_ms = _now_ms()
        return now_ms >= deadline_ms or (now_ms >= shown_ms and not missing() and len(heads) == 1)

    view.say("waiting for every node to hold the last record")
    deadline_s, poll_s = (deadline_ms - _now_ms()) / 1000 + 60, compute_poll_s(schedule)
    await _until(nodes, agreed, deadline_s, view, look, poll_s)
    for node in missing():
        state = node.status.state.value if node.status else "silent"
        raise SwarmFailed(f"node {node.index} is not back at the end: {state}")
    if all(node.away for node in nodes):
        raise SwarmFailed("no node is left at the end")


async def _until(
    nodes: Sequence[SwarmNode],
    holds: Callable[[], bool],
    deadline_s: float,
    view: SwarmView,
    look: Callable[[], None] = lambda: None,
    poll_s: float = POLL_S,
) -> None:
    """Return once `holds()`; meanwhile look after the nodes and show them."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + deadline_s
    while True:
        refreshes: list[Awaitable[None]] = [node.refresh() for node in nodes]
        await asyncio.gather(*refreshes)
        check_alive(nodes)
        view.show([node.status for node in nodes], [node.away for node in nodes])
        look()
        if holds():
            return
        if loop.time() > deadline:
            states = ", ".join(node.status.state if node.status else "silent" for node in nodes)
            raise SwarmFailed(f"the nodes did not come along within {deadline_s:.0f} s: {states}")
        await asyncio.sleep(poll_s)


def compute_poll_s(schedule: Schedule) -> float:
    """Seconds between two looks at all nodes while they train."""
    return min(max(POLL_S, schedule.round_ms / 1000 / POLLS_A_ROUND), POLL_MAX_S)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
