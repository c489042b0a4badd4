"""Traces: the same rounds and the same trace at every node, spans that tell the truth, no harm."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from prometheus_client.exposition import choose_encoder

from demo_node.observe.meter import Meter
from demo_node.observe.sampling import Sampling, compute_trace_id
from demo_node.observe.traces import OPS_MAX, RoundTraces, make_exporter
from demo_node.views import Outcome, Phase, PhaseView
from tests.control.fake_node import round_view, status_view
from tests.observe.collector import Collector, running_collector
from tests.waiting import wait_until_sync

STATUS = status_view()
EVERY = 10
ROUND = 20
BEGIN_MS = STATUS.genesis_ms + ROUND * STATUS.round_ms
TRACE_ID = compute_trace_id(STATUS.run_id, ROUND)

PHASES = tuple(
    PhaseView(phase, BEGIN_MS + begin, BEGIN_MS + end, BEGIN_MS + due)
    for phase, begin, end, due in (
        (Phase.TRAIN, 0, 1_700, 1_800),
        (Phase.CONTRIBUTE, 1_700, 1_750, 2_100),
        (Phase.PROPOSE, 1_750, 2_150, 2_500),
        (Phase.SETTLE, 2_150, 2_600, 3_000),
    )
)


class Clock:
    now_ms = BEGIN_MS

    def __call__(self) -> int:
        return self.now_ms


class Node:
    """The traces of one node, its clock, and what it told the log."""

    def __init__(self, exporter: SpanExporter, peer_id: str = "12D3KooWFake") -> None:
        self.clock = Clock()
        self.events: list[tuple[str, dict[str, object]]] = []
        self.traces = RoundTraces(
            exporter, Sampling(EVERY), peer_id, "0.1.0", self.clock, self._on_event
        )
        self.traces.on_status(STATUS)

    def _on_event(self, name: str, **fields: object) -> None:
        self.events.append((name, fields))

    def live(self, *ops: tuple[int, str, float], **changes: object) -> None:
        """A round with ops that end so many ms after its begin; then it is closed."""
        for end_ms, op, seconds in ops:
            self.clock.now_ms = BEGIN_MS + end_ms
            self.traces.on_op(op, seconds)
        self.traces.on_round(round_view(ROUND, **{"phases": PHASES, **changes}))


def trace(
    *ops: tuple[int, str, float], peer_id: str = "a", **changes: object
) -> list[ReadableSpan]:
    """Spans of one round at one node."""
    exporter = InMemorySpanExporter()
    node = Node(exporter, peer_id)
    node.live(*ops, **changes)
    node.traces.close()
    return list(exporter.get_finished_spans())


def by_name(spans: Sequence[ReadableSpan]) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans}


def times_ms(span: ReadableSpan) -> tuple[float, float]:
    """Begin and end, from the begin of the round."""
    assert span.start_time is not None
    assert span.end_time is not None
    begin_ns = BEGIN_MS * 1_000_000
    return (span.start_time - begin_ns) / 1e6, (span.end_time - begin_ns) / 1e6


def test_all_nodes_have_one_trace_of_a_round_and_spans_of_their_own() -> None:
    one, other = trace(peer_id="one"), trace(peer_id="other")
    traces = {span.context.trace_id for span in (*one, *other)}
    assert traces == {int.from_bytes(TRACE_ID, "big")}
    assert len({span.context.span_id for span in (*one, *other)}) == len(one) + len(other) == 10
    peers = [
        {span.resource.attributes["service.instance.id"] for span in spans}
        for spans in (one, other)
    ]
    assert peers == [{"one"}, {"other"}]


def test_a_trace_is_named_by_run_and_round() -> None:
    ids = {compute_trace_id(run_id, r) for run_id in (b"a" * 32, b"b" * 32) for r in range(50)}
    assert len(ids) == 100
    # So that another program can compute it: docs/operating.md says how.
    assert compute_trace_id(bytes(32), 0).hex() == "a73f899860928803ef96c4247eb9c827"


def test_the_same_rounds_are_sampled_at_all_nodes() -> None:
    assert [r for r in range(-20, 41) if Sampling(10).includes(r)] == [0, 10, 20, 30, 40]
    assert {r for r in range(100) if Sampling(20).includes(r)} < {
        r for r in range(100) if Sampling(10).includes(r)
    }
    assert not any(Sampling().includes(r) for r in range(100))
    exporter = InMemorySpanExporter()
    node = Node(exporter)
    for r in range(30):
        node.traces.on_op("apply", 0.1)
        node.traces.on_round(round_view(r))
    node.traces.close()
    roots = [s for s in exporter.get_finished_spans() if s.name == "demo.round"]
    assert [s.attributes and s.attributes["demo.round"] for s in roots] == [0, 10, 20]


def test_phases_add_up_to_the_round() -> None:
    spans = by_name(trace())
    root = spans.pop("demo.round")
    assert root.parent is None
    assert times_ms(root) == (0, 2_600)
    assert {s.parent and s.parent.span_id for s in spans.values()} == {root.context.span_id}
    phases = [
        spans[f"demo.round.{phase}"] for phase in ("train", "contribute", "propose", "settle")
    ]
    assert len(spans) == 4
    assert [times_ms(s) for s in phases] == [
        (0, 1_700),
        (1_700, 1_750),
        (1_750, 2_150),
        (2_150, 2_600),
    ]
    assert all(a.end_time == b.start_time for a, b in pairwise(phases))
    assert root.attributes is not None
    assert root.attributes["demo.run_id"] == STATUS.run_id.hex()
    assert root.attributes["demo.outcome"] == "recorded"
    assert root.attributes["demo.participants"] == 4


def test_an_op_hangs_from_the_phase_it_ended_in() -> None:
    spans = by_name(trace((1_650, "verify", 0.002), (2_100, "pull", 0.5), (2_600, "apply", 0.4)))
    for op, phase in (("verify", "train"), ("pull", "propose"), ("apply", "settle")):
        parent = spans[f"demo.op.{op}"].parent
        assert parent is not None
        assert parent.span_id == spans[f"demo.round.{phase}"].context.span_id
    assert times_ms(spans["demo.op.pull"]) == (1_600, 2_100), "it began while we still trained"
    late = by_name(trace((2_900, "snapshot", 0.1)))
    assert late["demo.op.snapshot"].parent is not None
    assert late["demo.op.snapshot"].parent.span_id == late["demo.round"].context.span_id


def test_ops_are_bounded_by_kind_and_the_rest_is_counted() -> None:
    spans = trace(*((1_000, "verify", 0.001) for _ in range(500)), (2_600, "apply", 0.4))
    names = [span.name for span in spans]
    assert names.count("demo.op.verify") == OPS_MAX
    assert names.count("demo.op.apply") == 1, "it is not crowded out"
    attributes = by_name(spans)["demo.round"].attributes
    assert attributes is not None
    assert attributes["demo.ops_left_out"] == 500 - OPS_MAX


def test_an_op_is_of_the_round_by_the_clock() -> None:
    exporter = InMemorySpanExporter()
    node = Node(exporter)
    for end_ms, op in ((-1, "pull"), (0, "verify"), (STATUS.round_ms - 1, "apply")):
        node.clock.now_ms = BEGIN_MS + end_ms
        node.traces.on_op(op, 0.001)
    node.clock.now_ms = BEGIN_MS + STATUS.round_ms
    node.traces.on_op("decode", 0.001)
    node.traces.on_round(round_view(ROUND, phases=PHASES))
    node.traces.close()
    ops = {span.name for span in exporter.get_finished_spans() if span.name.startswith("demo.op")}
    assert ops == {"demo.op.verify", "demo.op.apply"}


def test_before_there_is_a_run_nothing_is_noted() -> None:
    node = Node(InMemorySpanExporter())
    node.traces.on_status(status_view(genesis_ms=0, round_ms=0, round=-1))
    node.traces.on_op("verify", 0.001)
    assert not node.traces._ops
    node.traces.close()


def test_ops_of_rounds_that_are_never_closed_are_forgotten() -> None:
    node = Node(InMemorySpanExporter())
    for r in range(1_000):
        node.clock.now_ms = STATUS.genesis_ms + r * STATUS.round_ms
        node.traces.on_op("verify", 0.001)
    node.traces.close()
    assert len(node.traces._ops) < 10


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_round_that_came_to_nothing_is_an_error(outcome: Outcome) -> None:
    is_applied = outcome in (Outcome.RECORDED, Outcome.LATE)
    phases = PHASES if is_applied else PHASES[:2]
    root = by_name(trace(outcome=outcome, phases=phases))["demo.round"]
    assert (root.status.status_code is StatusCode.ERROR) == (not is_applied)
    assert times_ms(root) == (0, 2_600 if is_applied else STATUS.round_ms)


def test_a_round_without_milestones_is_as_long_as_the_clock_says() -> None:
    (root,) = trace(outcome=Outcome.SKIPPED, phases=())
    assert times_ms(root) == (0, STATUS.round_ms)


def test_a_slow_bucket_leads_to_its_trace() -> None:
    meter = Meter(Sampling(EVERY))
    meter.on_status(STATUS)
    meter.on_round(round_view(ROUND, latency_ms=2_600))
    meter.on_round(round_view(ROUND + 1, latency_ms=700, exchange_ms=100, phases=()))
    text = expose(meter)
    for name in ("latency", "exchange", "phase"):
        buckets = [s for s in text.splitlines() if f"demo_round_{name}_seconds_bucket" in s]
        assert any(f'round="20",trace_id="{TRACE_ID.hex()}"' in line for line in buckets), name
    (unsampled,) = [s for s in text.splitlines() if "latency_seconds_bucket" in s and '"21"' in s]
    assert "trace_id" not in unsampled


def test_without_traces_a_bucket_names_the_round_alone() -> None:
    meter = Meter()
    meter.on_status(STATUS)
    meter.on_round(round_view(ROUND))
    text = expose(meter)
    assert '# {round="20"}' in text
    assert "trace_id" not in text


def expose(meter: Meter) -> str:
    encode, _ = choose_encoder("application/openmetrics-text; version=1.0.0")
    return encode(meter.registry).decode()


# --- over HTTP -----------------------------------------------------------------------------------


@pytest.fixture
def collector() -> Iterator[Collector]:
    with running_collector() as server:
        yield server


def test_two_nodes_send_one_trace_over_http(collector: Collector) -> None:
    for peer_id in ("one", "other"):
        node = Node(make_exporter(collector.url), peer_id)
        node.live((2_600, "apply", 0.4))
        node.traces.close()
    assert {path for path, _ in collector.received} == {"/v1/traces"}
    resources = [spans for _, request in collector.received for spans in request.resource_spans]
    peers = [
        a.value.string_value
        for resource in resources
        for a in resource.resource.attributes
        if a.key == "service.instance.id"
    ]
    assert sorted(peers) == ["one", "other"]
    spans = [s for r in resources for scope in r.scope_spans for s in scope.spans]
    assert {s.trace_id for s in spans} == {TRACE_ID}
    assert sorted(s.name for s in spans) == sorted(
        2 * ["demo.round", "demo.op.apply", *(f"demo.round.{p.phase}" for p in PHASES)]
    )
    roots = [s for s in spans if s.name == "demo.round"]
    assert [s.start_time_unix_nano for s in roots] == 2 * [BEGIN_MS * 1_000_000]


def test_an_endpoint_that_is_down_is_told_once_and_nobody_waits_for_it() -> None:
    with Collector() as gone:
        url = gone.url
    node = Node(make_exporter(url))
    for _ in range(3):
        node.live()
        node.traces._provider.force_flush()
        node.traces.on_status(STATUS)
    ((name, fields),) = node.events
    assert name == "traces.lost"
    assert str(fields["reason"]).endswith("Connection refused")
    assert len(str(fields["reason"])) < 100
    node.live()
    node.traces.close()  # the test's time-out is the assertion's other half
    assert len(node.events) == 1


def test_an_endpoint_that_works_again_may_fail_again(collector: Collector) -> None:
    node = Node(make_exporter(collector.url))
    for status in (404, 404, 200, 404):
        collector.status = status
        node.live()
        node.traces._provider.force_flush()
        node.traces.on_status(STATUS)
    node.traces.close()
    assert [name for name, _ in node.events] == ["traces.lost", "traces.lost"]
    assert "404" in str(node.events[0][1]["reason"])


class Broken(SpanExporter):
    """Takes nothing, and counts how often it was asked to."""

    asked = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.asked += 1
        return SpanExportResult.FAILURE


def test_a_node_that_ends_does_not_try_again_what_failed() -> None:
    broken = Broken()
    node = Node(broken)
    node.live()
    node.traces._provider.force_flush()
    node.live()
    node.traces.close()
    assert broken.asked == 1


class Stuck(SpanExporter):
    """Takes batches and never comes back, until it is shut down."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.over = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.asked.set()
        self.over.wait()
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self.over.set()


def test_a_stuck_endpoint_does_not_hold_up_the_loop() -> None:
    stuck = Stuck()
    node = Node(stuck)
    node.live()
    wait_until_sync(stuck.asked.is_set, 30)
    for _ in range(1_000):  # returns, though nothing is being sent: the queue is bounded
        node.live((2_600, "apply", 0.4))
    stuck.over.set()
    node.traces.close()


# --- without it ----------------------------------------------------------------------------------

IMPORTED = """
import sys
import demo_node.daemon, demo_node.cli
print(len(sys.modules), [name for name in sys.modules if name.startswith("opentelemetry")])
"""

MISSING = """
import sys
sys.modules["opentelemetry"] = None
from demo_node.cli import main
main()
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_without_an_endpoint_nothing_of_it_is_imported() -> None:
    done = run(IMPORTED)
    assert re.fullmatch(r"\d+ \[\]\n", done.stdout), done


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path) -> None:
    line = ["start", "--datadir", str(tmp_path / "n"), "--wait-manifest"]
    done = run(MISSING, *line, "--trace-endpoint", "http://127.0.0.1:1")
    assert done.returncode == 78
    (message,) = done.stderr.splitlines()
    assert "pip install 'demo-node[otel]'" in message
    assert not (tmp_path / "n").exists()
