"""The round driver: carries out what the round machine asks for, and tells it what came of it.

`demo_protocol.round.Round` decides; this file only does. Every effect is either done at once,
put into the outbox (what must be written down before it is sent, in order), or a task of the
group that the daemon owns.
"""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterator

from demo_node.comparing import Comparing
from demo_node.fetching import Fetcher
from demo_node.final_keeping import FinalKeeping
from demo_node.history import History
from demo_node.learner_orders import LearnerOrders
from demo_node.momentum_keeping import MomentumKeeping
from demo_node.observer import Figure, RoundObserver
from demo_node.outbox import Outbox
from demo_node.ports import Clock, Learner, Mesh, Offence, RoundStore, Topic
from demo_node.pull import Puller
from demo_node.recovering import FindReplay, FindWay, LoadTowards, Recovering
from demo_node.sending import Sending
from demo_node.stamping import make_stamp
from demo_node.store.momentum import MomentumFile
from demo_node.tensors import TensorDigests
from demo_node.verifying import Verifier
from demo_protocol.answers import encode_bundle
from demo_protocol.chain import make_bundle
from demo_protocol.effects import (
    Announce,
    Apply,
    BeginAgain,
    ComputeRoot,
    DigestAccused,
    Effect,
    FaultCleared,
    Finalised,
    FinalsConflict,
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
    ReplayAgreed,
    Restore,
    Resync,
    RootDiffered,
    RoundEnded,
    StateFault,
    Train,
)
from demo_protocol.errors import ConfigError, Ignore, Reject
from demo_protocol.events import Event, GossipReceived, Tick
from demo_protocol.identity import Kind
from demo_protocol.messages import decode_announcement, decode_header
from demo_protocol.receive import blames_sender
from demo_protocol.round import Round
from demo_protocol.view import View

TOPICS = {
    Kind.HEADER: Topic.HEADERS,
    Kind.PROPOSAL: Topic.PROPOSALS,
    Kind.MEMBERSHIP: Topic.MEMBERSHIP,
}
KINDS = {topic: kind for kind, topic in TOPICS.items()}


class RoundDriver:
    """Runs one node's round machine against the outside world."""

    def __init__(
        self,
        machine: Round,
        *,
        sending: Sending,
        clock: Clock,
        mesh: Mesh,
        learner: Learner,
        store: RoundStore,
        observer: RoundObserver,
        group: asyncio.TaskGroup,
        verifier: Verifier,
        rng: random.Random,
        discard_wrong: Callable[[], Coroutine[None, None, None]],
        resync: LoadTowards,
        find_replay: FindReplay,
        find_way: FindWay,
        finals: FinalKeeping,
        momentum_file: MomentumFile,
    ) -> None:
        """`sending`: as LearnerOrders.

        `rng` chooses whom to ask what, and when: nothing that two nodes must agree on.
        """
        self.finals = finals
        self.sending = sending
        self.machine = machine
        self.view = machine.view
        self.clock = clock
        self.mesh = mesh
        self.store = store
        self.observer = observer
        self.group = group
        self.discard_wrong = discard_wrong
        self.history = History(self.view.manifest, observer)
        self.puller = Puller(mesh, self.view.is_member)
        self.fetcher = Fetcher(self.view, self.puller, store, clock, observer, self.post, verifier)
        self.tensors = TensorDigests(learner, sorted(self.view.schema.shapes))
        self.recovering = Recovering(
            self.view,
            observer,
            self.post,
            self.tensors,
            resync=resync,
            find_replay=find_replay,
            find_way=find_way,
        )
        self.outbox = Outbox(store, mesh, TOPICS)
        self.momentum = MomentumKeeping(
            machine, learner, store, momentum_file, observer, self.outbox.wait_written
        )
        self.orders = LearnerOrders(
            machine,
            learner,
            store,
            self.fetcher,
            self.history,
            self.recovering,
            self.momentum,
            sending=sending,
            clock=clock,
            observer=observer,
            post=self.post,
        )
        self.fault = ""
        """Where this node's state is not what most others have, though replayed; empty: nowhere."""
        self.comparing = Comparing(self.view, self.puller, clock, observer, self.post, rng)
        self._head_changed = asyncio.Event()
        self.first_round = 0
        """The round in which this process began to take part."""

    # --- what happens ----------------------------------------------------------------------------

    def post(self, event: Event) -> None:
        """Tell the machine and start what it asks for. Call it on the loop only."""
        for effect in self.machine.step(event):
            self._perform(effect)

    def on_gossip(self, topic: Topic, sender: bytes, message: bytes) -> bool:
        """The one place where Ignore and Reject of gossip end. True: forward it."""
        begin_s, now_ms = time.perf_counter(), self.clock.now_ms()
        event = GossipReceived(now_ms, KINDS[topic], message, sender)
        try:
            self.post(event)
        except Ignore:
            self.observer.on_message(topic, "ignored")
            return False
        except Reject as error:
            self.observer.on_message(topic, "rejected")
            self.observer.on_event("message.rejected", topic=str(topic), reason=str(error))
            if blames_sender(self.view, event):
                self.mesh.blame(sender, Offence.MESSAGE)
            return False
        # Not the newest in the pool: in the same step we may have signed one ourselves.
        if topic is Topic.HEADERS:
            header = decode_header(message, self.view.run_id).body
            self.history.on_header(header.round, header.peer, now_ms)
            self.history.on_arrival(topic, header.round, now_ms)
        elif topic is Topic.PROPOSALS:
            notice, _ = decode_announcement(message, self.view.run_id)
            self.history.on_arrival(topic, notice.body.round, now_ms)
        self.observer.on_message(topic, "accepted")
        self.observer.on_op("verify", time.perf_counter() - begin_s)
        return True

    async def run_clock(self) -> None:
        """Tick the machine at every boundary, for ever."""
        while True:
            now_ms = self.clock.now_ms()
            self.post(Tick(now_ms))
            await self.clock.sleep_until_ms(self.machine.next_wake_ms(now_ms))

    def figures(self) -> Iterator[Figure]:
        """What waits, and totals."""
        yield Figure("demo_queue_depth", self.outbox.depth, ("outbox",))
        yield Figure("demo_state_fault", self.machine.is_witness)
        yield Figure("demo_replays_total", self.machine.doubts.total)
        yield from self.history.figures()
        yield from self.finals.figures()
        yield from self.fetcher.figures()
        yield from self.puller.figures()
        yield from self.comparing.figures()
        yield from self.momentum.figures()
        yield from self.sending.figures()

    def take_part(self) -> None:
        """It is level with the others: from now on it signs, trains and proposes."""
        for effect in self.machine.take_part():
            self._perform(effect)
        self.post(Tick(self.clock.now_ms()))

    def deepen(self, deeper: View) -> None:
        """Tell the machine what came before its first record."""
        for effect in self.machine.deepen(deeper, self.clock.now_ms()):
            self._perform(effect)

    def leave(self) -> None:
        """Announce that this node leaves the run."""
        for effect in self.machine.leave():
            self._perform(effect)

    async def wait_for_head_change(self) -> None:
        """Return when the head has changed after this call."""
        self._head_changed.clear()
        await self._head_changed.wait()

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Persist(kind, round_):
                if kind is Kind.HEADER:
                    now_ms = self.clock.now_ms()
                    self.history.on_announced(round_, now_ms)
                    self.history.on_header(round_, self.view.me, now_ms)
                self.outbox.put(effect)
            case Announce():
                self.outbox.put(effect)
            case MakeStamp():
                self._start(self._make_stamp(effect))
            case PullPayload():
                self._start(self.fetcher.pull_payload(effect))
            case PullHeaders():
                self._start(self.fetcher.pull_headers(effect))
            case PullProposal():
                self._start(self.fetcher.pull_proposal(effect))
            case PullRecords():
                self._start(self.fetcher.pull_records(effect))
            case Train():
                self._start(self.orders.train(effect))
            case Apply():
                self._start(self.orders.apply(effect))
            case ComputeRoot(record):
                self._start(self.orders.compute_root(record))
            case Resync(target):
                self._start(self.recovering.recover(target))
            case Leap() | BeginAgain():
                self._start(self.recovering.find_way(effect))
            case KeepRecord(record):
                # Where it came with a new round, that round may have forgotten it already.
                if record in self.view.chain and not self.machine.syncing:
                    self.history.on_record(self.view.chain[record].round, self.clock.now_ms())
                self._start(self._keep_record(record))
            case HeadChanged():
                self._on_head_changed(effect)
            case Finalised():
                self.finals.note()
            case FinalsConflict(record, theirs, ours) if theirs:
                self.observer.on_event(
                    "final.disputed", record=record.hex(), theirs=theirs, ours=ours
                )
            case FinalsConflict():
                self.observer.on_event("final.undisputed")
            case ForgetStates(records):
                self._start(self.orders.forget(records))
            case Release(round_):
                self._start(self.orders.release(round_))
            case Restore(round_):
                self._start(self.orders.restore(round_))
            case DigestAccused(peer, base):
                self.observer.on_event("digest.differed", author=peer.hex(), base=base.hex())
            case RootDiffered(peer, record):
                self.observer.on_event("root.differed", author=peer.hex(), record=record.hex())
            case Refused(kind, _, error):
                verdict = "rejected" if isinstance(error, Reject) else "ignored"
                self.observer.on_message(TOPICS[kind], verdict)
            case Replay():
                self._start(self.recovering.replay(effect))
            case ReplayAgreed(base):
                self.observer.on_event("state.healed", base=base.hex())
                self._start(self.discard_wrong())
            case StateFault():
                self._start(self._tell_fault(effect))
            case FaultCleared():
                self.fault = ""
                self.observer.on_event("state.fault_cleared")
            case KeyInUse(round_):
                self._on_key_in_use(round_)
            case RoundEnded(round_):
                counters, syncing = self.mesh.counters(), self.machine.syncing
                self.history.on_round_ended(round_, self.view, counters, syncing=syncing)
                self.observer.on_round_begun(self.view.round)
                self.finals.note()
                self._start(self.fetcher.forget_payloads(round_))

    def _on_key_in_use(self, round_: int) -> None:
        """Whoever came last goes. Both, where both have just begun: nobody can tell who is who."""
        self.observer.on_event("key.in_use", round=round_)
        late_rounds = self.view.manifest.agreement.late_rounds
        if self.machine.syncing or round_ < self.first_round + late_rounds:
            self._start(_refuse_key())

    def _start(self, work: Coroutine[None, None, None]) -> None:
        try:
            self.group.create_task(work)
        except RuntimeError:  # the group has just ended; the mesh outlives it by a moment
            work.close()

    def _on_head_changed(self, effect: HeadChanged) -> None:
        self.history.on_head_changed(
            effect, self.view, self.clock.now_ms(), syncing=self.machine.syncing
        )
        self._head_changed.set()
        self.observer.on_event(
            "head.changed",
            head=effect.head.hex(),
            height=self.view.head_state.height,
            digest=self.view.digests[effect.head].hex(),
            rolled_back=effect.rolled_back,
        )

    # --- what takes a while ----------------------------------------------------------------------

    async def _make_stamp(self, effect: MakeStamp) -> None:
        made = await make_stamp(effect, self.view.manifest.schedule, self.clock, self.observer)
        if made is not None:
            self.post(made)

    async def _tell_fault(self, effect: StateFault) -> None:
        """Rule 20: say where it went wrong. The node stays up, as a witness."""
        self.fault = f"round {effect.round}"
        tensor = await self.tensors.find_differing(self.puller, effect.base)
        if self.machine.is_witness:
            self.fault = f"round {effect.round}, {tensor or 'tensor not known'}"
            self.observer.on_event("state.fault", round=effect.round, tensor=tensor)

    async def _keep_record(self, record: bytes) -> None:
        await self.outbox.wait_written()  # after a crash our log may not know of more than that
        if record in self.view.chain:
            step = self.view.chain[record]
            raw = encode_bundle(make_bundle(step))
            await self.store.keep_record(record, step.parent, step.round, raw)


async def _refuse_key() -> None:
    """Ends the node, by way of the group that owns all tasks."""
    raise ConfigError(
        "another node in this run signs with this node's key: a copied data folder? Stop one of"
        " the two, or start this one with another --datadir, which makes a key of its own"
    )
