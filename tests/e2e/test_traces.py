"""Two real nodes and one collector: one trace per sampled round, and logs that fit it."""

import json
import signal
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from demo_node.observe.events import EVENTS
from demo_node.observe.sampling import compute_trace_id
from demo_node.views import StatusView
from tests.e2e.nodes import UP_S, make_run, started
from tests.observe.collector import Collector, running_collector
from tests.waiting import wait_until_sync

pytestmark = [pytest.mark.swarm, pytest.mark.slow, pytest.mark.timeout(300)]

EVERY = 2

SPANS = {
    "demo.round",
    *(f"demo.round.{phase}" for phase in ("train", "contribute", "propose", "settle")),
    *(f"demo.op.{op}" for op in ("encode", "pull", "verify", "decode", "apply")),
}


@dataclass(frozen=True, slots=True)
class Traced:
    """What two nodes and the collector had to show, when both had recorded a sampled round."""

    status: StatusView
    metrics: str
    spans: Sequence[tuple[str, Span]]
    exit_codes: tuple[int, int]
    logs: Sequence[str]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    folder = tmp_path_factory.mktemp("traced")
    make_run(folder / "one", "--genesis", "+8")
    with running_collector() as collector:
        flags = ("--trace-endpoint", collector.url, "--trace-every", str(EVERY))
        with (
            started(folder / "one", "start", *flags) as one,
            started(folder / "two", *one.invitation(), *flags) as two,
        ):
            wait_until_sync(lambda: find_shared(collector), 2 * UP_S)
            status, metrics = one.status(), read_metrics(one.metrics_url())
            for node in (one, two):
                node.signal(signal.SIGTERM)
            exit_codes = (one.wait(), two.wait())
            logs = [one.stderr, two.stderr]
        yield Traced(status, metrics, read_spans(collector), exit_codes, logs)


def read_spans(collector: Collector) -> list[tuple[str, Span]]:
    """(peer id, span) of all that came."""
    return [
        (attributes(resource.resource)["service.instance.id"], span)
        for _, request in list(collector.received)
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def attributes(holder: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in holder.attributes}


def find_shared(collector: Collector) -> bool:
    """Whether both nodes have sent a round that was recorded with both in it, and all kinds of
    spans came: an op that ended late is of the next round, which may not be sampled.
    """
    peers: dict[bytes, set[str]] = {}
    for peer, span in read_spans(collector):
        if span.name == "demo.round" and attributes(span)["demo.participants"] == 2:
            peers.setdefault(span.trace_id, set()).add(peer)
    has_all = {span.name for _, span in read_spans(collector)} >= SPANS
    return has_all and any(len(found) == 2 for found in peers.values())


def read_metrics(url: str) -> str:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    with urllib.request.urlopen(urllib.request.Request(url, headers=accept)) as answer:
        text: str = answer.read().decode()
    return text


def test_each_trace_is_that_of_its_round(traced: Traced) -> None:
    roots = [span for _, span in traced.spans if span.name == "demo.round"]
    assert roots
    for span in roots:
        round_ = attributes(span)["demo.round"]
        assert round_ % EVERY == 0
        assert span.trace_id == compute_trace_id(traced.status.run_id, round_)
        begin_ms = traced.status.genesis_ms + round_ * traced.status.round_ms
        assert span.start_time_unix_nano == begin_ms * 1_000_000


def test_phases_and_ops_hang_from_a_round_of_their_own_node(traced: Traced) -> None:
    known = {(peer, span.trace_id, span.span_id): span.name for peer, span in traced.spans}
    for peer, span in traced.spans:
        if span.name != "demo.round":
            parent = known[peer, span.trace_id, span.parent_span_id]
            assert parent.startswith("demo.round"), span.name


def test_a_bucket_leads_to_a_trace(traced: Traced) -> None:
    sent = {span.trace_id.hex() for _, span in traced.spans}
    lines = [s for s in traced.metrics.splitlines() if "demo_round_latency_seconds_bucket" in s]
    assert [trace for trace in sent if any(f'trace_id="{trace}"' in line for line in lines)]


def test_the_nodes_leave_as_ever(traced: Traced) -> None:
    assert traced.exit_codes == (0, 0)


def test_every_line_of_their_logs_is_declared_and_has_its_round(traced: Traced) -> None:
    for text in traced.logs:
        lines = [json.loads(line) for line in text.splitlines()]
        assert [line for line in lines if line["event"] == "round.closed"]
        assert {line["event"] for line in lines if "logger" not in line} <= EVENTS.keys()
        begun = next(i for i, line in enumerate(lines) if line.get("round", -1) >= 0)
        assert all("round" in line for line in lines[begun:])
        assert "traces.lost" not in text
