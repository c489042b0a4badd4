"""One simulated node: the real round machine, logs and clock; everything around them modelled.

Where `demo_node.round` starts tasks and waits for sockets, disks and a trainer, this file says
when the answer comes. A life ends with `crash`; what it left on its disk begins the next one.
"""

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from demo_node.sim.catching_up import catch_up, take_part
from demo_node.sim.keys import cheap_sign, peer_name
from demo_node.sim.pulls import Pulls
from demo_node.sim.snapshots import ModelSnapshot
from demo_node.sim.store import Disk, Store, make_disk
from demo_node.sim.timekeeping import Timekeeper
from demo_node.sim.trainer import ModelTrainer
from demo_node.store.memory import PowerCut
from demo_node.system_clock import SystemClock
from demo_protocol.admission import search_stamp
from demo_protocol.answers import decode_bundle
from demo_protocol.effects import (
    Announce,
    Apply,
    BeginAgain,
    ComputeRoot,
    Effect,
    Finalised,
    ForgetStates,
    HeadChanged,
    KeepRecord,
    KeyInUse,
    Leap,
    MakeStamp,
    Persist,
    PullHeaders,
    PullPayload,
    PullProposal,
    PullRecords,
    Refused,
    Release,
    Replay,
    Restore,
    Resync,
    RoundEnded,
    Train,
)
from demo_protocol.errors import LocalFault
from demo_protocol.events import Event, GossipBatch, RecordsFetched, StampMade, Tick
from demo_protocol.identity import Kind
from demo_protocol.recording import on_records
from demo_protocol.round import Round
from demo_protocol.schedule import round_at
from demo_protocol.view import View

if TYPE_CHECKING:
    from demo_node.sim.world import World

Message = tuple[Kind, bytes, bytes]
"""(kind, bytes, who handed it over)."""

STAMP_MS = 1_000
"""What the work for a join takes, whatever it is."""


@dataclass(slots=True)
class Traits:
    """How a node differs from a good one. `slowness`: its work takes so many times longer.

    `how` names the kind of lie that it tells; "" is honest.
    """

    how: str = ""

    slowness: int = 1
    withholds: Callable[[int, bytes], bool] | None = None
    announce: Callable[[Kind, bytes], None] | None = None
    """What a liar says in place of what its machine wants to (`liars.py`)."""
    answer: Callable[[bytes], bytes] | None = None
    """What a liar answers in place of the truth (`garbling.py`)."""


@dataclass(frozen=True, slots=True)
class _UnlessDead:
    """Something due in one life of a node; where that hangs, it waits."""

    actor: "Actor"
    life: int
    action: Callable[[], None]

    def __call__(self) -> None:
        actor = self.actor
        if actor.life != self.life or actor.machine is None:
            return
        if actor.hung is None:
            self.action()
        else:
            actor.hung.append(self)


class Actor:
    """A node of the simulation. `index` names it; its machine is None while it is down."""

    def __init__(self, world: "World", index: int, disk: Disk | None = None) -> None:
        self.world = world
        self.index = index
        self.name = peer_name(index)
        self.traits = Traits()
        self.rng = random.Random(f"{world.seed}/{index}")
        self.offset_ms = 0
        self.drift_ppm = 0
        self.machine: Round | None = None
        self.disk = disk or make_disk(world.shared_pieces, world.catalogue)
        self.trainer: ModelTrainer
        self.life = 0
        self.clock = SystemClock(boot_ms=self._boot_ms, wall_ms=self._wall_ms)
        self.hung: list[Callable[[], None]] | None = None
        self.pulls = Pulls(self)
        self.store: Store

    @property
    def view(self) -> View:
        """What a living node believes."""
        assert self.machine is not None
        return self.machine.view

    @property
    def is_up(self) -> bool:
        """Does it live, and answer?"""
        return self.machine is not None and self.hung is None

    @property
    def is_alive(self) -> bool:
        """Does it live? It may hang."""
        return self.machine is not None

    def now_ms(self) -> int:
        """What the node takes the time to be."""
        return self.clock.now_ms()

    # --- a life ----------------------------------------------------------------------------------

    def boot(self) -> None:
        """Begin a life with what is on the disk; find a start and come level with the others."""
        world = self.world
        self.life += 1
        self.clock = SystemClock(boot_ms=self._boot_ms, wall_ms=self._wall_ms)
        timekeeper = Timekeeper(self)
        timekeeper.settle()
        self.pulls = Pulls(self)
        now_round = round_at(world.manifest.schedule, self.now_ms())
        self.store = Store(self, now_round)
        start = world.choose_start(self)
        self.trainer = ModelTrainer(self, start)
        self.machine = Round(
            self._make_view(start),
            signed_until=self.store.signed_until,
            syncing=True,
        )
        world.on_up(self)
        timekeeper.run()
        for entry in self.store.entries(start.state.round):
            self.post(RecordsFetched(self.now_ms(), (decode_bundle(entry.raw),), self.name))
        if self.machine is None:
            return  # what its own log says is not to be borne
        self._tick()
        if now_round <= 0 and start.state.record == world.root.record:
            take_part(self)
        else:
            catch_up(self, now_round)

    def _make_view(self, start: ModelSnapshot) -> View:
        """As `Participant._make_view`: a chain that goes back to what was final, by our log."""
        world = self.world
        make_view = functools.partial(
            View,
            manifest=world.manifest,
            me=self.name,
            sign=cheap_sign(self.name),
            verify=world.verify,
            digest=start.digest,
            final=self.disk.final,
            decode_header=world.decode_header,
            decode_membership=world.decode_membership,
            decode_proposal=world.decode_proposal,
            decode_announcement=world.decode_announcement,
            check_header=world.check_header,
            make_record=world.make_record,
        )
        oldest = self.disk.final_state or world.root
        if oldest.height < start.state.height:
            view = make_view(root=oldest)
            for entry in self.store.entries(oldest.round):
                if entry.round <= start.state.round:
                    bundles = (decode_bundle(entry.raw),)
                    on_records(view, RecordsFetched(self.now_ms(), bundles, self.name))
            if start.state.record in view.chain:
                view.begin_at(start.state.record, start.digest)
                return view
        return make_view(root=start.state)

    def crash(self, *, power_cut: bool = False) -> None:
        """End this life without a word."""
        if self.machine is None:
            return
        self.machine = self.hung = None
        self.life += 1
        self.store.close()
        files = self.disk.files
        if (power_cut or files.operations_left is not None) and not self.disk.is_full:
            self.disk.files = self.disk.files.after_power_cut(self.rng)
        self.world.on_down(self)

    def leave(self) -> None:
        """Say good-bye, then go."""
        if self.machine is not None:
            self._carry_out(self.machine.leave())
            self.later(1, self.crash)

    def hang(self) -> None:
        """Neither run nor answer from now on; what is due waits."""
        if self.machine is not None and self.hung is None:
            self.hung = []
            self.world.on_down(self)

    def run_on(self) -> None:
        """Do now, late as it is, what was due since `hang`."""
        if self.machine is None or self.hung is None:
            return
        due, self.hung = self.hung, None
        self.world.on_up(self)
        for action in due:
            action()

    def later(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Let `action` happen in this life, or not at all."""
        self.world.timeline.after(delay_ms, _UnlessDead(self, self.life, action))

    def post(self, event: Event) -> None:
        """Tell the machine, and do what it asks for."""
        if self.machine is None:
            return
        try:
            effects = self.machine.step(event)
        except LocalFault as fault:
            self.world.watcher.on_fault(self, fault)
            self.crash()
            return
        # Most effects by far, and they follow from the messages: nobody needs to see each.
        payloads = [effect for effect in effects if type(effect) is PullPayload]
        if payloads:
            effects = [effect for effect in effects if type(effect) is not PullPayload]
        self.world.watcher.on_step(self, event, effects, len(payloads))
        if payloads:
            self.pulls.pull_payloads(payloads)
        self._carry_out(effects)

    def _carry_out(self, effects: list[Effect]) -> None:
        try:
            for effect in effects:
                self.perform(effect)
        except PowerCut:
            self.crash(power_cut=True)
        except LocalFault as fault:
            self.world.watcher.on_fault(self, fault)
            self.crash()

    def hear(self, messages: list[Message]) -> None:
        """Gossip of one moment is here."""
        if self.hung is not None:
            self.hung.append(functools.partial(self.hear, messages))
            return
        self.post(GossipBatch(self.now_ms(), tuple(messages)))

    def _tick(self) -> None:
        """The machine's clock: at every boundary of a phase or slot."""
        assert self.machine is not None
        now_ms = self.now_ms()
        self.post(Tick(now_ms))
        if self.machine is not None:
            self.later(max(self.machine.next_wake_ms(now_ms) - self.now_ms(), 1), self._tick)

    def _boot_ms(self) -> int:
        true_ms = self.world.timeline.now_ms - self.world.begin_ms
        return true_ms + true_ms * self.drift_ppm // 1_000_000

    def _wall_ms(self) -> int:
        return self.world.begin_ms + self._boot_ms() + self.offset_ms

    # --- effects ---------------------------------------------------------------------------------

    def perform(self, effect: Effect) -> None:
        """Do what the machine asks for, or see to it that it is done later."""
        match effect:
            case Persist():
                self.store.keep_signed(effect)
                self.world.watcher.on_signed(self, effect)
            case Announce(kind, raw):
                if self.traits.announce is None:
                    self.world.publish(self, kind, raw)
                else:
                    self.traits.announce(kind, raw)
            case Refused():
                self.world.counts[type(effect.error).__name__] += 1
                self.world.watcher.on_rejected(self, effect.error, effect.sender)
            case PullHeaders():
                self.pulls.pull_headers(effect)
            case PullProposal():
                self.pulls.pull_proposal(effect)
            case PullRecords():
                self.pulls.pull_records(effect)
            case Train():
                self.trainer.train(effect)
            case Apply():
                self.trainer.apply(effect)
            case ComputeRoot(record):
                self.trainer.compute_root(record)
            case Resync(target):
                self.trainer.resync(target)
            case Replay():
                self.trainer.replay(effect)
            case Leap() | BeginAgain():
                self.trainer.find_way(effect)
            case KeepRecord(record):
                self.store.keep_record(record)
            case Finalised():
                self.store.keep_final(effect)
            case HeadChanged():
                self.store.keep_snapshot()
                self.world.watcher.on_head_changed(self, effect)
            case ForgetStates(records):
                self.trainer.forget(records)
            case Restore(round_):
                self.trainer.restore(round_)
            case Release(round_):
                self.trainer.release(round_)
            case KeyInUse():
                if not self.traits.how:  # a liar hears its own lies
                    self.world.watcher.on_fault(self, LocalFault("its key is in use elsewhere"))
                    self.crash()
            case MakeStamp(hour, seed, bits):
                made = functools.partial(self._make_stamp, hour, seed, bits)
                self.later(STAMP_MS, made)
            case RoundEnded(round_):
                self.store.forget_payloads(round_)
                self.pulls.compare_this_round()
            case _:
                self.world.watcher.on_effect(self, effect)

    def _make_stamp(self, hour: int, seed: bytes, bits: int) -> None:
        nonce = search_stamp(seed, bits, 0, 1 << (bits + 8))
        if nonce is not None:
            self.post(StampMade(self.now_ms(), hour, nonce))
