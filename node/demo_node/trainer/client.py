"""ports.Learner over gRPC: what the round driver asks goes to the trainer child.

Part of the node process: no torch here.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import grpc

from demo_node.ports import AdoptOrder, ApplyOrder, LearnerLost, Norms, Trained, TrainOrder
from demo_node.trainer.faults import to_error
from demo_node.trainer.pb import trainer_pb2 as pb
from demo_node.trainer.pieces import iterate_pieces
from demo_node.trainer.supervisor import Supervisor, Trainer
from demo_protocol.errors import ConfigError, LocalFault
from demo_protocol.limits import DIGEST_BYTES
from demo_protocol.merkle import split_leaves

ANSWER_S: Final = 120.0
"""A call that takes longer than it can reasonably take means a trainer that hangs: it is ended."""

SLOW_S: Final = 10.0
"""A call that is not answered so long after it is due is told to the operator, or after two rounds.

Not ended yet: a process may be stopped for some seconds, and a machine may be busy.
"""

STATE_S: Final = 600.0
"""The same for work on a whole state: a large model on a slow disk.

One that is still being evaluated then is on a slow CPU: that is given up, and the trainer kept.
"""


class TrainerClient:
    """Talks to whatever trainer is ready.

    `load` waits for one that does it. Everything else raises LearnerLost when the trainer died,
    also when that was before the call and another is up: it holds no states until `load`.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        round_ms: int = 0,
        train_percent: int = 100,
    ) -> None:
        """`now_ms`: the clock of the orders' deadlines, ports.Clock's. `round_ms`: of the run.

        `train_percent`: how much of the time until a deadline is trained.
        """
        self._supervisor = supervisor
        self._now_ms = now_ms
        self._round_s = round_ms / 1000
        self._train_percent = train_percent

    async def load(self, record: bytes, snapshot: bytes | None) -> bytes:
        """Hold state `record`. Raises Reject on a bad snapshot.

        Waits for a trainer first, and for the next one where that dies over it.
        """

        async def requests() -> AsyncIterator[pb.LoadRequest]:
            yield pb.LoadRequest(record=record)
            for piece in iterate_pieces([snapshot] if snapshot else []):
                yield pb.LoadRequest(piece=piece)

        while True:
            trainer = await self._supervisor.wait_ready()
            with suppress(LearnerLost), self._calling("load", self._patience_s(STATE_S), trainer):
                reply = await trainer.stub.Load(requests(), timeout=STATE_S)
                trainer.has_states = True
                trainer.device_bytes = reply.device_bytes
                return reply.digest

    async def train(self, order: TrainOrder) -> Trained:
        """Local work until the order's deadline, or for a part of the time until then, then
        encoding. Cancelling stops the work.
        """
        left_ms = max(order.deadline_ms - self._now_ms(), 0) * self._train_percent // 100
        request = pb.TrainRequest(
            round=order.round,
            base=order.base,
            left_ms=left_ms,
            sample_first=order.sample_first,
            sample_count=order.sample_count,
            probation_key=order.probation_key,
            k=order.k,
        )
        with self._calling("train", left_ms / 1000 + SLOW_S) as trainer:
            header: pb.TrainedHeader | None = None
            pieces: list[bytes] = []
            async for reply in trainer.stub.Train(request, timeout=left_ms / 1000 + ANSWER_S):
                if header is None:
                    header = reply.header
                else:
                    pieces.append(reply.piece)
            if header is None:
                raise LocalFault("trainer: an empty answer")
            trainer.note(header.micro_batch, header.happenings)
            return _to_trained(order, header, b"".join(pieces))

    async def apply(self, order: ApplyOrder) -> bytes:
        """Compute and hold the state after a record; returns its digest. Idempotent."""
        header = pb.ApplyHeader(
            record=order.record,
            parent=order.parent,
            round=order.round,
            payload_bytes=[len(payload) for payload in order.payloads],
        )

        async def requests() -> AsyncIterator[pb.ApplyRequest]:
            yield pb.ApplyRequest(header=header)
            for piece in iterate_pieces(order.payloads):
                yield pb.ApplyRequest(piece=piece)

        with self._calling("apply", self._patience_s(STATE_S)) as trainer:
            reply = await trainer.stub.Apply(requests(), timeout=STATE_S)
            trainer.device_bytes = reply.device_bytes
            return reply.digest

    async def forget(self, records: Sequence[bytes]) -> None:
        """These states are not needed any more."""
        with self._calling("forget", self._patience_s(ANSWER_S)) as trainer:
            await trainer.stub.Forget(pb.ForgetRequest(records=records), timeout=ANSWER_S)

    async def restore(self, round_: int) -> None:
        """What was sent in `round_` did not count: add it back to the residual (rule 24)."""
        with self._calling("restore", self._patience_s(ANSWER_S)) as trainer:
            await trainer.stub.Restore(pb.RestoreRequest(round=round_), timeout=ANSWER_S)

    async def release(self, round_: int) -> None:
        """What was sent in `round_` counted."""
        with self._calling("release", self._patience_s(ANSWER_S)) as trainer:
            await trainer.stub.Release(pb.ReleaseRequest(round=round_), timeout=ANSWER_S)

    async def snapshot(self, record: bytes) -> AsyncIterator[bytes]:
        """A state as safetensors bytes, in pieces. Raises UnknownState."""
        # In pieces, as they are taken: nobody can say how long is long.
        with self._calling("snapshot", STATE_S) as trainer:
            request = pb.SnapshotRequest(record=record)
            async for reply in trainer.stub.Snapshot(request, timeout=STATE_S):
                yield reply.piece

    @property
    def needs_momentum(self) -> bool:
        """Whether it is new, and `adopt` is due before it trains. Raises LearnerLost."""
        return not self._find_loaded().has_momentum

    async def momentum(self) -> AsyncIterator[bytes]:
        """A momentum file in pieces. Raises ConfigError where memory is too short for it."""
        with self._calling("momentum", STATE_S) as trainer:
            async for reply in trainer.stub.Momentum(pb.MomentumRequest(), timeout=STATE_S):
                yield reply.piece

    async def adopt(self, order: AdoptOrder | None) -> None:
        """Go on from a momentum file; None: there is none."""
        trainer = self._find_loaded()
        if order is not None:
            with self._calling("adopt", self._patience_s(STATE_S), trainer):
                reply = await trainer.stub.Adopt(_encode_adopt(order), timeout=STATE_S)
                trainer.tell(reply.happenings)
        trainer.has_momentum = True

    async def leaves(self, record: bytes) -> tuple[bytes, ...]:
        """Leaf hashes of a state's parameters (rule 21). Raises UnknownState."""
        with self._calling("leaves", self._patience_s(STATE_S)) as trainer:
            reply = await trainer.stub.Leaves(pb.LeavesRequest(record=record), timeout=STATE_S)
            found = split_leaves(reply.leaves)
            if found is None:
                raise LocalFault("trainer: half a leaf hash")
            return found

    async def tensor_digests(self, record: bytes) -> tuple[bytes, ...]:
        """The digest of each tensor, in the order of their names. Raises UnknownState."""
        with self._calling("tensors", self._patience_s(STATE_S)) as trainer:
            reply = await trainer.stub.Tensors(pb.TensorsRequest(record=record), timeout=STATE_S)
            raw, size = reply.digests, DIGEST_BYTES
            return tuple(raw[at : at + size] for at in range(0, len(raw), size))

    async def evaluate(self, record: bytes) -> float:
        """Held-out loss, nats per byte, over 16 KiB.

        Raises UnknownState, and ConfigError where memory is too short or it takes too long.
        """
        with self._looking() as trainer:
            request = pb.EvaluateRequest(record=record)
            return (await trainer.stub.Evaluate(request, timeout=STATE_S)).loss

    async def generate(self, record: bytes, length: int) -> bytes:
        """Text of `length` bytes, the same on every node. Raises as `evaluate`."""
        with self._looking() as trainer:
            request = pb.GenerateRequest(record=record, length=length)
            return (await trainer.stub.Generate(request, timeout=STATE_S)).text

    def _patience_s(self, limit_s: float) -> float:
        """How long a call that ends at `limit_s` may take before an operator is told."""
        return min(max(SLOW_S, 2 * self._round_s), limit_s / 2)

    @contextmanager
    def _calling(
        self, call: str, patience_s: float, trainer: Trainer | None = None
    ) -> Iterator[Trainer]:
        """Errors of a call inside come out as what they mean; `patience_s` is when it is slow."""
        trainer = trainer or self._find_loaded()
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        slow = loop.call_later(patience_s, trainer.note_silence, call, patience_s)
        try:
            yield trainer
            trainer.is_silent = False
        except grpc.aio.AioRpcError as error:
            meant = to_error(error)
            if isinstance(meant, LearnerLost):
                # Gone, or hanging. Its death may not have been noticed yet: nobody shall ask again.
                reason = _explain_end(error.code(), call, loop.time() - begin_s)
                self._supervisor.abandon(trainer, reason)
            else:
                trainer.is_silent = False
            raise meant from None
        finally:
            slow.cancel()

    @contextmanager
    def _looking(self) -> Iterator[Trainer]:
        """As `_calling`, where rounds go on without an answer: the trainer is never ended."""
        try:
            yield self._find_loaded()
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise ConfigError(
                    f"this machine is too slow or too busy to look at the parameters in"
                    f" {STATE_S:.0f} s; the trainer goes on, try again when it has less to do"
                ) from None
            raise to_error(error) from None

    def _find_loaded(self) -> Trainer:
        """The trainer that holds states. Raises LearnerLost while there is none."""
        trainer = self._supervisor.trainer()
        if not trainer.has_states:
            raise LearnerLost("this trainer is new and holds no states yet")
        return trainer


async def _encode_adopt(order: AdoptOrder) -> AsyncIterator[pb.AdoptRequest]:
    sent = [
        pb.SentPayload(round=s.round, fate=s.fate, payload_bytes=len(s.payload)) for s in order.sent
    ]
    header = pb.AdoptHeader(path=str(order.path), forgotten_until=order.forgotten_until, sent=sent)
    yield pb.AdoptRequest(header=header)
    for piece in iterate_pieces([s.payload for s in order.sent]):
        yield pb.AdoptRequest(piece=piece)


def _explain_end(code: grpc.StatusCode, call: str, waited_s: float) -> str:
    """Why this node ends a trainer; empty where the trainer has ended, or is about to."""
    match code:
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"it did not answer for {waited_s:.0f} s ({call}) and was ended"
        case grpc.StatusCode.ABORTED:
            return f"memory ran out ({call}) and it was ended"
        case _:
            return ""


def _to_trained(order: TrainOrder, header: pb.TrainedHeader, payload: bytes) -> Trained:
    return Trained(
        round=order.round,
        base=order.base,
        payload=payload,
        k=header.k,
        samples=header.samples,
        tokens=header.tokens,
        loss_micronats=header.loss_micronats,
        train_ms=header.train_ms,
        encode_ms=header.encode_ms,
        steps=header.steps,
        norms=_to_norms(header.norms) if header.HasField("norms") else None,
        nonfinite_gradients=header.nonfinite_gradients,
        nonfinite_deltas=header.nonfinite_deltas,
    )


def _to_norms(norms: pb.Norms) -> Norms:
    return Norms(
        gradient=norms.gradient,
        delta=norms.delta,
        residual=norms.residual,
        residual_ratio=norms.residual_ratio,
    )
