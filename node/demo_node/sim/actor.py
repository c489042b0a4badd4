"""One simulated node: the real round machine, logs and clock; everything around them modelled.

Where `demo_node.round` starts tasks and waits for sockets, disks and a trainer, this file says
when the answer comes. A life ends with `crash`; what it left on its disk begins the next one.
"""

import functools
import hashlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from demo_node.sim.keys import cheap_sign, peer_name
from demo_node.sim.snapshots import ModelSnapshots
from demo_node.sim.timekeeping import Timekeeper
from demo_node.store.chainlog import ChainEntry, ChainLog
from demo_node.store.memory import MemoryDisk, PowerCut
from demo_node.store.signed import SignedLog
from demo_node.system_clock import SystemClock
from demo_protocol.answers import decode_bundle
from demo_protocol.errors import Ignore, LocalFault, Reject
from demo_protocol.events import (
    Announce,
    Apply,
    BeginAgain,
    Bundle,
    ComputeRoot,
    Effect,
    Event,
    Finalised,
    ForgetStates,
    GossipBatch,
    HeadChanged,
    HeadersFetched,
    KeepRecord,
    KeyInUse,
    Leap,
    PayloadsHeld,
    PayloadsLost,
    Persist,
    ProposalFetched,
    PullHeaders,
    PullPayload,
    PullProposal,
    PullRecords,
    RecordsFetched,
    Refused,
    Resync,
    RootComputed,
    RoundEnded,
    StartMoved,
    StateApplied,
    StatesLost,
    Tick,
    Train,
    TrainingDone,
)
from demo_protocol.finality import Final
from demo_protocol.identity import Kind
from demo_protocol.limits import RECORDS_PER_REPLY_MAX
from demo_protocol.round import Round
from demo_protocol.schedule import contribute_end_ms, round_at, train_end_ms
from demo_protocol.view import View

if TYPE_CHECKING:
    from demo_node.sim.world import World

Message = tuple[Kind, bytes, bytes]
"""(kind, bytes, who handed it over)."""

ENCODE_MS, APPLY_MS, LOAD_MS = 5, 5, 50
"""What a trainer takes: `tiny` on a quiet core."""

SAMPLES_MAX = 4096
"""Done in a round: without a limit assignments would grow by half every few rounds (rule T2)."""

PULL_AGAIN_MS, PULL_AGAIN_MAX_MS = 500, 4_000
"""Until a payload that nobody gave is asked for again."""

LOOK_AGAIN_MS = 500
"""How often a node that catches up compares itself with its peers."""

STALLED_ROUNDS = 3
"""As `demo_node.sync`: without progress for so long it takes part as it is."""

ASKED = 5
"""Peers that are asked where they stand."""


@dataclass(slots=True)
class Disk:
    """What of a node outlives a crash. Payload bytes and states are modelled by their names."""

    files: MemoryDisk
    is_full: bool = False
    final: Final | None = None
    payloads: dict[bytes, int] = field(default_factory=dict)
    snapshots: ModelSnapshots = field(default_factory=ModelSnapshots)


@dataclass(slots=True)
class Traits:
    """How a node differs from a good one. `slowness`: its work takes so many times longer.

    `how` names the kind of lie that it tells; "" is honest.
    """

    how: str = ""

    slowness: int = 1
    withholds: Callable[[int, bytes], bool] = lambda asking, payload: False
    announce: Callable[[Kind, bytes], None] | None = None
    """What a liar says in place of what its machine wants to (`liars.py`)."""


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
        self.disk = disk or Disk(_new_disk())
        self.states: dict[bytes, bytes] = {}
        self.life = 0
        self.clock = SystemClock(boot_ms=self._boot_ms, wall_ms=self._wall_ms)
        self._hung: list[Callable[[], None]] | None = None
        self._pulling: set[bytes] = set()
        self._finding_way = False
        self._downlink_free_ms = 0.0
        self._signed: SignedLog
        self._chain_log: ChainLog

    @property
    def view(self) -> View:
        """What a living node believes."""
        assert self.machine is not None
        return self.machine.view

    @property
    def is_up(self) -> bool:
        """Does it live, and answer?"""
        return self.machine is not None and self._hung is None

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
        self._pulling, self._finding_way = set(), False
        files, path = self.disk.files, Path("/node")
        now_round = round_at(world.manifest.schedule, self.now_ms())
        self._chain_log = ChainLog(files, path / "chain.log", world.run_id)
        self._signed = SignedLog(files, path / "signed.log", world.run_id, now_round)
        start = world.choose_start(self)
        self.states = {start.state.record: start.digest}
        view = View(
            manifest=world.manifest,
            me=self.name,
            sign=cheap_sign(self.name),
            verify=world.verify,
            root=start.state,
            digest=start.digest,
            final=self.disk.final,
            decode_header=world.decode_header,
            make_record=world.make_record,
        )
        self.machine = Round(
            view,
            signed_until={kind: self._signed.newest(kind) for kind in Kind},
            syncing=True,
        )
        world.on_up(self)
        timekeeper.run()
        for entry in self._chain_log.entries(start.state.round):
            self.post(RecordsFetched(self.now_ms(), (decode_bundle(entry.raw),), self.name))
        if self.machine is None:
            return  # what its own log says is not to be borne
        self._tick()
        if now_round <= 0 and start.state.record == world.root.record:
            self._take_part()
        else:
            self._catch_up(-1, now_round + STALLED_ROUNDS)

    def crash(self, *, power_cut: bool = False) -> None:
        """End this life without a word."""
        if self.machine is None:
            return
        self.machine = self._hung = None
        self.life += 1
        self.states = {}
        self._signed.close()
        self._chain_log.close()
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
        if self.machine is not None and self._hung is None:
            self._hung = []
            self.world.on_down(self)

    def run_on(self) -> None:
        """Do now, late as it is, what was due since `hang`."""
        if self.machine is None or self._hung is None:
            return
        due, self._hung = self._hung, None
        self.world.on_up(self)
        for action in due:
            action()

    def later(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Let `action` happen in this life, or not at all."""
        life = self.life

        def unless_dead() -> None:
            if self.life != life or self.machine is None:
                return
            if self._hung is None:
                action()
            else:
                self._hung.append(unless_dead)

        self.world.timeline.after(delay_ms, unless_dead)

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
        self.world.watcher.on_step(self, event, effects)
        self._carry_out(effects)

    def _carry_out(self, effects: list[Effect]) -> None:
        pulls = [effect for effect in effects if isinstance(effect, PullPayload)]
        if pulls:
            self._pull_payloads(pulls)
        try:
            for effect in effects:
                if not isinstance(effect, PullPayload):
                    self._perform(effect)
        except PowerCut:
            self.crash(power_cut=True)
        except LocalFault as fault:
            self.world.watcher.on_fault(self, fault)
            self.crash()

    def hear(self, messages: list[Message]) -> None:
        """Gossip of one moment is here."""
        if self._hung is not None:
            self._hung.append(functools.partial(self.hear, messages))
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

    # --- catching up -----------------------------------------------------------------------------

    def _catch_up(self, shown: int, stalled_round: int) -> None:
        """As `sync.catch_up`: pull and apply until level with every peer that answers."""
        view, world = self.view, self.world
        peers = world.peers_of(self, ASKED)
        for peer in peers:
            if peer.view.head not in view.chain:
                self._perform(PullRecords(peer.view.head, (peer.name,)))
        theirs = [p.view.head for p in peers if p.machine is not None and not p.machine.syncing]
        heights = [view.chain[h].state.height for h in theirs if h in view.chain]
        height, now_round = view.head_state.height, round_at(view.manifest.schedule, self.now_ms())
        is_level = len(heights) == len(theirs) and max([height, *heights]) <= height + 1
        if height != shown:
            stalled_round = now_round + STALLED_ROUNDS
        if is_level or now_round > stalled_round:
            self._listen()
        else:
            self.later(LOOK_AGAIN_MS, functools.partial(self._catch_up, height, stalled_round))

    def _listen(self) -> None:
        """Hear one contribute phase before signing: somebody may be using this very key."""
        schedule = self.view.manifest.schedule
        now_ms = self.now_ms()
        round_ = round_at(schedule, now_ms)
        if now_ms > train_end_ms(schedule, round_):
            round_ += 1
        self.later(max(contribute_end_ms(schedule, round_) - now_ms, 0), self._take_part)

    def _take_part(self) -> None:
        assert self.machine is not None
        self.machine.syncing = False
        self.post(Tick(self.now_ms()))

    # --- effects ---------------------------------------------------------------------------------

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Persist(kind, round_, _, raw):
                self._signed.put(kind, round_, raw)
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
                self._pull_headers(effect)
            case PullProposal():
                self._pull_proposal(effect)
            case PullRecords():
                self._pull_records(effect)
            case Train():
                self._train(effect)
            case Apply():
                self.later(APPLY_MS * self.traits.slowness, functools.partial(self._apply, effect))
            case ComputeRoot(record):
                delay_ms = APPLY_MS * self.traits.slowness
                self.later(delay_ms, functools.partial(self._compute_root, record))
            case Resync(target):
                self.later(LOAD_MS, functools.partial(self._resync, target))
            case Leap() | BeginAgain():
                self._find_way(effect)
            case KeepRecord(record):
                self._keep_record(record)
            case Finalised(record, round_, height):
                self.disk.final = Final(record, round_, height)
            case HeadChanged():
                self._keep_snapshot()
                self.world.watcher.on_head_changed(self, effect)
            case ForgetStates(records):
                for record in records:
                    self.states.pop(record, None)
            case KeyInUse():
                if not self.traits.how:  # a liar hears its own lies
                    self.world.watcher.on_fault(self, LocalFault("its key is in use elsewhere"))
                    self.crash()
            case RoundEnded(round_):
                self._forget_payloads(round_)
            case _:
                self.world.watcher.on_effect(self, effect)

    def _train(self, effect: Train) -> None:
        ready_ms = effect.deadline_ms - self.now_ms() + ENCODE_MS * self.traits.slowness
        self.later(ready_ms, functools.partial(self._trained, effect))

    def _trained(self, effect: Train) -> None:
        if effect.base not in self.states:
            return
        payload = hashlib.sha256(self.name + effect.round.to_bytes(8, "big")).digest()
        self.disk.payloads[payload] = effect.round
        samples = min(effect.sample_count, SAMPLES_MAX) // self.traits.slowness
        self.post(
            TrainingDone(
                now_ms=self.now_ms(),
                round=effect.round,
                base=effect.base,
                payload_hash=payload,
                payload_bytes=self.world.payload_bytes,
                k=self.world.manifest.learning.k,
                samples=samples,
                loss_micronats=1_000_000,
            )
        )

    def _apply(self, effect: Apply) -> None:
        machine = self.machine
        if machine is None or machine.replica.applying != effect.record:
            return
        lost = tuple(name for name in effect.payload_hashes if name not in self.disk.payloads)
        if lost:
            self.post(PayloadsLost(self.now_ms(), lost))
            return
        digest = self.world.apply(self.states[effect.parent], effect)
        self.states[effect.record] = digest
        self.post(StateApplied(self.now_ms(), effect.record, digest))

    def _compute_root(self, record: bytes) -> None:
        if record in self.states and record in self.view.chain:
            root = self.world.compute_root(self.view.chain[record].state, self.states[record])
            self.post(RootComputed(self.now_ms(), record, root))

    def lose_states(self) -> bool:
        """The trainer died: its successor loads a snapshot. Not while it computes (a model's)."""
        machine = self.machine
        if machine is None or machine.replica.applying is not None:
            return False
        machine.training = None
        self._resync(self.view.head)
        return True

    def _resync(self, target: bytes) -> None:
        view = self.view
        goal = target if target in view.chain else view.head
        found = self.world.find_below(self, goal) or self.world.find_elsewhere(self, -1)
        if found is None:
            self.later(2_000, functools.partial(self._resync, goal))
            return
        self.states = {found.state.record: found.digest}
        if found.state.record in view.digests:
            self.post(StatesLost(self.now_ms(), found.state.record, found.digest))
        else:
            self.post(StartMoved(self.now_ms(), found.state, found.digest))

    def _find_way(self, effect: Leap | BeginAgain) -> None:
        if not self._finding_way:
            self._finding_way = True
            self.later(LOAD_MS, functools.partial(self._find_snapshot, effect))

    def _find_snapshot(self, effect: Leap | BeginAgain) -> None:
        self._finding_way = False
        match effect:
            case Leap(over, target):
                found = self.world.find_beyond(self, over, target)
            case BeginAgain(above):
                found = self.world.find_elsewhere(self, above)
        if found is not None and found.state.record not in self.view.digests:
            self.states = {found.state.record: found.digest}
            self.post(StartMoved(self.now_ms(), found.state, found.digest))

    # --- pulls -----------------------------------------------------------------------------------

    def _pull_payloads(self, effects: Iterable[PullPayload], pause_ms: int = PULL_AGAIN_MS) -> None:
        """Get what nobody is asked for yet; what is on the disk is only read."""
        held, pulling = self.disk.payloads, self._pulling
        here = [effect for effect in effects if effect.payload_hash in held]
        if here:
            self.later(1, functools.partial(self._hold, here))
        missing = [
            e for e in effects if e.payload_hash not in held and e.payload_hash not in pulling
        ]
        pulling.update(effect.payload_hash for effect in missing)
        self._ask_for_payloads(missing, pause_ms)

    def _ask_for_payloads(self, effects: list[PullPayload], pause_ms: int) -> None:
        """From their authors, or whoever has them; what nobody gives is asked for again."""
        find = self.world.find_holder
        given, refused = [], []
        for effect in effects:
            holder = find(self, effect)
            if holder is None:
                refused.append(effect)
            else:
                given.append((effect, holder))
        if refused:
            again = functools.partial(
                self._ask_again, refused, min(2 * pause_ms, PULL_AGAIN_MAX_MS)
            )
            self.later(pause_ms, again)
        if given:
            links, now_ms = self.world.links, self.world.timeline.now_ms
            size = sum(effect.payload_bytes for effect, _ in given)
            begin_ms = max(self._downlink_free_ms, now_ms)
            self._downlink_free_ms = begin_ms + links.download_ms(size)
            way_ms = links.pull_delay_ms(self.index, given[0][1].index, size // len(given))
            wait_ms = int(self._downlink_free_ms - now_ms)
            self.later(way_ms + wait_ms, functools.partial(self._receive_payloads, given))

    def _ask_again(self, effects: list[PullPayload], pause_ms: int) -> None:
        """What is older than the payload window is not wanted any more."""
        oldest = self.view.round - self.world.manifest.agreement.payload_window_rounds
        wanted = [effect for effect in effects if effect.round >= oldest]
        self._pulling.difference_update(e.payload_hash for e in effects if e.round < oldest)
        self._ask_for_payloads(wanted, pause_ms)

    def _receive_payloads(self, given: list[tuple[PullPayload, "Actor"]]) -> None:
        """Those whose holder is still there to finish what it began to send."""
        links = self.world.links
        came = [
            e for e, holder in given if holder.is_up and links.is_linked(self.index, holder.index)
        ]
        if len(came) < len(given):
            arrived = {effect.payload_hash for effect in came}
            broken = [effect for effect, _ in given if effect.payload_hash not in arrived]
            self._ask_for_payloads(broken, PULL_AGAIN_MS)
        self._pulling.difference_update(effect.payload_hash for effect in came)
        self.disk.payloads.update((effect.payload_hash, effect.round) for effect in came)
        self.world.bytes_in[self.index] += sum(effect.payload_bytes for effect in came)
        self._hold(came)

    def _hold(self, effects: list[PullPayload]) -> None:
        if effects:
            held = tuple((effect.payload_hash, effect.round) for effect in effects)
            self.post(PayloadsHeld(self.now_ms(), held))

    def _forget_payloads(self, round_: int) -> None:
        window = self.world.manifest.agreement.payload_window_rounds
        oldest = min(round_, self.view.head_state.round) - window
        if oldest > 0 and oldest % 8 == 0:
            held = self.disk.payloads
            self.disk.payloads = {name: r for name, r in held.items() if r >= oldest}

    def _pull_headers(self, effect: PullHeaders) -> None:
        for holder in self.world.holders(self, effect.holders):
            headers = holder.view.pool.headers
            raws = tuple(headers[name].raw for name in effect.hashes if name in headers)
            if raws:
                size = sum(map(len, raws))
                arrive = functools.partial(self._receive_headers, raws, holder)
                self.later(self.world.links.pull_delay_ms(self.index, holder.index, size), arrive)
                return

    def _receive_headers(self, raws: tuple[bytes, ...], holder: "Actor") -> None:
        self.world.bytes_in[self.index] += sum(map(len, raws))
        self._post_fetched(HeadersFetched(self.now_ms(), raws, holder.name))

    def _pull_proposal(self, effect: PullProposal) -> None:
        if effect.proposal not in self.view.pool.awaited:
            return
        for holder in self.world.holders(self, effect.holders):
            raw = holder.view.find_proposal(effect.proposal)
            if raw is not None:
                arrive = functools.partial(self._receive_proposal, raw, holder)
                delay_ms = self.world.links.pull_delay_ms(self.index, holder.index, len(raw))
                self.later(delay_ms, arrive)
                return
        self.later(PULL_AGAIN_MS, functools.partial(self._pull_proposal, effect))

    def _receive_proposal(self, raw: bytes, holder: "Actor") -> None:
        self.world.bytes_in[self.index] += len(raw)
        self._post_fetched(ProposalFetched(self.now_ms(), raw, holder.name))

    def _pull_records(self, effect: PullRecords) -> None:
        for holder in self.world.holders(self, effect.holders):
            bundles = holder.give_records(effect.record, effect.count)
            if bundles:
                size = sum(len(b.proposal) + sum(map(len, b.headers)) for b in bundles)
                arrive = functools.partial(self._receive_records, bundles, size, holder)
                self.later(self.world.links.pull_delay_ms(self.index, holder.index, size), arrive)
                return

    def _receive_records(self, bundles: tuple[Bundle, ...], size: int, holder: "Actor") -> None:
        self.world.bytes_in[self.index] += size
        self._post_fetched(RecordsFetched(self.now_ms(), bundles, holder.name))

    def _post_fetched(self, event: HeadersFetched | ProposalFetched | RecordsFetched) -> None:
        try:
            self.post(event)
        except (Ignore, Reject) as error:
            self.world.watcher.on_rejected(self, error, event.sender)

    def give_records(self, record: bytes, count: int) -> tuple[Bundle, ...]:
        """A record and its ancestors, oldest first, from memory or from the log."""
        chain, found = self.view.chain, list[Bundle]()
        while len(found) < min(count, RECORDS_PER_REPLY_MAX):
            step = chain.records.get(record)
            if step is not None and step.proposal is not None:
                found.append(self.world.bundle(step))
                record = step.parent
                continue
            entry = self._chain_log.get(record)
            if entry is None:
                break
            found.append(decode_bundle(entry.raw))
            record = entry.parent
        return tuple(reversed(found))

    # --- the store -------------------------------------------------------------------------------

    def _keep_record(self, record: bytes) -> None:
        step = self.view.chain.records.get(record)
        if step is not None:
            raw = self.world.encoded_bundle(step)
            self._chain_log.append(ChainEntry(record, step.parent, step.round, raw))
            self._chain_log.sync()

    def _keep_snapshot(self) -> None:
        state = self.view.head_state
        agreement = self.world.manifest.agreement
        if state.height % agreement.snapshot_every == 0 and state.record in self.states:
            window = agreement.payload_window_rounds
            self.disk.snapshots.keep(state, self.states[state.record], window)


def _new_disk() -> MemoryDisk:
    disk = MemoryDisk()
    disk.make_folder(Path("/node"))
    return disk
