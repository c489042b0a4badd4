"""Keeping snapshots: every so many records, on request, and at the end."""

import asyncio
import contextlib
from collections.abc import Iterator

from demo_node.observer import Figure, RoundObserver
from demo_node.ports import Clock, Learner, LearnerLost
from demo_node.round import RoundDriver
from demo_node.store.snapshot_info import SnapshotInfo
from demo_node.store.snapshots import Snapshot, SnapshotStore
from demo_protocol.answers import encode_chain_state
from demo_protocol.errors import ConfigError
from demo_protocol.manifest import carries_root
from demo_protocol.roster import ChainState
from demo_protocol.schedule import round_start_ms

TRY_AGAIN_S = 2.0
"""Pause after the trainer could not give the run's last state."""


class Snapshotting:
    """Writes the parameters after the head to disk."""

    def __init__(
        self,
        driver: RoundDriver,
        learner: Learner,
        snapshots: SnapshotStore,
        observer: RoundObserver,
        newest: Snapshot | None,
    ) -> None:
        self._driver = driver
        self._learner = learner
        self._snapshots = snapshots
        self._observer = observer
        self._writing = asyncio.Lock()
        self._is_unwritable = False
        self.newest = newest

    def figures(self) -> Iterator[Figure]:
        """What lies on disk."""
        yield Figure("demo_snapshot_bytes", self.newest.file_bytes if self.newest else 0)

    async def find_served(self) -> None:
        """After a start: check the newest snapshot whose root a record carries, to give it away.

        What a node begins with may be one of its own, from its last end, which no root names.
        """
        agreement = self._driver.view.manifest.agreement
        with contextlib.suppress(ConfigError):
            await asyncio.to_thread(
                self._snapshots.newest, lambda info: carries_root(agreement, info.height + 1)
            )

    async def run(self) -> None:
        """Save every state whose root the next record carries (rule 21), for ever."""
        saved = self._driver.view.head_state.height
        while True:
            await self._driver.wait_for_head_change()
            due = self._find_due(saved)
            if due is not None and (await self._try_save(due) or self._is_unwritable):
                saved = due.height  # a full disk is tried again when the next one is due

    def _find_due(self, above: int) -> ChainState | None:
        """The newest such state of a height above this that the trainer still has."""
        view, held = self._driver.view, self._driver.machine.replica.states
        for step in view.chain.ancestors(view.head):
            if step.hash not in held or step.state.height <= above:
                return None
            if carries_root(view.manifest.agreement, step.state.height + 1):
                return step.state
        return None

    async def run_end(self, clock: Clock) -> None:
        """When the run has had its last round, save what it came to, and what comes late."""
        manifest = self._driver.view.manifest
        if not manifest.rounds_total:
            return
        # Its last record is applied in its last round, or in the one after.
        await clock.sleep_until_ms(round_start_ms(manifest.schedule, manifest.rounds_total + 1))
        while True:
            if not await self._try_save():
                await asyncio.sleep(TRY_AGAIN_S)
            elif self._is_saved():
                await self._driver.wait_for_head_change()

    async def _try_save(self, state: ChainState | None = None) -> bool:
        """Whether a snapshot is there, of the head by default; a trainer that died gives none.

        Nor can one be had while the disk takes none. That is said once: the node can go on.
        """
        try:
            await self._save(state or self._driver.view.head_state)
        except (LearnerLost, LookupError) as error:
            self._observer.on_event("snapshot.missed", reason=str(error))
            return False
        except ConfigError as error:
            if not self._is_unwritable:
                self._observer.on_event("snapshot.missed", reason=str(error))
            self._is_unwritable = True
            return False
        self._is_unwritable = False
        await self._driver.momentum.save()
        return True

    def _is_saved(self, state: ChainState | None = None) -> bool:
        record = state.record if state else self._driver.view.head
        return self.newest is not None and self.newest.info.record == record

    async def save_head(self) -> Snapshot:
        """Write the state after the head, unless the newest snapshot is just that; and momentum.

        Raises ConfigError when the disk is full, LearnerLost when the trainer has died.
        """
        saved = await self._save(self._driver.view.head_state)
        await self._driver.momentum.save()
        return saved

    async def _save(self, state: ChainState) -> Snapshot:
        async with self._writing:
            view = self._driver.view
            if self.newest is not None and self._is_saved(state):
                return self.newest
            info = SnapshotInfo(
                run_id=view.run_id,
                record=state.record,
                round=state.round,
                height=state.height,
                digest=view.digests[state.record],
                chain_state=encode_chain_state(state),
            )
            begin_s = asyncio.get_running_loop().time()
            self.newest = await self._snapshots.save(info, self._learner.snapshot(state.record))
            seconds = asyncio.get_running_loop().time() - begin_s
            self._observer.on_op("snapshot", seconds)
            self._observer.on_event("snapshot.saved", round=state.round, path=str(self.newest.path))
            return self.newest
