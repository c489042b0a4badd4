"""What can befall the nodes of a simulated world, one at a time, and how each is undone.

Only what really happened is counted: nobody kills the dead.
"""

import functools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from demo_node.sim.actor import Actor
from demo_node.sim.liars import make_dishonest
from demo_node.sim.links import Cut
from demo_node.sim.world import World

MIDST_OPERATIONS = 8
"""A power cut, or the end of room on a disk, comes at one of the next so many disk operations."""


@dataclass(slots=True)
class Parting:
    """A cut that lasts. Where it `parts_all`, who is born meanwhile falls on one side of it."""

    cut: Cut
    parts_all: bool


class Faults:
    """Does to nodes what a scenario or its mix wants, and counts it by kind."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = random.Random(f"{world.seed}/faults")
        self.counts: Counter[str] = Counter()
        self.comings: Counter[str] = Counter()
        self._partings: list[Parting] = []

    # --- nodes go --------------------------------------------------------------------------------

    def kill(self, actor: Actor) -> bool:
        """The process dies."""
        return self._end(actor, "crash", actor.crash)

    def vanish(self, actor: Actor) -> bool:
        """It dies as one of many at this moment."""
        return self._end(actor, "mass_leave", actor.crash)

    def leave(self, actor: Actor) -> bool:
        """It says good-bye."""
        return self._end(actor, "leave", actor.leave)

    def power_cut(self, actor: Actor) -> bool:
        """The machine is off: now, or in the midst of one of its next writes."""
        if self.rng.random() < 0.5:
            return self._end(actor, "power_cut", functools.partial(actor.crash, power_cut=True))
        return self._fail_disk(actor, "power_cut")

    def fill_disk(self, actor: Actor) -> bool:
        """A write fails half-way: the node ends. It may come back when there is room."""
        actor.disk.is_full = is_hit = self._fail_disk(actor, "full_disk")
        return is_hit

    def _end(self, actor: Actor, kind: str, end: Callable[[], None]) -> bool:
        if not is_able(actor):
            return False
        self._count(actor, kind)
        end()
        return True

    def _fail_disk(self, actor: Actor, kind: str) -> bool:
        if not is_able(actor):
            return False
        actor.disk.files.operations_left = self.rng.randrange(MIDST_OPERATIONS)
        # Whoever writes nothing for a round ends all the same.
        actor.later(self.world.manifest.schedule.round_ms, actor.crash)
        self._count(actor, kind)
        return True

    # --- nodes come ------------------------------------------------------------------------------

    def restart(self, actor: Actor) -> bool:
        """It starts again on its disk, if it is down."""
        if actor.is_alive:
            return False
        actor.disk.is_full, actor.disk.files.operations_left = False, None
        self.comings["return"] += 1
        self._note(actor, "return")
        actor.boot()
        return True

    def join(self) -> Actor:
        """A new node. The caller says what it is like, and boots it."""
        actor = self.world.add()
        self.comings["join"] += 1
        self._note(actor, "join")
        for parting in self._partings:
            if parting.parts_all:
                self.world.links.heal(parting.cut)
                parting.cut = _grow(parting.cut, actor.index, self.rng)
                self.world.links.add_cut(parting.cut)
        return actor

    # --- nodes suffer ----------------------------------------------------------------------------

    def hang(self, actor: Actor) -> bool:
        """It neither runs nor answers."""
        return self._end(actor, "hang", actor.hang)

    def run_on(self, actor: Actor) -> bool:
        """It runs again."""
        if not actor.is_alive or actor.is_up:
            return False
        self._note(actor, "runs on")
        actor.run_on()
        return True

    def step_clock(self, actor: Actor, ms: int) -> bool:
        """Its machine's wall clock is set wrong, or right again."""
        actor.offset_ms += ms
        self._count(actor, "clock")
        return True

    def slow_down(self, actor: Actor, factor: float) -> bool:
        """Its work takes so many times longer; 1 is as it was."""
        actor.traits.slowness = max(round(factor), 1)
        if factor > 1:
            self._count(actor, "slow")
        return True

    def kill_trainer(self, actor: Actor) -> bool:
        """The child process with the states dies."""
        if not is_able(actor) or not actor.trainer.die():
            return False
        self._count(actor, "trainer_dies")
        return True

    def withhold(self, actor: Actor) -> bool:
        """It announces payloads, and gives them to nobody."""
        if not is_able(actor):
            return False
        actor.traits.withholds = lambda asking, payload: True
        self._count(actor, "withhold")
        return True

    def give_again(self, actor: Actor) -> None:
        """It gives what it has, as everybody does."""
        actor.traits.withholds = None
        self._note(actor, "gives payloads again")

    def turn(self, actor: Actor, how: str) -> bool:
        """It tells one kind of lies from now on."""
        if actor.traits.how:
            return False
        make_dishonest(actor, how)
        self._count(actor, "liar")
        return True

    # --- links -----------------------------------------------------------------------------------

    def cut(self, cut: Cut, kind: str, *, parts_all: bool) -> Parting:
        """Some do not hear some others from now on."""
        self.counts[kind] += 1
        sides = f"{len(cut.left)} | {len(cut.right)} nodes"
        self.world.watcher.on_fault_injected(None, f"{kind} between {sides}")
        parting = Parting(cut, parts_all)
        self._partings.append(parting)
        self.world.links.add_cut(cut)
        return parting

    def heal(self, parting: Parting | None = None) -> bool:
        """One cut is over, or all are."""
        ending = [p for p in self._partings if parting is None or p is parting]
        for ended in ending:
            self._partings.remove(ended)
            self.world.links.heal(ended.cut)
        if ending:
            self.world.watcher.on_fault_injected(None, "healed")
            self.world.watcher.on_healed(self.world)
        return bool(ending)

    def _count(self, actor: Actor, kind: str) -> None:
        self.counts[kind] += 1
        self._note(actor, kind)

    def _note(self, actor: Actor, what: str) -> None:
        self.world.watcher.on_fault_injected(actor, what)


def is_able(actor: Actor) -> bool:
    """Does it live, and does no death await it already?"""
    return actor.is_up and actor.disk.files.operations_left is None


def _grow(cut: Cut, index: int, rng: random.Random) -> Cut:
    if rng.random() * (len(cut.left) + len(cut.right)) < len(cut.left):
        return Cut(cut.left | {index}, cut.right, cut.one_way)
    return Cut(cut.left, cut.right | {index}, cut.one_way)
