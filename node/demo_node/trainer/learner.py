"""One node's learning, synchronous and without a process around it.

Orchestrates learn/: replicated states by the record they follow, local work from one of them,
the residual, exact updates. Here the clock is read that learn/ does not know. `train` and `apply`
may run in two threads: states are never changed once made, an update makes new tensors.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from demo_node.learn.data import evaluate, generate, iterate_batches
from demo_node.learn.demo import Encoder
from demo_node.learn.digest import compute_digest, compute_tensor_digests
from demo_node.learn.exact import apply_update
from demo_node.learn.faults import Diverged, is_out_of_memory
from demo_node.learn.flat import Flat
from demo_node.learn.local import LocalTrainer, LocalWork
from demo_node.learn.model import Decoder, load_state
from demo_node.native import decode_payload, encode_payload
from demo_node.ports import AdoptOrder, ApplyOrder, Trained, TrainOrder
from demo_node.trainer.device import Devices
from demo_node.trainer.divergence import Divergence
from demo_node.trainer.memory import compute_needs
from demo_node.trainer.momentum import adopt_momentum, save_momentum
from demo_node.trainer.norms import measure_or_none, to_norms
from demo_node.trainer.pieces import iterate_pieces
from demo_node.trainer.settings import OnEvent, UnknownState
from demo_node.trainer.tensors import (
    compute_leaves,
    decode_tensors,
    encode_tensors,
    make_initial,
)
from demo_protocol.assignment import Indices, compute_probation_samples, compute_samples
from demo_protocol.errors import ConfigError
from demo_protocol.fp32 import compute_step
from demo_protocol.limits import LOSS_MICRONATS_MAX
from demo_protocol.manifest import Manifest, compute_run_id
from demo_protocol.schema import SLOTS, compute_schema


@dataclass(frozen=True, slots=True)
class _State:
    """fp32 tensors by name, on the device that applies updates, and their digest."""

    tensors: Flat
    digest: bytes


class LocalLearner:
    """The synchronous twin of ports.Learner. Its caller bounds the states held by `forget`."""

    def __init__(
        self,
        manifest: Manifest,
        corpus: Tensor,
        devices: Devices,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        initial: Path | None = None,
        on_event: OnEvent = lambda _name, **_fields: None,
    ) -> None:
        """`corpus`: uint8 [train_bytes + heldout_bytes]. `now_ms`: the clock of deadlines.

        `initial`: the snapshot file that the manifest names as state 0, if it names one.
        on_event: step.skipped, training.diverged, training.keeps_diverging,
        training.out_of_memory and trainer.micro_batch_halved.
        """
        self.manifest = manifest
        self.devices = devices
        self.schema = compute_schema(manifest.model)
        self._now_ms = now_ms
        self._initial = initial
        self._on_event = on_event
        self._divergence = Divergence(on_event)
        self._run_id = compute_run_id(manifest)
        self._data_root = bytes.fromhex(manifest.data.root)
        text = corpus.to(devices.train)
        self._text = text[: manifest.data.train_bytes]
        self._heldout = text[manifest.data.train_bytes :]
        self._trainer = LocalTrainer(
            manifest.model, manifest.learning, devices.train, time.perf_counter_ns
        )
        self._encoder = Encoder(self.schema, manifest.learning, devices.train)
        self._residual_round = -1
        """The newest round whose work is in the residual."""
        self._reader = Decoder(manifest.model, devices.train)
        self._states: dict[bytes, _State] = {}
        self._states_lock = threading.Lock()
        self._trainer_lock = threading.Lock()
        self._encoder_lock = threading.Lock()
        self._reader_lock = threading.Lock()

    @property
    def micro_batch(self) -> int:
        """Samples taken at once."""
        return self._trainer.micro_batch

    @property
    def device_bytes(self) -> int:
        """Memory of the graphics card that this process holds, used or not; 0 without one."""
        device = self.devices.train
        return torch.cuda.memory_reserved(device) if device.type == "cuda" else 0

    def rehearse(self, bytes_left: int) -> None:
        """Find by trial what fits of the manifest's micro-batch. Before the first round.

        `bytes_left`: for activations, beside what `compute_needs` knows. States and an update
        are not there yet: their room is kept meanwhile. Raises what `is_out_of_memory` knows
        where not even one sample fits.
        """
        reserved = torch.empty(
            compute_needs(self.schema, self.manifest.learning).apply,
            dtype=torch.uint8,
            device=self.devices.apply,
        )
        self._trainer.rehearse(bytes_left)
        del reserved
        if self.devices.apply.type == "cuda":
            torch.cuda.empty_cache()
        self._tell_if_halved(self.manifest.learning.micro_batch)

    def load(self, record: bytes, snapshot: bytes | None) -> bytes:
        """Hold state `record`: from safetensors bytes, or state 0 for None. Returns the digest.

        Raises Reject when the bytes are not a state of this run's model, ConfigError when the
        file of state 0 is not the one that the manifest names.
        """
        if snapshot is None:
            tensors = make_initial(self.manifest, self.schema, self._initial)
        else:
            tensors = decode_tensors(snapshot, self.schema)
        return self._hold(record, Flat.of(tensors, self.schema).to(self.devices.apply))

    def train(self, order: TrainOrder, should_stop: Callable[[], bool] = lambda: False) -> Trained:
        """Work through the order's samples until its deadline (rule T2), then encode.

        Whoever runs out of samples returns early. Without a turn there is nothing to encode: what
        was learned waits in the residual. A heartbeat (k = 0) comes back, and the residual stays
        as it was, when not a single sample was done, `should_stop` said so, this machine's
        arithmetic is wrong, no gradient or not the delta was finite, or memory was too short.
        Raises UnknownState.
        """
        base = self._get(order.base)
        if order.sample_count == 0 or not self.devices.can_contribute:
            return _heartbeat(order)
        try:
            with self._trainer_lock:
                work = self._work(base, order, should_stop)
            if work.samples and not should_stop():
                trained = self._encode(order, work)
            else:
                trained = _heartbeat(order)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._on_event("training.out_of_memory", round=order.round, reason=str(error))
            return _heartbeat(order)
        trained = replace(trained, nonfinite_gradients=work.nonfinite)
        self._divergence.note(trained, work.samples)
        return trained

    def _encode(self, order: TrainOrder, work: LocalWork) -> Trained:
        """Put what was learned into the residual, and take from there what is sent.

        A heartbeat where the delta is not finite: then the residual is as it was.
        """
        begin_ns = time.perf_counter_ns()
        delta = measure_or_none([work.delta.row.view(-1, SLOTS)])
        with self._encoder_lock:
            newest = self._residual_round
            try:
                self._encoder.accumulate(work.delta)
                self._residual_round = order.round
                before = measure_or_none([self._encoder.residual])
                payload = self._take(order.k, order.round) if order.k else b""
                self._encoder.confirm()
            except Diverged:
                self._residual_round = newest
                return replace(_heartbeat(order), nonfinite_deltas=1)
            residual = measure_or_none([self._encoder.residual])
        return Trained(
            round=order.round,
            base=order.base,
            payload=payload,
            k=order.k,
            samples=work.samples,
            tokens=work.tokens,
            loss_micronats=min(round(work.loss * 1_000_000), LOSS_MICRONATS_MAX),
            train_ms=work.busy_ns // 1_000_000,
            encode_ms=(time.perf_counter_ns() - begin_ns) // 1_000_000,
            steps=work.steps,
            norms=to_norms(work.gradient_norm, delta, before, residual),
        )

    def _take(self, k: int, round_: int) -> bytes:
        """A payload, out of the residual; whatever fails, nothing is missing from there (T3)."""
        try:
            return encode_payload(self._encoder.encode(k, round_), self.schema)
        except (RuntimeError, MemoryError):
            self._encoder.restore(round_)
            raise

    def apply(self, order: ApplyOrder) -> bytes:
        """Compute and hold the state after a record; returns its digest. Idempotent.

        Raises UnknownState without the parent, Reject when a payload is malformed.
        """
        with self._states_lock:
            held = self._states.get(order.record)
        if held is not None:
            return held.digest
        parent = self._get(order.parent)
        learning = self.manifest.learning
        payloads = [decode_payload(raw, self.schema, learning.k) for raw in order.payloads]
        step = compute_step(learning, order.round)
        return self._hold(order.record, apply_update(parent.tensors, payloads, self.schema, step))

    def forget(self, records: Sequence[bytes]) -> None:
        """These states are not needed any more; unknown ones are no error."""
        with self._states_lock:
            for record in records:
                self._states.pop(record, None)

    def restore(self, round_: int) -> None:
        """What was sent in `round_` did not count: add it back to the residual (rule 24)."""
        with self._encoder_lock:
            self._encoder.restore(round_)

    def release(self, round_: int) -> None:
        """What was sent in `round_` counted: forget the copy kept for `restore`."""
        with self._encoder_lock:
            self._encoder.release(round_)

    def snapshot(self, record: bytes) -> Iterator[bytes]:
        """A state as safetensors bytes, equal on every replica, in pieces. Raises UnknownState."""
        return iterate_pieces([encode_tensors(self._get(record).tensors)])

    def momentum(self) -> Iterator[bytes]:
        """A momentum file in pieces, which are made as they are asked for. Training goes on.

        Raises ConfigError where memory is too short for a copy of the residual.
        """
        with _or_too_short("memory is too short to save the momentum beside training"):
            with self._encoder_lock:
                momentum, round_ = self._encoder.export(), self._residual_round
            yield from iterate_pieces(
                save_momentum(self._run_id, self.schema, round_, momentum, self._trainer)
            )

    def adopt(self, order: AdoptOrder) -> None:
        """Go on from a momentum file, before the first round; `adopt_momentum` says how.

        on_event: momentum.restored, momentum.ignored.
        """
        k = self.manifest.learning.k
        with self._trainer_lock, self._encoder_lock:
            round_, reason = adopt_momentum(order, self._run_id, self._encoder, self._trainer, k)
            self._residual_round = round_
        if reason:
            self._on_event("momentum.ignored", reason=reason)
        elif round_ >= 0:
            self._on_event("momentum.restored", round=round_)

    def leaves(self, record: bytes) -> tuple[bytes, ...]:
        """Leaf hashes of a state's parameters (rule 21). Raises UnknownState."""
        return compute_leaves(self._get(record).tensors)

    def tensor_digests(self, record: bytes) -> tuple[bytes, ...]:
        """The digest of each tensor, in the order of their names. Raises UnknownState."""
        return compute_tensor_digests(self._get(record).tensors)

    def evaluate(self, record: bytes, should_stop: Callable[[], bool] = lambda: False) -> float:
        """Held-out loss of a state, nats per byte, over 16 KiB; NaN where `should_stop` said so.

        Raises UnknownState, and ConfigError where memory is too short: what trains goes on.
        """
        with self._reading(record):
            return evaluate(self._reader, self._heldout, should_stop)

    def generate(
        self, record: bytes, length: int, should_stop: Callable[[], bool] = lambda: False
    ) -> bytes:
        """`length` bytes of text, the same wherever the state is; fewer where it should stop.

        Raises as `evaluate`.
        """
        with self._reading(record) as state:
            return generate(self._reader, state.digest, length, should_stop)

    @contextmanager
    def _reading(self, record: bytes) -> Iterator[_State]:
        """The reader has this state's parameters inside."""
        state = self._get(record)
        reason = "memory is too short to look at the parameters beside training"
        with self._reader_lock, _or_too_short(reason):
            load_state(self._reader, state.tensors)
            yield state

    def _tell_if_halved(self, before: int) -> None:
        if self.micro_batch < before:
            self._on_event(
                "trainer.micro_batch_halved",
                samples=self.micro_batch,
                before=before,
                reason="memory is too short for more at once; training goes on, a little slower",
            )

    def _work(self, base: _State, order: TrainOrder, should_stop: Callable[[], bool]) -> LocalWork:
        batches = iterate_batches(
            self._text,
            self._samples(order),
            self.manifest.model.context,
            self.manifest.learning.micro_batch,
        )
        first = True

        def should_continue(step_ns: int) -> bool:
            nonlocal first
            # The first step of a round is taken whatever the last ones took: after a stall (a
            # laptop's sleep) no step would ever seem to fit again, and none be measured anew.
            needed_ms = 0 if first else step_ns // 1_000_000
            first = False
            return not should_stop() and self._now_ms() + needed_ms < order.deadline_ms

        before = self.micro_batch
        try:
            return self._trainer.train(base.tensors, order.round, batches, should_continue)
        finally:
            self._tell_if_halved(before)

    def _samples(self, order: TrainOrder) -> Indices:
        """Sample indices of the order, int64 [sample_count] (rule T5)."""
        first, count = order.sample_first, order.sample_count
        total = (self.manifest.data.train_bytes - 1) // self.manifest.model.context
        if order.probation_key:
            return compute_probation_samples(order.probation_key, order.round, total, first, count)
        numbers = np.arange(first, first + count, dtype=np.int64)
        return compute_samples(self._run_id, self._data_root, total, numbers)

    def _hold(self, record: bytes, tensors: Flat) -> bytes:
        state = _State(tensors, compute_digest(tensors))
        with self._states_lock:
            self._states[record] = state
        return state.digest

    def _get(self, record: bytes) -> _State:
        with self._states_lock:
            state = self._states.get(record)
        if state is None:
            raise UnknownState(f"the state after record {record.hex()} is not held")
        return state


@contextmanager
def _or_too_short(reason: str) -> Iterator[None]:
    """Raises ConfigError with this reason where memory is too short: what trains goes on."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(reason) from None


def _heartbeat(order: TrainOrder) -> Trained:
    """Nothing done, nothing sent (rule T4)."""
    return Trained(
        round=order.round,
        base=order.base,
        payload=b"",
        k=0,
        samples=0,
        tokens=0,
        loss_micronats=0,
        train_ms=0,
        encode_ms=0,
        steps=0,
    )
