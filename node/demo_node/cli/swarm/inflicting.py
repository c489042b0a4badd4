"""Makes the events of a plan happen to running nodes, and notes what came of each."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from demo_node.cli.swarm.agreeing import Agreeing
from demo_node.cli.swarm.node import SwarmNode
from demo_node.cli.swarm.nodes import Swarm
from demo_node.cli.swarm.processes import kill_member
from demo_node.sim.links import Cut
from demo_node.sim.scenario import Do, Event, choose, split
from demo_protocol.schedule import Schedule, round_at

LOOK_S: Final = 0.1
"""How often a victim is looked at, and so how exactly it is known when it recovered."""

LEAVE_ROUNDS: Final = 1
LEAVE_S: Final = 60.0
"""A node leaves within one round and 10 s; on a machine full of other nodes it may take longer."""

Say = Callable[[str], None]
"""Shows one line of what happens."""


@dataclass(slots=True)
class Suffered:
    """What was done to a node, or to the wires between nodes: then `node` is None.

    `back_s`: from then until the node took part (again), had another trainer with the parameters
    loaded, ran again; until the cut healed. None while it has not.
    """

    do: Do
    node: int | None
    round: int
    back_s: float | None = None
    begin_s: float = field(default_factory=time.monotonic)

    def end(self) -> float:
        """It is over now: after so many seconds."""
        self.back_s = time.monotonic() - self.begin_s
        return self.back_s


class Inflicter:
    """Lets the events happen, each at its time."""

    def __init__(self, swarm: Swarm, schedule: Schedule, agreeing: Agreeing, say: Say) -> None:
        self.suffered: list[Suffered] = []
        self._swarm = swarm
        self._schedule = schedule
        self._agreeing = agreeing
        self._say = say
        self._down: dict[int, Suffered] = {}
        """Nodes that were killed, left or were stopped, and are not back."""
        self._cuts: list[tuple[Cut, Suffered]] = []

    async def run(self, plan: Sequence[Event], seed: int) -> None:
        """Return when the last one is over. Raises SwarmFailed."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for index, event in enumerate(plan):
                    await asyncio.sleep(self._compute_s(event) - time.time())
                    for work in self._list_work(event, index, seed):
                        tasks.create_task(work)
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    def _compute_s(self, event: Event) -> float:
        """When it happens, in Unix time."""
        schedule = self._schedule
        return (schedule.genesis_ms + (event.round + event.at) * schedule.round_ms) / 1000

    def _list_work(self, event: Event, index: int, seed: int) -> list[Coroutine[Any, Any, None]]:
        """What is to be done now. Who it happens to is decided here, by who can suffer it."""
        lasts_s = event.rounds * self._schedule.round_ms / 1000 or None
        nodes = self._swarm.nodes

        def chosen(*away: str) -> list[SwarmNode]:
            able = [n.index for n in nodes if n.away in away and not n.has_failed]
            found = [nodes[number] for number in choose(event, index, seed, able)]
            if not found:
                self._say(f"round {self._round()}: nobody is there for {event.do.value}")
            return found

        match event.do:
            case Do.KILL | Do.POWER_CUT:
                return [self._kill(node, event.do, lasts_s) for node in chosen("")]
            case Do.TRAINER_DIES:
                return [self._kill_trainer(node) for node in chosen("")]
            case Do.STOP:
                return [self._stop(node, lasts_s) for node in chosen("")]
            case Do.CONTINUE:
                return [self._go_on(node) for node in chosen("stopped")]
            case Do.LEAVE:
                return [self._leave(node, lasts_s) for node in chosen("")]
            case Do.RESTART:
                return [self._come_back(node) for node in chosen("killed", "left")]
            case Do.JOIN:
                present = sum(not node.away for node in nodes)
                return [self._join() for _ in range(event.count_of(present))]
            case Do.CUT:
                everybody = [node.index for node in nodes]
                left, right = split(event, choose(event, index, seed, everybody), everybody)
                return [self._cut(Cut(left, right, event.one_way), lasts_s)]
            case Do.HEAL:
                return [self._heal(cut) for cut, _ in self._cuts]
            case Do.CLOCK | Do.SLOW | Do.FULL_DISK | Do.LIE:
                return []  # the operator was told so

    async def _kill(self, node: SwarmNode, do: Do, down_s: float | None) -> None:
        back = "" if down_s is None else f", back in {down_s:.0f} s"
        self._down[node.index] = self._note(do, node, f"killed (SIGKILL){back}")
        await node.kill()
        await self._come_back_after(node, down_s)

    async def _leave(self, node: SwarmNode, away_s: float | None) -> None:
        self._down[node.index] = self._note(Do.LEAVE, node, "leaves (SIGTERM)")
        await node.leave(LEAVE_ROUNDS * self._schedule.round_ms / 1000 + LEAVE_S)
        self._tell(node.index, "has left")
        await self._come_back_after(node, away_s)

    async def _come_back_after(self, node: SwarmNode, down_s: float | None) -> None:
        """Unless an event started it sooner."""
        life = node.life
        if down_s is not None:
            await asyncio.sleep(down_s)
            if node.life is life:
                await self._come_back(node)

    async def _come_back(self, node: SwarmNode) -> None:
        event = self._down.pop(node.index)
        await node.start_again()
        self._tell(node.index, "is started again")
        await self._see_it_take_part(node, event, "takes part again")

    async def _join(self) -> None:
        node = await self._swarm.join()
        event = self._note(Do.JOIN, node, "is new")
        await self._see_it_take_part(node, event, "takes part")

    async def _see_it_take_part(self, node: SwarmNode, event: Suffered, what: str) -> None:
        life = node.life
        while not life.took_part:
            if node.life is not life or node.is_down:
                return  # gone again before it was back
            await asyncio.sleep(LOOK_S)
            await node.refresh()
        replayed = life.status.replayed_total if life.status else 0
        self._tell(node.index, f"{what} after {event.end():.1f} s, {replayed} rounds replayed")

    async def _kill_trainer(self, node: SwarmNode) -> None:
        life = node.life
        while not kill_member(victim := await _find_trainer(node), node.pid):
            if node.life is not life or node.away:
                self._tell(node.index, "had no trainer to kill before it was gone itself")
                return
            await asyncio.sleep(LOOK_S)  # it is starting one
        event = self._note(Do.TRAINER_DIES, node, "lost its trainer (SIGKILL)")
        while not node.status or node.status.trainer_pid in (0, victim):
            if node.life is not life or node.away:
                return  # now the node itself is gone
            await asyncio.sleep(LOOK_S)
            await node.refresh()
        self._tell(node.index, f"has another trainer after {event.end():.1f} s")

    async def _stop(self, node: SwarmNode, seconds: float | None) -> None:
        length = "" if seconds is None else f" for {seconds:.0f} s"
        event = self._note(Do.STOP, node, f"stopped (SIGSTOP){length}")
        self._down[node.index] = event
        node.stop()
        if seconds is not None:
            try:
                await asyncio.sleep(seconds)
            finally:
                if self._down.get(node.index) is event:
                    await self._go_on(node)

    async def _go_on(self, node: SwarmNode) -> None:
        self._down.pop(node.index).end()
        with contextlib.suppress(ProcessLookupError):
            node.go_on()
        self._tell(node.index, "runs again (SIGCONT)")

    async def _cut(self, cut: Cut, seconds: float | None) -> None:
        event = Suffered(Do.CUT, None, self._round())
        self.suffered.append(event)
        self._cuts.append((cut, event))
        self._swarm.wires.add_cut(cut)
        self._agreeing.on_cut()
        self._say(f"round {event.round}: {_describe(cut)}")
        if seconds is not None:
            await asyncio.sleep(seconds)
            await self._heal(cut)

    async def _heal(self, cut: Cut) -> None:
        for entry in self._cuts:
            if entry[0] is cut:
                self._cuts.remove(entry)
                self._swarm.wires.heal(cut)
                took_s = entry[1].end()
                self._say(f"round {self._round()}: healed after {took_s:.1f} s: {_describe(cut)}")
                if not self._cuts:
                    self._agreeing.on_heal(self._round())
                return

    def _note(self, do: Do, node: SwarmNode, what: str) -> Suffered:
        event = Suffered(do, node.index, self._round())
        self.suffered.append(event)
        self._tell(node.index, what)
        return event

    def _tell(self, node: int, what: str) -> None:
        self._say(f"round {self._round()}: node {node} {what}")

    def _round(self) -> int:
        return round_at(self._schedule, time.time_ns() // 1_000_000)


async def _find_trainer(node: SwarmNode) -> int:
    """Process id of its trainer; 0 while it has none, or is away."""
    await node.refresh()
    return node.status.trainer_pid if node.status else 0


def _describe(cut: Cut) -> str:
    left, right = _name(cut.left), _name(cut.right)
    if cut.one_way:
        return f"cut one way, from {left} to {right}"
    return f"cut between {left} and {right}"


def _name(side: frozenset[int]) -> str:
    return f"{'node' if len(side) == 1 else 'nodes'} {', '.join(map(str, sorted(side)))}"
