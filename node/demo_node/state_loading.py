"""States that the trainer is to hold: found on the disk or at peers, loaded, and told the machine.

At the start, where states were lost (`resync`), are in doubt (`find_replay`), or do not lead to
where the others are (`find_way`).
"""

import asyncio
import contextlib
import functools

from demo_node.believing import Say
from demo_node.final_keeping import FinalKeeping
from demo_node.observer import RoundObserver
from demo_node.ports import Learner, LearnerLost
from demo_node.recovering import Load
from demo_node.starting import Start, StartFinder
from demo_node.store.final_file import KeptFinal
from demo_node.store.snapshots import SnapshotStore
from demo_node.system_clock import SystemClock
from demo_protocol.astray import find_wanted
from demo_protocol.effects import BeginAgain, Leap, Replay
from demo_protocol.errors import ConfigError
from demo_protocol.events import StartMoved, StatesLost
from demo_protocol.round import Round

ASK_AGAIN_S = 2.0
"""Pause before peers are asked again for a snapshot that nobody gave."""


class StateLoading:
    """Loads states for one node. Of its machine it knows from `open` on."""

    def __init__(
        self,
        finder: StartFinder,
        snapshots: SnapshotStore,
        learner: Learner,
        clock: SystemClock,
        observer: RoundObserver,
        say: Say,
    ) -> None:
        self._finder = finder
        self._snapshots = snapshots
        self._learner = learner
        self._clock = clock
        self._observer = observer
        self._say = say
        self._promised: Start | None = None
        self._machine: Round | None = None
        self._finals: FinalKeeping | None = None

    def open(self, machine: Round, finals: FinalKeeping) -> None:
        """There is a machine now, that follows a chain."""
        self._machine, self._finals = machine, finals

    def promise(self, start: Start) -> None:
        """The first state is not here yet: `resync` fetches it."""
        self._promised = start

    async def load(self, start: Start) -> bytes:
        """Have the trainer hold a state; its digest must be what the snapshot says."""
        snapshot = start.snapshot
        if start.digest is not None:
            return start.digest
        raw = await asyncio.to_thread(self._snapshots.read, snapshot) if snapshot else None
        digest = await self._learner.load(start.state.record, raw)
        if snapshot is not None and digest != snapshot.info.digest:
            raise ConfigError(
                f"{snapshot.path}: not what it says it holds; remove it and start again"
            )
        return digest

    def tell(self, start: Start) -> None:
        """Say that a state was loaded."""
        self._observer.on_event(
            "state.loaded",
            round=start.state.round,
            record=start.state.record.hex(),
            path=str(start.snapshot.path) if start.snapshot else "",
        )

    async def resync(self, target: bytes) -> StatesLost | StartMoved:
        """Load a state from which replaying leads to `target`, or at least to the others."""
        assert self._machine is not None
        view, finder = self._machine.view, self._finder
        if self._promised is not None:
            found = await finder.fulfil(self._promised)  # LearnerLost: it is asked for again
            self._promised = None
            if found is not None:
                self.tell(found)
                return await self._loaded(found)
        while True:
            finder.final = view.final
            # Meanwhile the chain may have been pruned, with what was aimed at; and the others go
            # on: the snapshots they give are of records after that.
            goal = target if target in view.chain else view.head
            found = (
                await finder.find_below(view, goal)
                or await finder.find_beyond(view, view.chain.root.record, find_wanted(view))
                or await finder.find_elsewhere(view)
            )
            if found is not None:
                return await self._loaded(found)
            self._say("no snapshot leads to the swarm's record; asking peers for one")
            await asyncio.sleep(ASK_AGAIN_S)

    async def find_replay(self, effect: Replay) -> Load | None:
        """How to hold a state that nobody contradicts, to replay from; None where nobody has one.

        Ours before a peer's; and where there is none, one that most headers give the digest of.
        """
        assert self._machine is not None
        view = self._machine.view
        found = await self._finder.find_among(effect.verified, view)
        if found is None:
            first = view.chain.root.record
            found = await self._finder.find_beyond(view, first, find_wanted(view))
        if found is None or found.state.record not in view.digests:
            self._say("nothing to replay from: nobody has a snapshot that most confirm")
            return None
        return functools.partial(self._load_again, found)

    async def discard_wrong(self) -> None:
        """Snapshots of states that a replay has shown to be wrong."""
        assert self._machine is not None
        digests = dict(self._machine.view.digests)
        await asyncio.to_thread(
            self._snapshots.discard,
            lambda info: digests.get(info.record, info.digest) != info.digest,
        )

    async def _load_again(self, start: Start) -> StatesLost:
        """The state after a record that was applied here, and no other.

        What is held is forgotten first: it may be in doubt, and is to be computed, not looked up.
        """
        assert self._machine is not None
        record, held = start.state.record, self._machine.replica.states
        with contextlib.suppress(LearnerLost):  # then there is nothing left to forget
            await self._learner.forget(sorted(held - {record}))
        digest = await self.load(start)
        return StatesLost(self._clock.now_ms(), record, digest)

    async def find_way(self, effect: Leap | BeginAgain) -> StatesLost | StartMoved | None:
        """Load a snapshot of the chain that the others are on, if anybody has one."""
        assert self._machine is not None
        view = self._machine.view
        self._finder.final = view.final
        match effect:
            case Leap(over, target):
                found = await self._finder.find_beyond(view, over, target)
            case BeginAgain(adopts=records) if records:
                found = await self._finder.find_rival(records)
            case BeginAgain(above):
                found = await self._finder.find_elsewhere(view, above)
        if found is None:
            return None
        if isinstance(effect, Leap) and found.state.record in view.digests:
            return None  # a recovery has led there meanwhile: nothing that is held must go
        event = await self._loaded(found)
        if not isinstance(effect, BeginAgain) or not effect.adopts:
            return event
        assert self._finals is not None
        await self._finals.write_adopted(KeptFinal(None, found.state))
        return StartMoved(event.now_ms, found.state, event.digest, adopted=True)

    async def _loaded(self, start: Start) -> StatesLost | StartMoved:
        """Where we were before, or where we never were?"""
        assert self._machine is not None
        if start.state.record in self._machine.view.digests:
            return await self._load_again(start)
        digest = await self.load(start)
        return StartMoved(self._clock.now_ms(), start.state, digest)
