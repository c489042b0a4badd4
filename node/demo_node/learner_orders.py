"""What the trainer is ordered to do for the round machine, and what it answers.

The machine may have begun its chain anew while an order was carried out: then nothing is said.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence

from demo_node.fetching import Fetcher
from demo_node.history import History
from demo_node.momentum_keeping import MomentumKeeping
from demo_node.observer import RoundObserver
from demo_node.ports import ApplyOrder, Clock, Learner, LearnerLost, RoundStore, TrainOrder
from demo_node.racing import sha256
from demo_node.recovering import Recovering
from demo_node.sending import Sending
from demo_protocol.effects import Apply, Train
from demo_protocol.events import Event, PayloadsLost, RootComputed, StateApplied, TrainingDone
from demo_protocol.round import Round
from demo_protocol.state_root import compute_state_root


class LearnerOrders:
    """Gives the orders. `post` tells the machine what came of one."""

    def __init__(
        self,
        machine: Round,
        learner: Learner,
        store: RoundStore,
        fetcher: Fetcher,
        history: History,
        recovering: Recovering,
        momentum: MomentumKeeping,
        *,
        sending: Sending,
        clock: Clock,
        observer: RoundObserver,
        post: Callable[[Event], None],
    ) -> None:
        """`sending` says how many coefficients of each chunk this node sends."""
        self._machine = machine
        self._learner = learner
        self._store = store
        self._fetcher = fetcher
        self._history = history
        self._recovering = recovering
        self._momentum = momentum
        self._sending = sending
        self._clock = clock
        self._observer = observer
        self._post = post
        self._rooting: set[bytes] = set()

    async def train(self, effect: Train) -> None:
        """Train, keep the payload, and say what it is."""
        if self._recovering.is_under_way or effect.base not in self._machine.replica.states:
            return  # the chain was begun anew since this was ordered
        self._sending.begin_round(effect.round)
        order = TrainOrder(
            round=effect.round,
            base=effect.base,
            deadline_ms=effect.deadline_ms,
            sample_first=effect.sample_first,
            sample_count=effect.sample_count,
            k=self._sending.choose() if effect.sends else 0,
            probation_key=effect.probation_key,
        )
        try:
            await self._momentum.adopt()
            trained = await self._learner.train(order)
        except LearnerLost:
            await self._recovering.recover(self._machine.view.head)
            return
        except LookupError:
            if effect.base in self._machine.replica.states:
                raise
            return  # it was forgotten with the chain that we were on
        payload_hash = b""
        if trained.k:
            payload_hash = await sha256(trained.payload)
            await self._fetcher.keep_own_payload(trained.round, payload_hash, trained.payload)
            self._sending.on_sent(payload_hash)
        self._history.on_trained(trained, self._clock.now_ms())
        self._post(
            TrainingDone(
                now_ms=self._clock.now_ms(),
                round=trained.round,
                base=trained.base,
                payload_hash=payload_hash,
                payload_bytes=len(trained.payload),
                k=trained.k,
                samples=trained.samples,
                loss_micronats=trained.loss_micronats,
            )
        )

    async def apply(self, effect: Apply) -> None:
        """Compute the state after a record, of payloads that are read from the disk."""
        payloads = [await self._store.read_payload(h) for h in effect.payload_hashes]
        held = dict(zip(effect.payload_hashes, payloads, strict=True))
        lost = tuple(name for name, raw in held.items() if raw is None)
        if lost:
            self._observer.on_event("payload.lost", count=len(lost))
            if self._machine.replica.applying == effect.record:
                self._post(PayloadsLost(self._clock.now_ms(), lost))
            return
        if self._recovering.is_under_way or self._machine.replica.applying != effect.record:
            return  # the chain was begun anew since this was ordered
        order = ApplyOrder(
            record=effect.record,
            parent=effect.parent,
            round=effect.round,
            payloads=tuple(p for p in payloads if p is not None),
        )
        begin_s = time.perf_counter()
        try:
            digest = await self._learner.apply(order)
        except LearnerLost:
            await self._recovering.recover(effect.record)
            return
        except LookupError:
            if self._machine.replica.applying == effect.record:
                raise
            return  # its parent was forgotten with the chain that we were on
        self._observer.on_op("apply", time.perf_counter() - begin_s)
        if self._machine.replica.applying == effect.record:
            self._post(StateApplied(self._clock.now_ms(), effect.record, digest))
        elif effect.record not in self._machine.replica.states:
            await self.forget([effect.record])

    async def compute_root(self, record: bytes) -> None:
        """Rule 21. Where the state is gone nothing comes of it: the machine asks again."""
        if record in self._rooting:
            return
        self._rooting.add(record)
        try:
            leaves = await self._learner.leaves(record)
        except (LearnerLost, LookupError):
            return
        finally:
            self._rooting.discard(record)
        if record in self._machine.view.chain:
            state = self._machine.view.chain[record].state
            root = await asyncio.to_thread(compute_state_root, state, leaves)
            self._post(RootComputed(self._clock.now_ms(), record, root))

    async def forget(self, records: Sequence[bytes]) -> None:
        """Drop the states after these records."""
        await self._unless_lost(self._learner.forget(records))

    async def release(self, round_: int) -> None:
        """What was sent in `round_` counted (rule 24)."""
        async with self._momentum.deciding:
            await self._unless_lost(self._learner.release(round_))

    async def restore(self, round_: int) -> None:
        """What was sent in `round_` did not count (rule 24)."""
        async with self._momentum.deciding:
            await self._unless_lost(self._learner.restore(round_))

    async def _unless_lost(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except LearnerLost:
            return  # what it was to forget is gone with it; the next one is told as it begins
