"""Going on from another state than the one that is held, where replaying records does not do.

The states may be gone, in doubt, or none that leads to the others. `Recovering` loads one at a
time; what else was under way meanwhile is decided anew by the machine.
"""

import functools
from collections.abc import Callable, Coroutine

from demo_node.observer import RoundObserver
from demo_node.ports import LearnerLost
from demo_node.tensors import TensorDigests
from demo_protocol.conflict import adopt
from demo_protocol.effects import BeginAgain, Leap, Replay
from demo_protocol.events import Event, StartMoved, StatesLost
from demo_protocol.view import View

Load = Callable[[], Coroutine[None, None, StatesLost | StartMoved]]
"""Has the trainer hold a state, and says which."""

LoadTowards = Callable[[bytes], Coroutine[None, None, StatesLost | StartMoved]]
"""Loads a state that its argument descends from, or where the others are."""

FindReplay = Callable[[Replay], Coroutine[None, None, Load | None]]
"""Finds a state to compute again from, if anybody has one."""

FindWay = Callable[[Leap | BeginAgain], Coroutine[None, None, StatesLost | StartMoved | None]]
"""Loads a snapshot of the others' chain, if anybody has one."""


class Recovering:
    """Loads states. `post` tells the machine which one there is then."""

    def __init__(
        self,
        view: View,
        observer: RoundObserver,
        post: Callable[[Event], None],
        tensors: TensorDigests,
        *,
        resync: LoadTowards,
        find_replay: FindReplay,
        find_way: FindWay,
    ) -> None:
        self.is_under_way = False
        """Whoever works on a state now need not tell what came of it."""
        self.find_replay = find_replay
        self._view = view
        self._observer = observer
        self._post = post
        self._tensors = tensors
        self._resync = resync
        self._find_way = find_way
        self._finding_way = False
        self._recoveries = 0

    async def recover(self, target: bytes, *, is_loss: bool = True) -> None:
        """The states are gone or out of reach: begin again from a snapshot.

        It is no loss where the first state is not here yet.
        Whoever notices it first does it for all: what else was under way is decided anew then.
        """
        if not self.is_under_way:
            if is_loss:
                self._observer.on_event("states.lost", target=target.hex())
            await self._begin_again(functools.partial(self._resync, target))

    async def replay(self, effect: Replay) -> None:
        """Rule 20: compute again what most others have otherwise."""
        round_ = self._view.chain[effect.base].round
        self._observer.on_event("state.doubted", base=effect.base.hex(), round=round_)
        try:
            load = await self.find_replay(effect)
        except LearnerLost:
            return  # its own recovery is under way, and replays as well
        if load is not None and not self.is_under_way:
            self._tensors.forget()
            await self._begin_again(load)

    async def _begin_again(self, load: Load) -> None:
        """Go on from the state that `load` has the trainer hold."""
        self.is_under_way = True
        self._recoveries += 1
        while True:
            try:
                event = await load()
            except LearnerLost:
                continue  # it died again; its supervisor paces the restarts
            self.is_under_way = False
            self._post(event)
            return

    async def find_way(self, effect: Leap | BeginAgain) -> None:
        """Rules 16 and 25: go on from a snapshot where replaying does not lead to the others.

        One search at a time: while it goes on, others are not begun.
        """
        if self._finding_way:
            return
        self._finding_way = True
        recoveries = self._recoveries
        try:
            moved = await self._find_way(effect)
        except LearnerLost:
            moved = None  # its own recovery is under way; the next round asks again
        finally:
            self._finding_way = False
        if moved is None:
            return
        if recoveries != self._recoveries:
            return  # the trainer that it was loaded into may be gone; the next round asks again
        if isinstance(moved, StartMoved):
            self._observer.on_event("start.moved", record=moved.state.record.hex())
        self._post(moved)

    async def adopt(self, prefix: str) -> bytes:
        """Go over to the chain that conflicts with what is final here; returns where it begins now.

        Raises LookupError where none such is named, or nobody gives a snapshot.
        """
        effect = adopt(self._view, prefix)
        await self.find_way(effect)
        if self._view.final is not None or self._view.conflict is not None:
            raise LookupError(
                "no connected peer gives a snapshot of that chain now; look at demo-node peers"
                " and try again"
            )
        return self._view.chain.root.record
