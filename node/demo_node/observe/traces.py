"""One OpenTelemetry trace per sampled round: every node adds its spans to the same one.

The only file that imports OpenTelemetry, which is an extra; the daemon imports this file where an
endpoint was named. Spans are made when a round is closed, from what was noted meanwhile; a thread
of the batch processor sends them.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Span, Status, StatusCode, set_span_in_context

from demo_node.observe.sampling import Sampling, compute_trace_id
from demo_node.observer import Figure
from demo_node.views import Outcome, RoundView, StatusView

MS: Final = 1_000_000
"""Nanoseconds: the unit of spans."""

OPS_MAX: Final = 10
"""Spans of each kind of op in a round: verify comes once for every message of a large swarm."""

ROUNDS_KEPT: Final = 4
"""Sampled rounds whose ops are kept until they are closed: one round after they ended, or late."""

SEND_EVERY_MS: Final = 2_000
SEND_TIMEOUT_S: Final = 3.0
"""At most this long for one batch, tries included."""

REASON_MAX: Final = 120
"""Characters."""


@dataclass(frozen=True, slots=True)
class _Op:
    name: str
    begin_ns: int
    end_ns: int


@dataclass(slots=True)
class _Ops:
    kept: list[_Op] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)


class RoundIds(RandomIdGenerator):
    """Trace ids are those of rounds; span ids are random, so those of nodes differ."""

    trace_id = 0

    def generate_trace_id(self) -> int:
        """Of the round whose root span is being made."""
        return self.trace_id


class Delivery(SpanExporter):
    """Hands batches to another exporter, in its thread, and knows whether that works."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._is_closing = False
        self._reason = _listen_to_opentelemetry()
        self.failure = ""
        """Why the newest batch was not taken; empty where it was."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send them. What fails is dropped: nobody waits for old traces."""
        if self._is_closing and self.failure:
            return SpanExportResult.FAILURE  # the node does not wait for what did not work before
        self._reason.text = ""
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # older versions of it raise where nobody answers
            self._reason.note(str(error))
            result = SpanExportResult.FAILURE
        failed = result is not SpanExportResult.SUCCESS
        self.failure = (self._reason.text or "it gave no reason") if failed else ""
        return result

    def begin_to_close(self) -> None:
        """From now on one failure is enough."""
        self._is_closing = True

    def shutdown(self) -> None:
        """Whatever is being sent is given up."""
        self._exporter.shutdown()


class Reason(logging.Handler):
    """Remembers why an export failed: an exporter only logs it, several times over."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first; the last only says that it is over."""
        self.note(record.getMessage().partition(" encountered while exporting")[0])

    def note(self, text: str) -> None:
        """Keep it, if it is the first: the end of it, where the cause stands."""
        self.text = self.text or text.rpartition("): ")[2].strip("\"')")[:REASON_MAX]


def _listen_to_opentelemetry() -> Reason:
    logger, reason = logging.getLogger("opentelemetry"), Reason(logging.WARNING)
    logger.handlers[:] = [reason]
    logger.propagate = False
    return reason


class RoundTraces:
    """Implements observer.RoundObserver: makes spans of sampled rounds."""

    def __init__(
        self,
        exporter: SpanExporter,
        sampling: Sampling,
        peer_id: str,
        version: str,
        now_ms: Callable[[], int],
        on_event: Callable[..., None],
    ) -> None:
        """`now_ms`: the corrected clock, so that the spans of all nodes fit together."""
        self._sampling = sampling
        self._now_ms = now_ms
        self._on_event = on_event
        self._delivery = Delivery(exporter)
        self._ids = RoundIds()
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource.create(
                {
                    "service.name": "demo-node",
                    "service.version": version,
                    "service.instance.id": peer_id,
                }
            ),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(self._delivery, schedule_delay_millis=SEND_EVERY_MS)
        )
        self._tracer = self._provider.get_tracer("demo-node", version)
        self._status: StatusView | None = None
        self._was_failing = False
        self._ops: dict[int, _Ops] = {}

    def close(self) -> None:
        """Send what is left, or give it up. Blocks for about SEND_TIMEOUT_S at most."""
        self._delivery.begin_to_close()
        self._provider.shutdown()

    def on_round_begun(self, round_: int) -> None:
        """Nothing: it does not come for the round that a node begins with."""

    def on_op(self, op: str, seconds: float) -> None:
        """Note it, if the round by the clock is sampled."""
        status, now_ms = self._status, self._now_ms()
        if status is None or not status.round_ms:
            return
        round_ = (now_ms - status.genesis_ms) // status.round_ms
        if not self._sampling.includes(round_):
            return
        ops = self._ops.setdefault(round_, _Ops())
        while len(self._ops) > ROUNDS_KEPT:
            del self._ops[min(self._ops)]
        ops.seen[op] += 1
        if ops.seen[op] <= OPS_MAX:
            now_ns = now_ms * MS
            ops.kept.append(_Op(op, now_ns - round(seconds * 1e9), now_ns))

    def on_measured(self, name: str, value: float, *labels: str) -> None:
        """Nothing: it is in the metrics."""

    def on_figures(self, figures: Iterable[Figure]) -> None:
        """Nothing: they are in the metrics."""

    def on_round(self, view: RoundView) -> None:
        """Make the spans of a sampled round."""
        ops = self._ops.pop(view.round, None) or _Ops()
        status = self._status
        if view.again or status is None or not self._sampling.includes(view.round):
            return
        begin_ns = (status.genesis_ms + view.round * status.round_ms) * MS
        self._ids.trace_id = int.from_bytes(compute_trace_id(status.run_id, view.round), "big")
        root = self._start("demo.round", Context(), begin_ns)
        root.set_attributes(_describe(view) | {"demo.run_id": status.run_id.hex()})
        root.set_attribute("demo.ops_left_out", ops.seen.total() - len(ops.kept))
        if view.outcome in (Outcome.SKIPPED, Outcome.FORKED):
            root.set_status(Status(StatusCode.ERROR, view.outcome.value))
        self._make_children(root, view, ops.kept)
        is_applied = view.outcome in (Outcome.RECORDED, Outcome.LATE) and view.phases
        root.end(view.phases[-1].end_ms * MS if is_applied else begin_ns + status.round_ms * MS)

    def _make_children(self, root: Span, view: RoundView, ops: Sequence[_Op]) -> None:
        """Phases under the round, and ops under the phase in which they ended."""
        within = set_span_in_context(root, Context())
        contexts, slacks_ms = [], view.slacks_ms()
        for phase in view.phases:
            span = self._start(f"demo.round.{phase.phase}", within, phase.begin_ms * MS)
            if phase.phase in slacks_ms:
                span.set_attribute("demo.slack_ms", slacks_ms[phase.phase])
            span.end(phase.end_ms * MS)
            contexts.append((phase.end_ms * MS, set_span_in_context(span, Context())))
        for op in ops:
            found = (context for end_ns, context in contexts if op.end_ns <= end_ns)
            span = self._start(f"demo.op.{op.name}", next(found, within), op.begin_ns)
            span.end(op.end_ns)

    def _start(self, name: str, context: Context, begin_ns: int) -> Span:
        return self._tracer.start_span(name, context, start_time=begin_ns)

    def on_status(self, view: StatusView) -> None:
        """Remember when rounds begin; tell once when traces do not arrive any more."""
        self._status = view
        failure = self._delivery.failure
        if failure and not self._was_failing:
            self._on_event("traces.lost", reason=failure)
        self._was_failing = bool(failure)

    def on_message(self, topic: str, verdict: str) -> None:
        """Nothing: verify is an op."""

    def on_event(self, name: str, **fields: object) -> None:
        """Nothing: it is in the log."""


def make_exporter(endpoint: str) -> SpanExporter:
    """Spans as protobuf over HTTP to `endpoint`, a whole URL."""
    return OTLPSpanExporter(endpoint, timeout=SEND_TIMEOUT_S)


def _describe(view: RoundView) -> dict[str, str | bool | int | float]:
    return {
        "demo.round": view.round,
        "demo.outcome": view.outcome.value,
        "demo.record": view.record.hex(),
        "demo.participants": view.participants,
        "demo.included": view.included,
        "demo.heard": view.heard,
        "demo.differing": view.differing,
        "demo.samples": view.samples,
        "demo.payload_bytes": view.payload_bytes,
    }
