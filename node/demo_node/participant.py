"""One node's part in a run, over whatever mesh, disk and learner: daemon and simulator alike.

Three steps: the doors open as soon as the run is known (`Participant`), `begin` finds where to
start and makes the round machine, `catch_up` brings it level with the others.
"""

import asyncio
import contextlib
import functools
import itertools
import random
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from demo_node.believing import Say
from demo_node.deepening import Deepening
from demo_node.final_keeping import FinalKeeping
from demo_node.momentum_keeping import read_contributions
from demo_node.observer import RoundObserver
from demo_node.peering import find_address
from demo_node.ports import Learner, Mesh, TakeUplink, Topic
from demo_node.pull import Puller
from demo_node.round import RoundDriver
from demo_node.sending import Sending
from demo_node.serve import DialBackAnswer, Server
from demo_node.snapshotting import Snapshotting
from demo_node.sparing import Sparing
from demo_node.starting import Start, StartFinder
from demo_node.state_loading import StateLoading
from demo_node.store.archive import FileArchive
from demo_node.store.chainlog import ChainEntry, ChainLog
from demo_node.store.datadir import DataDir
from demo_node.store.disk import Disk
from demo_node.store.final_file import read_final
from demo_node.store.momentum import MomentumFile
from demo_node.store.payloads import PayloadStore
from demo_node.store.round_store import FileRoundStore
from demo_node.store.signed import SignedLog
from demo_node.store.snapshots import SnapshotStore
from demo_node.sync import catch_up
from demo_node.system_clock import SystemClock
from demo_node.timekeeper import Timekeeper
from demo_node.verifying import Verifier
from demo_protocol.answers import decode_bundle
from demo_protocol.errors import Ignore, Reject
from demo_protocol.events import Bundle, RecordsFetched
from demo_protocol.identity import Kind, Sign, Verify
from demo_protocol.manifest import Manifest, compute_run_id
from demo_protocol.recording import on_records
from demo_protocol.roster import genesis_state
from demo_protocol.round import Round
from demo_protocol.schedule import round_at
from demo_protocol.view import View

RECORDS_AT_ONCE = 64
"""Records of our own log read at once."""


class MakeRound(Protocol):
    """How a round machine is made: the simulator watches its own."""

    def __call__(
        self,
        view: View,
        *,
        signed_until: dict[Kind, int],
        stop_round: int | None,
        syncing: bool,
        contributes: bool,
    ) -> Round:
        """See `Round`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What one node has around it in one run. `group` owns every task that is started."""

    manifest: Manifest
    me: bytes
    sign: Sign
    verify: Verify
    clock: SystemClock
    mesh: Mesh
    learner: Learner
    disk: Disk
    datadir: DataDir
    observer: RoundObserver
    group: asyncio.TaskGroup
    say: Say
    disk_budget_bytes: int = 0
    """For payloads and older snapshots together; 0: no limit."""
    k: int = 0
    """Coefficients of each chunk that this node sends, up to the manifest's; 0: by its uplink."""
    take_uplink: TakeUplink | None = None
    """None: nobody can tell, and k is the manifest's."""
    is_metered: bool = False
    """It leaves to others what they could give as well, and sends less."""
    find_upload_cap: Callable[[], float] = lambda: 0.0
    """What the operator lets this node send, now, in bytes a second; 0: all."""
    anchor: bytes = b""
    """A record that the operator says is on the run's chain (rule 22); empty for none."""
    is_archive: bool = False
    """It signs nothing and forgets nothing: it keeps what others need."""
    dial_back: DialBackAnswer | None = None
    """Answers those who ask to be dialled (REACH)."""
    count_known: Callable[[], int] = lambda: 0
    """How many peers there are to be heard before one of them is believed."""


class Participant:
    """Answers peers from the first moment; trains, proposes and votes once it is level."""

    def __init__(
        self, around: Surroundings, archive: FileArchive, snapshots: SnapshotStore
    ) -> None:
        self.around = around
        self.run_id = compute_run_id(around.manifest)
        self.archive = archive
        self.snapshots = snapshots
        seen_at = functools.partial(find_address, around.mesh)
        self.server = Server(
            around.manifest, archive, around.clock.raw_now_ms, seen_at, around.dial_back
        )
        self.timekeeper = Timekeeper(
            around.mesh,
            around.clock,
            around.manifest.schedule,
            around.observer,
            random.Random(around.me),
        )
        self.puller = Puller(around.mesh)
        self.verifier = Verifier(around.verify, self.run_id)
        self.finder = StartFinder(
            around.manifest,
            snapshots,
            self.puller,
            around.learner,
            around.clock,
            around.say,
            around.observer.on_event,
            verify=around.verify,
            anchor=around.anchor,
            wants_all=around.is_archive,
            count_known=around.count_known,
        )
        self.kept_final = read_final(around.disk, around.datadir.final, self.run_id)
        self.finder.final = self.kept_final.final if self.kept_final else None
        self.loading = StateLoading(
            self.finder, snapshots, around.learner, around.clock, around.observer, around.say
        )
        self.driver: RoundDriver | None = None
        self.store: FileRoundStore | None = None

    def on_gossip(self, topic: Topic, sender: bytes, message: bytes) -> bool:
        """Judge a message; before there is a chain to judge by, none is passed on."""
        return self.driver is not None and self.driver.on_gossip(topic, sender, message)

    async def begin(
        self,
        start: Start,
        files: ExitStack,
        *,
        make_round: MakeRound = Round,
        stop_round: int | None = None,
        contributes: bool = True,
        syncing: bool = True,
    ) -> tuple[RoundDriver, Snapshotting]:
        """Make the round machine at `start` and let it run. What is open goes into `files`."""
        around = self.around
        digest = start.promise.digest if start.promise else await self.loading.load(start)
        if start.promise is None:
            self.loading.tell(start)
        momentum_file = await asyncio.to_thread(MomentumFile, around.disk, around.datadir.momentum)
        chain_log, signed, payloads = await asyncio.to_thread(self._open_stores, momentum_file)
        for log in (chain_log, signed):
            if log.cut_bytes:
                around.observer.on_event("log.repaired", path=str(log.aside), bytes=log.cut_bytes)
        store = self.store = FileRoundStore(
            signed, chain_log, payloads, keeps_all=around.is_archive
        )
        files.callback(store.close)
        view = await self._make_view(start, digest, chain_log)
        machine = make_round(
            view,
            signed_until={kind: signed.newest(kind) for kind in Kind},
            stop_round=stop_round,
            syncing=syncing,
            contributes=contributes and not around.is_archive,
        )
        machine.observes = around.is_archive
        await self._remember_sent(machine, store)
        if start.promise:
            machine.replica.wait_for_state()
            self.loading.promise(start)
        sending = Sending(
            around.manifest,
            around.mesh,
            fixed=around.k,
            is_metered=around.is_metered,
            take_uplink=around.take_uplink,
            find_cap=around.find_upload_cap,
        )
        driver = RoundDriver(
            machine,
            sending=sending,
            clock=around.clock,
            mesh=around.mesh,
            learner=around.learner,
            store=store,
            observer=around.observer,
            group=around.group,
            verifier=self.verifier,
            rng=random.Random(around.me + b"compare"),
            resync=self.loading.resync,
            find_replay=self.loading.find_replay,
            discard_wrong=self.loading.discard_wrong,
            find_way=self.loading.find_way,
            finals=FinalKeeping(
                view, around.disk, around.datadir.final, around.observer, self.kept_final
            ),
            momentum_file=momentum_file,
        )
        self.driver = driver
        self.loading.open(machine, driver.finals)
        await self._read_own_records(chain_log, start.state.round)
        if view.final is None:
            view.final = start.final
        await self._take_in(start.bundles)
        self.server.open(
            machine,
            store,
            driver.tensors,
            driver.outbox.unwritten,
            driver.fetcher.arrivals,
            driver.fetcher.copies,
            sending.on_given,
        )
        if around.is_metered:
            self.server.sparing = Sparing(around.mesh, sending.is_own)
        files.callback(self._close)
        snapshotting = Snapshotting(
            driver, around.learner, self.snapshots, around.observer, start.snapshot
        )
        if start.promise:
            around.group.create_task(driver.recovering.recover(start.state.record, is_loss=False))
        around.group.create_task(snapshotting.find_served())
        around.group.create_task(driver.outbox.run_writing())
        around.group.create_task(driver.outbox.run_sending())
        around.group.create_task(driver.run_clock())
        around.group.create_task(driver.comparing.run())
        around.group.create_task(driver.finals.run())
        deepening = Deepening(driver, self.puller, store, around.clock, self.verifier)
        around.group.create_task(deepening.run())
        around.group.create_task(snapshotting.run())
        return driver, snapshotting

    def _close(self) -> None:
        """The group has ended; the mesh, which outlives it, must not wake its driver any more."""
        self.driver = None
        self.server.close()

    async def catch_up(self, patience_ms: int) -> None:
        """Come level with the others, then take part (`sync.catch_up`)."""
        assert self.driver is not None
        around = self.around
        aside = self.finder.strangers.set_aside
        await catch_up(self.driver, around.clock, around.say, patience_ms, aside)

    async def _remember_sent(self, machine: Round, store: FileRoundStore) -> None:
        """What an earlier process sent and nobody has decided yet (rule 24)."""
        manifest = self.around.manifest
        round_ = round_at(manifest.schedule, self.around.clock.now_ms())
        _, headers = await asyncio.to_thread(read_contributions, store, self.run_id)
        for sealed in headers:
            if sealed.body.round >= round_ - manifest.agreement.late_rounds:
                machine.sent.add(sealed.body.round, sealed.hash)

    def _open_stores(self, momentum_file: MomentumFile) -> tuple[ChainLog, SignedLog, PayloadStore]:
        disk, datadir = self.around.disk, self.around.datadir
        round_ = round_at(self.around.manifest.schedule, self.around.clock.now_ms())
        chain_log = ChainLog(disk, datadir.chain_log, self.run_id)
        signed = SignedLog(disk, datadir.signed_log, self.run_id, round_)
        if signed.is_empty and len(chain_log):
            signed.forget_until(round_)  # somebody may have removed it, to no good
        return (
            chain_log,
            signed,
            PayloadStore(
                disk,
                datadir.payloads,
                budget_bytes=self.around.disk_budget_bytes,
                reserved_bytes=lambda: self.snapshots.spare_bytes + momentum_file.file_bytes,
            ),
        )

    async def _make_view(self, start: Start, digest: bytes, chain_log: ChainLog) -> View:
        """A chain that goes back to what was final, where our log leads from there to the start.

        So forks since then are known; else a node that comes back on one side of a cut could not
        tell how the others' records are related to its own.
        """
        around, kept = self.around, self.kept_final
        make_view = functools.partial(
            View,
            manifest=around.manifest,
            me=around.me,
            sign=around.sign,
            verify=self.verifier.verify,
            network_of=lambda peer: self.puller.networks().get(peer),
            digest=digest,
            final=kept.final if kept else None,
        )
        oldest = kept.state if kept else genesis_state(self.run_id)
        if oldest.height < start.state.height:
            view = make_view(root=oldest)
            await self._read_back(view, chain_log, start.state.round)
            record = start.state.record
            if record in view.chain and view.chain[record].state == start.state:
                view.begin_at(record, digest)
                return view
        return make_view(root=start.state)

    async def _read_back(self, view: View, chain_log: ChainLog, until_round: int) -> None:
        """What our own log has up to the start: it is not applied again, so no payload is asked."""
        entries = chain_log.entries(view.chain.root.round)
        until = (entry for entry in entries if entry.round <= until_round)
        while bundles := await asyncio.to_thread(_take, until, RECORDS_AT_ONCE):
            for bundle in bundles:
                await self.verifier.prepare(bundle.headers)
                with contextlib.suppress(Reject):  # the disk's fault: what follows does not link
                    on_records(view, RecordsFetched(self._now_ms, (bundle,), self.around.me))
                await asyncio.sleep(0)

    @property
    def _now_ms(self) -> int:
        return self.around.clock.now_ms()

    async def _read_own_records(self, chain_log: ChainLog, after_round: int) -> None:
        """What our own log has beyond the start."""
        assert self.driver is not None
        entries = chain_log.entries(after_round)
        while bundles := await asyncio.to_thread(_take, entries, RECORDS_AT_ONCE):
            for bundle in bundles:
                await self.verifier.prepare(bundle.headers)
                now_ms = self.around.clock.now_ms()
                self.driver.post(RecordsFetched(now_ms, (bundle,), self.around.me))
                await asyncio.sleep(0)

    async def _take_in(self, bundles: Iterable[Bundle]) -> None:
        """Records that peers gave while it was looked for a start, the oldest first."""
        assert self.driver is not None
        for bundle in bundles:
            await self.verifier.prepare(bundle.headers)
            now_ms = self.around.clock.now_ms()
            with contextlib.suppress(Ignore, Reject):
                self.driver.post(RecordsFetched(now_ms, (bundle,), self.around.me))
            await asyncio.sleep(0)


def _take(entries: Iterable[ChainEntry], count: int) -> tuple[Bundle, ...]:
    """The next bundles of our own log. Reads disk."""
    return tuple(decode_bundle(entry.raw) for entry in itertools.islice(entries, count))
