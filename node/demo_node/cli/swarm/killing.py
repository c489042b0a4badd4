"""Carries out the faults of a plan on running nodes, and notes what came of each."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from demo_node.cli.swarm.faults import Fault, FaultKind
from demo_node.cli.swarm.nodes import SwarmNode
from demo_node.cli.swarm.processes import kill_member
from demo_protocol.schedule import Schedule, round_at

LOOK_S: Final = 0.1
"""How often a victim is looked at, and so how exactly it is known when it recovered."""

Say = Callable[[str], None]
"""Shows one line of what happens."""


@dataclass(slots=True)
class Suffered:
    """A fault that was inflicted.

    `back_s`: from the signal until the killed node took part again, until the node had another
    trainer with the parameters loaded, until the stopped node ran again; None while it has not.
    """

    fault: Fault
    round: int
    back_s: float | None = None


class Killer:
    """Inflicts the faults, each at its time."""

    def __init__(self, nodes: Sequence[SwarmNode], schedule: Schedule, say: Say) -> None:
        self.suffered: list[Suffered] = []
        self._nodes = nodes
        self._schedule = schedule
        self._say = say

    async def run(self, faults: Sequence[Fault]) -> None:
        """Return when the last victim is back."""
        await asyncio.gather(*(self._inflict(fault) for fault in faults))

    async def _inflict(self, fault: Fault) -> None:
        at_s = (self._schedule.genesis_ms + fault.at_ms) / 1000
        await asyncio.sleep(at_s - time.time())
        node = self._nodes[fault.node]
        if node.process.returncode is not None:
            return  # it has failed by itself, which ends the swarm
        match fault.kind:
            case FaultKind.KILL:
                await self._kill(node, fault)
            case FaultKind.KILL_TRAINER:
                await self._kill_trainer(node, fault)
            case FaultKind.STALL:
                await self._stall(node, fault)

    async def _kill(self, node: SwarmNode, fault: Fault) -> None:
        event = self._note(fault, f"killed (SIGKILL), back in {fault.lasts_ms / 1000:.0f} s")
        begin_s = time.monotonic()
        await node.kill()
        await asyncio.sleep(fault.lasts_ms / 1000)
        await node.start_again()
        life = node.life
        while not life.took_part:
            if node.life is not life or node.away:
                return  # killed again before it was back
            await asyncio.sleep(LOOK_S)
            await node.refresh()
        event.back_s = time.monotonic() - begin_s
        replayed = life.status.replayed_total if life.status else 0
        self._tell(
            fault.node, f"takes part again after {event.back_s:.1f} s, {replayed} rounds replayed"
        )

    async def _kill_trainer(self, node: SwarmNode, fault: Fault) -> None:
        await node.refresh()
        victim = node.status.trainer_pid if node.status else 0
        if not kill_member(victim, node.pid):
            self._tell(fault.node, "has no trainer to kill just now")
            return
        event = self._note(fault, "lost its trainer (SIGKILL)")
        begin_s, life = time.monotonic(), node.life
        while not node.status or node.status.trainer_pid in (0, victim):
            if node.life is not life or node.away:
                return  # now the node itself is gone
            await asyncio.sleep(LOOK_S)
            await node.refresh()
        event.back_s = time.monotonic() - begin_s
        self._tell(fault.node, f"has another trainer after {event.back_s:.1f} s")

    async def _stall(self, node: SwarmNode, fault: Fault) -> None:
        seconds = fault.lasts_ms / 1000
        event = self._note(fault, f"stopped (SIGSTOP) for {seconds:.0f} s")
        node.stop()
        try:
            await asyncio.sleep(seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                node.go_on()
        event.back_s = seconds
        self._tell(fault.node, "runs again (SIGCONT)")

    def _note(self, fault: Fault, what: str) -> Suffered:
        event = Suffered(fault, self._round())
        self.suffered.append(event)
        self._tell(fault.node, what)
        return event

    def _tell(self, node: int, what: str) -> None:
        self._say(f"round {self._round()}: node {node} {what}")

    def _round(self) -> int:
        return round_at(self._schedule, time.time_ns() // 1_000_000)
