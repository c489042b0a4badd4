"""The trainer's gRPC service: bytes to orders and back, around one LocalLearner."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from pathlib import Path
from types import TracebackType
from typing import Final

import grpc
import torch

from demo_node.learn.faults import is_out_of_memory
from demo_node.native import find_codec
from demo_node.ports import AdoptOrder, ApplyOrder, Fate, Norms, SentPayload, TrainOrder
from demo_node.trainer.device import choose_devices
from demo_node.trainer.learner import LocalLearner
from demo_node.trainer.memory import check_fits, compute_needs, explain, find_room
from demo_node.trainer.pb import trainer_pb2 as pb
from demo_node.trainer.pb import trainer_pb2_grpc as pb_grpc
from demo_node.trainer.pieces import iterate_pieces
from demo_node.trainer.settings import DoesNotFit, UnknownState
from demo_node.trainer.tensors import read_corpus
from demo_protocol.errors import ConfigError, LocalFault, Reject
from demo_protocol.manifest import decode_manifest
from demo_protocol.schema import compute_schema

WORKERS: Final = 8
"""Calls answered at once: train, apply, snapshot, leaves, evaluate, generate, and short ones."""


ONE_SAMPLE: Final = ", and more for one sample at a time"


def serve(socket: str, threads: int) -> grpc.Server:
    """A started server on the unix socket; each operation may use `threads` cores."""
    torch.set_num_threads(threads)
    server = grpc.server(ThreadPoolExecutor(WORKERS))
    pb_grpc.add_TrainerServicer_to_server(TrainerService(), server)
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    return server


class TrainerService(pb_grpc.TrainerServicer):
    """Answers one node. A bug's traceback goes to stderr, by gRPC's own logger."""

    def __init__(self) -> None:
        self._configured: LocalLearner | None = None
        self._happened: list[pb.Happening] = []

    @property
    def _learner(self) -> LocalLearner:
        if self._configured is None:
            raise LocalFault("the trainer has not been configured")
        return self._configured

    def Ping(self, request: pb.PingRequest, context: grpc.ServicerContext) -> pb.PingReply:
        """Answer."""
        return pb.PingReply()

    def Configure(
        self, request: pb.ConfigureRequest, context: grpc.ServicerContext
    ) -> pb.ConfigureReply:
        """Make the learner, after the known-answer test, and rehearse a step with it."""
        with _Faults(context):
            learner = self._make_learner(request)
            self._configured = learner
            return pb.ConfigureReply(
                parameters=learner.schema.parameters,
                device=str(learner.devices.train),
                apply_device=str(learner.devices.apply),
                known_answer_ok=learner.devices.can_contribute,
                micro_batch=learner.micro_batch,
                happenings=self._take_happened(),
                codec=codec.level if (codec := find_codec()) else "",
            )

    def _make_learner(self, request: pb.ConfigureRequest) -> LocalLearner:
        """Raises ConfigError where these settings can never work, DoesNotFit with the numbers."""
        manifest = decode_manifest(request.manifest)
        devices = choose_devices(request.device, request.gpu_memory_mb)
        needs = compute_needs(compute_schema(manifest.model), manifest.learning)
        room = find_room(devices.train, request.gpu_memory_mb)
        check_fits(needs, devices, request.gpu_memory_mb)
        needed = needs.train + (needs.apply if devices.apply == devices.train else 0)
        try:
            learner = LocalLearner(
                manifest,
                read_corpus(Path(request.corpus), manifest.data),
                devices,
                now_ms=_monotonic_ms,
                initial=Path(request.initial) if request.initial else None,
                on_event=self._on_event,
            )
            learner.rehearse(room.bytes - needed)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise DoesNotFit(explain(needs, needed, room, more=ONE_SAMPLE)) from None
        return learner

    def _on_event(self, name: str, **fields: object) -> None:
        self._happened.append(pb.Happening(name=name, fields=json.dumps(fields)))

    def _take_happened(self) -> list[pb.Happening]:
        happened, self._happened = self._happened, []
        return happened

    def Load(
        self, request_iterator: Iterator[pb.LoadRequest], context: grpc.ServicerContext
    ) -> pb.StateReply:
        """Hold state 0 or a snapshot."""
        with _Faults(context):
            record = next(request_iterator).record
            pieces = [request.piece for request in request_iterator]
            digest = self._learner.load(record, b"".join(pieces) if pieces else None)
            return pb.StateReply(digest=digest, device_bytes=self._learner.device_bytes)

    def Train(
        self, request: pb.TrainRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.TrainReply]:
        """Work until the deadline, or until the node has given up on the call."""
        should_stop = _watch_over(context)
        with _Faults(context):
            order = TrainOrder(
                round=request.round,
                base=request.base,
                deadline_ms=_monotonic_ms() + request.left_ms,
                sample_first=request.sample_first,
                sample_count=request.sample_count,
                k=request.k,
                probation_key=request.probation_key,
            )
            trained = self._learner.train(order, should_stop)
        yield pb.TrainReply(
            header=pb.TrainedHeader(
                k=trained.k,
                samples=trained.samples,
                tokens=trained.tokens,
                loss_micronats=trained.loss_micronats,
                train_ms=trained.train_ms,
                encode_ms=trained.encode_ms,
                steps=trained.steps,
                norms=_encode_norms(trained.norms),
                nonfinite_gradients=trained.nonfinite_gradients,
                nonfinite_deltas=trained.nonfinite_deltas,
                micro_batch=self._learner.micro_batch,
                happenings=self._take_happened(),
            )
        )
        for piece in iterate_pieces([trained.payload]):
            yield pb.TrainReply(piece=piece)

    def Apply(
        self, request_iterator: Iterator[pb.ApplyRequest], context: grpc.ServicerContext
    ) -> pb.StateReply:
        """Cut the pieces into payloads again, and apply them."""
        with _Faults(context):
            header = next(request_iterator).header
            pieces = (request.piece for request in request_iterator)
            order = ApplyOrder(
                record=header.record,
                parent=header.parent,
                round=header.round,
                payloads=_cut(pieces, header.payload_bytes),
            )
            digest = self._learner.apply(order)
            return pb.StateReply(digest=digest, device_bytes=self._learner.device_bytes)

    def Forget(self, request: pb.ForgetRequest, context: grpc.ServicerContext) -> pb.ForgetReply:
        """Drop states."""
        self._learner.forget(request.records)
        return pb.ForgetReply()

    def Restore(self, request: pb.RestoreRequest, context: grpc.ServicerContext) -> pb.RestoreReply:
        """Put back what was sent."""
        self._learner.restore(request.round)
        return pb.RestoreReply()

    def Release(self, request: pb.ReleaseRequest, context: grpc.ServicerContext) -> pb.ReleaseReply:
        """Forget what was sent."""
        self._learner.release(request.round)
        return pb.ReleaseReply()

    def Snapshot(
        self, request: pb.SnapshotRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.SnapshotReply]:
        """A state in pieces."""
        with _Faults(context):
            pieces = self._learner.snapshot(request.record)
        for piece in pieces:
            yield pb.SnapshotReply(piece=piece)

    def Momentum(
        self, request: pb.MomentumRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.MomentumReply]:
        """What a restart would lose, in pieces."""
        with _Faults(context):
            for piece in self._learner.momentum():
                yield pb.MomentumReply(piece=piece)

    def Adopt(
        self, request_iterator: Iterator[pb.AdoptRequest], context: grpc.ServicerContext
    ) -> pb.AdoptReply:
        """Go on from what an earlier trainer has left."""
        with _Faults(context):
            header = next(request_iterator).header
            pieces = (request.piece for request in request_iterator)
            payloads = _cut(pieces, [sent.payload_bytes for sent in header.sent])
            order = AdoptOrder(
                path=Path(header.path),
                forgotten_until=header.forgotten_until,
                sent=tuple(
                    SentPayload(round=sent.round, fate=Fate(sent.fate), payload=payload)
                    for sent, payload in zip(header.sent, payloads, strict=True)
                ),
            )
            self._learner.adopt(order)
            return pb.AdoptReply(happenings=self._take_happened())

    def Leaves(self, request: pb.LeavesRequest, context: grpc.ServicerContext) -> pb.LeavesReply:
        """Hash a state."""
        with _Faults(context):
            leaves = self._learner.leaves(request.record)
            return pb.LeavesReply(leaves=b"".join(leaves))

    def Tensors(self, request: pb.TensorsRequest, context: grpc.ServicerContext) -> pb.TensorsReply:
        """Digest each tensor of a state."""
        with _Faults(context):
            digests = self._learner.tensor_digests(request.record)
            return pb.TensorsReply(digests=b"".join(digests))

    def Evaluate(
        self, request: pb.EvaluateRequest, context: grpc.ServicerContext
    ) -> pb.EvaluateReply:
        """Held-out loss; stops when the node has given up on it."""
        should_stop = _watch_over(context)
        with _Faults(context):
            loss = self._learner.evaluate(request.record, should_stop)
            return pb.EvaluateReply(loss=loss)

    def Generate(
        self, request: pb.GenerateRequest, context: grpc.ServicerContext
    ) -> pb.GenerateReply:
        """Sampled text; stops when the node has given up on it."""
        should_stop = _watch_over(context)
        with _Faults(context):
            text = self._learner.generate(request.record, request.length, should_stop)
            return pb.GenerateReply(text=text)


def _cut(pieces: Iterable[bytes], sizes: Iterable[int]) -> tuple[bytes, ...]:
    """Payloads that came one after the other. Raises LocalFault where others were announced."""
    joined = b"".join(pieces)
    ends = list(accumulate(sizes, initial=0))
    if ends[-1] != len(joined):
        raise LocalFault(f"trainer: {len(joined)} bytes came, {ends[-1]} were announced")
    return tuple(joined[start:end] for start, end in pairwise(ends))


def _encode_norms(norms: Norms | None) -> pb.Norms | None:
    if norms is None:
        return None
    return pb.Norms(
        gradient=norms.gradient,
        delta=norms.delta,
        residual=norms.residual,
        residual_ratio=norms.residual_ratio,
    )


_CODES: Final = {
    UnknownState: grpc.StatusCode.NOT_FOUND,
    Reject: grpc.StatusCode.INVALID_ARGUMENT,
    ConfigError: grpc.StatusCode.FAILED_PRECONDITION,
    DoesNotFit: grpc.StatusCode.OUT_OF_RANGE,
}
"""Errors that cross as what they are; faults.py turns the codes back. Any other is a bug here,
or a lack of memory. gRPC itself never ends a call with the codes of the last two."""


def _monotonic_ms() -> int:
    """The clock of deadlines in this process: nobody can set it."""
    return time.monotonic_ns() // 1_000_000


def _watch_over(context: grpc.ServicerContext) -> Callable[[], bool]:
    """Whether the call is over: answered, cancelled, or past its deadline."""
    over = threading.Event()
    if not context.add_callback(over.set):
        over.set()  # it was over while it waited for a worker
    return over.is_set


class _Faults:
    """Ends the call with the code of the error that leaves the block."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind in _CODES:
            self._context.abort(_CODES[kind], str(error))
        if is_out_of_memory(error):
            self._context.abort(grpc.StatusCode.ABORTED, str(error))
