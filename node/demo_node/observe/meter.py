"""Keeps a node's metrics up to date from what it observes."""

import functools
import itertools
import math
import platform
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from demo_node.observe.declared import OPEN, Declared
from demo_node.observe.events import EVENTS
from demo_node.observe.metrics import METRICS, PHASES
from demo_node.observe.recent import Recent
from demo_node.observe.sampling import NO_ROUNDS, Sampling, compute_trace_id
from demo_node.observer import Figure
from demo_node.views import READY, NodeState, Outcome, RoundView, StatusView
from demo_protocol.manifest import PROTOCOL_VERSION

# Else each child of a counter or histogram brings a `_created` series.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no annotation here

RESULTS: Final = (Outcome.RECORDED, Outcome.LATE)
"""Outcomes of rounds whose update was applied here: only they have a latency."""


class Meter:
    """Implements observer.RoundObserver. Every node has a registry of its own.

    All series are made at once; whatever is fed finds its own, or raises KeyError: nothing that
    comes from outside can make one more.
    """

    def __init__(self, sampling: Sampling = NO_ROUNDS, recent: Recent | None = None) -> None:
        """`sampling`: the rounds that have a trace; `recent`: told of events and lags, too."""
        self._sampling = sampling
        self._recent = recent
        self._run_id = b""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._counters: dict[tuple[str, ...], Counter] = {}
        self._gauges: dict[tuple[str, ...], Gauge] = {}
        self._histograms: dict[tuple[str, ...], Histogram] = {}
        self._infos: dict[str, Gauge] = {}
        self._shown: dict[str, tuple[str, ...]] = {}
        for declared in METRICS:
            self._create(declared)
        self._reached: dict[tuple[str, ...], float] = {}
        self._round = -1
        self._round_ms = 0
        self._state: NodeState | None = None

    def _create(self, declared: Declared) -> None:
        name, meaning, labels = declared.name, declared.meaning, tuple(declared.labels)
        if OPEN in declared.labels.values():
            self._infos[name] = Gauge(name, meaning, labels, registry=self.registry)
            return
        all_values = list(itertools.product(*declared.labels.values()))
        if declared.kind is Counter:
            counter = Counter(name, meaning, labels, registry=self.registry)
            for values in all_values:
                self._counters[name, *values] = counter.labels(*values) if values else counter
        elif declared.kind is Gauge:
            gauge = Gauge(name, meaning, labels, registry=self.registry)
            for values in all_values:
                self._gauges[name, *values] = gauge.labels(*values) if values else gauge
        else:
            histogram = Histogram(
                name, meaning, labels, registry=self.registry, buckets=declared.buckets
            )
            for values in all_values:
                self._histograms[name, *values] = histogram.labels(*values) if values else histogram

    def _count(self, name: str, *labels: str, by: float = 1) -> None:
        self._counters[name, *labels].inc(by)

    def _set(self, value: float, name: str, *labels: str) -> None:
        self._gauges[name, *labels].set(value)

    def _observe(
        self, value: float, exemplar: dict[str, str] | None, name: str, *labels: str
    ) -> None:
        self._histograms[name, *labels].observe(value, exemplar)

    def on_round_begun(self, round_: int) -> None:
        """The clock has come into this round."""
        self._round = round_
        self._set(round_, "demo_round_current")

    def on_op(self, op: str, seconds: float) -> None:
        """A part of a phase took this long."""
        self._observe(seconds, self._exemplar(self._round), "demo_op_seconds", op)
        if op == "snapshot":
            self._set(time.time(), "demo_snapshot_last_success_timestamp_seconds")

    def on_measured(self, name: str, value: float, *labels: str) -> None:
        """One observation of a histogram. Raises KeyError for what is not declared."""
        self._observe(value, None, name, *labels)

    def on_figures(self, figures: Iterable[Figure]) -> None:
        """Levels and totals as they are. Raises KeyError for what is not declared."""
        for figure in figures:
            if (figure.name, *figure.labels) in self._counters:
                self._reach(figure.value, figure.name, *figure.labels)
            else:
                self._set(figure.value, figure.name, *figure.labels)

    def on_round(self, view: RoundView) -> None:
        """A round has ended for this node; of one that has before, only the latency is new."""
        self.on_event("round.closed")
        if view.again:
            self._observe_latency(view)
            return
        self._count("demo_rounds_total", view.outcome)
        self._set(view.heard, "demo_round_heard")
        if view.steps:
            self.on_measured("demo_train_step_seconds", view.train_ms / 1000 / view.steps)
        if view.payload_bytes:
            self._count("demo_rounds_sent_total")
            self.on_measured("demo_payload_bytes", view.payload_bytes, "sent")
        slacks_ms = view.slacks_ms()
        for phase in PHASES:  # that of an earlier round would look as if all were well
            slack_s = slacks_ms.get(phase, math.nan) / 1000
            self._set(slack_s, "demo_round_slack_seconds", phase)
        self._observe_latency(view)

    def _observe_latency(self, view: RoundView) -> None:
        """Latency and its parts, of rounds that came to something."""
        if view.outcome not in RESULTS:
            return
        exemplar = self._exemplar(view.round)
        for name, seconds in (
            ("demo_round_latency_seconds", view.latency_ms / 1000),
            ("demo_round_exchange_seconds", view.exchange_ms / 1000),
        ):
            self._observe(seconds, exemplar, name)
        if self._round_ms:  # known with the manifest
            ratio = view.latency_ms / self._round_ms
            self._observe(ratio, exemplar, "demo_round_latency_ratio")
        for part in view.phases:
            seconds = (part.end_ms - part.begin_ms) / 1000
            self._observe(seconds, exemplar, "demo_round_phase_seconds", part.phase)
        self._set(view.participants, "demo_round_participants")
        self._set(view.drawn, "demo_round_due")

    def on_status(self, view: StatusView) -> None:
        """The node's status changed."""
        self._run_id, self._round = view.run_id, view.round
        self._round_ms = view.round_ms
        self._set_only("demo_node_info", view.peer_id, view.run_id.hex(), view.run_name)
        self._set_only(
            "demo_build_info",
            view.version,
            platform.python_version(),
            _find_version("torch"),
            str(PROTOCOL_VERSION),
        )
        if view.state is not self._state:
            self._state = view.state
            self.on_event("state.changed")
        for state in NodeState:
            self._set(state is view.state, "demo_node_state", state)
        for name, value in {
            "demo_ready": view.state in READY,
            "demo_round_current": view.round,
            "demo_round_length_seconds": view.round_ms / 1000,
            "demo_clock_offset_seconds": view.clock.correction_ms / 1000,
            "demo_clock_error_seconds": view.clock.error_ms / 1000,
            "demo_clock_verified": view.clock.verified,
            "demo_head_round": view.head_round,
            "demo_head_height": view.height,
            "demo_parameters": view.parameters,
            "demo_train_loss": view.loss,
            "demo_heldout_loss": view.heldout_loss,
            "demo_heldout_round": view.heldout_round,
            "demo_trainer_micro_batch": view.micro_batch,
            "demo_peers": view.peers,
            "demo_members": view.members,
            "demo_candidates": view.candidates,
            "demo_payload_store_bytes": view.payload_bytes_held,
        }.items():
            self._set(value, name)
        self._reach(view.forks_total, "demo_forks_total")

    def on_message(self, topic: str, verdict: str) -> None:
        """A gossip message was judged."""
        self._count("demo_gossip_messages_total", topic, verdict)

    def on_event(self, name: str, **fields: object) -> None:
        """Count it."""
        if name in EVENTS:
            self._count("demo_events_total", name)
            if self._recent:
                self._recent.add_event(name)

    def on_loop_lag(self, seconds: float) -> None:
        """The event loop woke a sleeper this late."""
        self.on_measured("demo_event_loop_lag_seconds", seconds)
        if self._recent:
            self._recent.add_lag(seconds)

    def _exemplar(self, round_: int) -> dict[str, str] | None:
        """What points from a bucket to the round that fell into it, and to its trace.

        None before round 0.
        """
        if round_ < 0:
            return None
        labels = {"round": str(round_)}
        if self._run_id and self._sampling.includes(round_):
            labels["trace_id"] = compute_trace_id(self._run_id, round_).hex()
        return labels

    def _set_only(self, name: str, *values: str) -> None:
        """An info metric has one series: what changed replaces it."""
        if self._shown.get(name) != values:
            self._infos[name].clear()
            self._infos[name].labels(*values).set(1)
            self._shown[name] = values

    def _reach(self, total: float, name: str, *labels: str) -> None:
        """Let a counter follow a total that is kept elsewhere and never falls."""
        counter = self._counters[name, *labels]
        reached = self._reached.get((name, *labels), 0)
        if total > reached:
            counter.inc(total - reached)
            self._reached[(name, *labels)] = total


@functools.cache
def _find_version(package: str) -> str:
    """Without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
