"""What is final, on disk: a node that comes back does not leave what was final before (rule 19)."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

from demo_node.observer import Figure, RoundObserver
from demo_node.store.disk import Disk
from demo_node.store.final_file import KeptFinal, write_final
from demo_protocol.errors import ConfigError
from demo_protocol.view import View


class FinalKeeping:
    """Writes down what is final, and where the chain begins, whenever one of them has moved.

    What is said to be final is on disk. The state of the chain goes with it, a snapshot's distance
    behind at most: all that is after it is read back from the log.
    """

    def __init__(
        self, view: View, disk: Disk, path: Path, observer: RoundObserver, kept: KeptFinal | None
    ) -> None:
        """`kept` is what was read at the start."""
        self._view = view
        self._disk = disk
        self._path = path
        self._observer = observer
        self._kept = kept
        self._moved = asyncio.Event()
        self._is_unwritable = False

    def figures(self) -> Iterator[Figure]:
        """For the metrics."""
        final, conflict = self._view.final, self._view.conflict
        yield Figure("demo_final_height", final.height if final else 0)
        yield Figure("demo_final_conflict", conflict.theirs if conflict else 0)

    def note(self) -> None:
        """Something may have moved. Cheap."""
        if self._compose() != self._kept:
            self._moved.set()

    async def run(self) -> None:
        """Write for ever. A task of the daemon's group."""
        while True:
            await self._moved.wait()
            self._moved.clear()
            kept = self._compose()
            await self._write(kept)
            final, before = kept.final, self._kept.final if self._kept else None
            self._kept = kept
            if final is not None and final != before:
                self._observer.on_event(
                    "record.finalised",
                    record=final.record.hex(),
                    round=final.round,
                    height=final.height,
                )

    async def write_adopted(self, kept: KeptFinal) -> None:
        """Before the chain begins anew by command: nothing that was final binds any more."""
        await self._write(kept)
        self._kept = kept

    async def _write(self, kept: KeptFinal) -> None:
        try:
            await asyncio.to_thread(write_final, self._disk, self._path, self._view.run_id, kept)
        except ConfigError as error:
            if not self._is_unwritable:
                self._observer.on_event("final.unsaved", reason=str(error))
            self._is_unwritable = True
        else:
            self._is_unwritable = False

    def _compose(self) -> KeptFinal:
        """The final record, and a state of the chain that is moved on only now and then."""
        view, kept = self._view, self._kept
        state = view.restart_state
        every = view.manifest.agreement.snapshot_every
        if kept is not None and 0 <= state.height - kept.state.height < every:
            state = kept.state
        return KeptFinal(view.final, state)
