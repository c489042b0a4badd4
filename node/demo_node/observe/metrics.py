"""Every metric of a node, declared once; docs/operating.md lists them from this file.

A remote peer, a hash or a round number is never a label: churn would make each a new series for
ever. All label values are declared, so that every series exists from the start and a rate over
it is right from the first event on.
"""

import itertools
import platform
import time
from dataclasses import dataclass, field
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

from demo_node.ports import Topic
from demo_node.views import READY, NodeState, Outcome, Phase, RoundView, StatusView
from demo_protocol.manifest import PROTOCOL_VERSION

# Else each child of a counter or histogram brings a `_created` series.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no annotation here

ROUND_S: Final = (0.1, 0.25, 0.5, 1, 1.5, 2, 2.5, 3, 5, 10, 20, 30, 45, 60, 90, 120, 300, 600)
"""Buckets of what takes about a round."""

FAST_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
"""Buckets of what must not take long."""

OP_S: Final = (*FAST_S, 2.5, 5, 10, 30)
"""Buckets of parts of a phase: from a small decode to a large snapshot."""

BYTES: Final = tuple(float(4**power) for power in range(5, 15))
"""Buckets of sizes: 1 KiB to 256 MiB."""

VERDICTS: Final = ("accepted", "ignored", "rejected")
OPS: Final = ("encode", "pull", "verify", "decode", "apply", "snapshot")

OPEN: Final = ()
"""Values of a label that names this node itself: known only at run time, and only one."""


@dataclass(frozen=True, slots=True)
class Declared:
    """One metric. `labels`: name -> all its values; `buckets`: of a histogram."""

    kind: type[Counter] | type[Gauge] | type[Histogram]
    name: str
    meaning: str
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()


METRICS: Final = (
    # The node.
    Declared(
        Gauge, "demo_build_info", "Always 1.", {"version": OPEN, "python": OPEN, "protocol": OPEN}
    ),
    Declared(
        Gauge,
        "demo_node_info",
        "Always 1: this node's own identity.",
        {"peer_id": OPEN, "run_id": OPEN},
    ),
    Declared(
        Gauge,
        "demo_node_state",
        "1 for the state the node is in, 0 for all others.",
        {"state": tuple(NodeState)},
    ),
    Declared(Gauge, "demo_ready", "1 while /readyz says yes."),
    Declared(
        Histogram,
        "demo_event_loop_lag_seconds",
        "How late the event loop wakes a sleeper.",
        buckets=FAST_S,
    ),
    # Rounds.
    Declared(Gauge, "demo_round_current", "The round by the clock; negative before genesis."),
    Declared(
        Gauge,
        "demo_clock_offset_seconds",
        "By how much peers correct this machine's clock; 0 while they do not.",
    ),
    Declared(Gauge, "demo_head_round", "The round of the head record."),
    Declared(Gauge, "demo_head_height", "Records between genesis and the head."),
    Declared(
        Histogram,
        "demo_round_latency_seconds",
        "From the start of a round by the clock until its update is applied here.",
        buckets=ROUND_S,
    ),
    Declared(
        Histogram,
        "demo_round_exchange_seconds",
        "From the train boundary of a round until its update is applied here.",
        buckets=ROUND_S,
    ),
    Declared(
        Histogram,
        "demo_round_phase_seconds",
        "Time worked in each phase of a round.",
        {"phase": tuple(phase for phase in Phase if phase is not Phase.NONE)},
        ROUND_S,
    ),
    Declared(Histogram, "demo_op_seconds", "Parts of phases.", {"op": OPS}, OP_S),
    Declared(
        Counter, "demo_rounds_total", "Rounds by how they ended here.", {"outcome": tuple(Outcome)}
    ),
    Declared(Counter, "demo_rounds_included_total", "Rounds whose record lists our contribution."),
    Declared(Gauge, "demo_round_participants", "Contributions in the last record applied."),
    Declared(Counter, "demo_forks_total", "Times the head moved to another branch."),
    Declared(
        Gauge,
        "demo_snapshot_last_success_timestamp_seconds",
        "When this process last wrote a snapshot; 0 before the first.",
    ),
    # Learning.
    Declared(Gauge, "demo_train_loss", "Training loss of the last round, in nats per byte."),
    Declared(Counter, "demo_train_tokens_total", "Tokens this node has trained on."),
    Declared(Counter, "demo_train_samples_total", "Samples this node has trained on."),
    Declared(Counter, "demo_train_steps_total", "Local optimizer steps of this node."),
    Declared(
        Counter,
        "demo_train_seconds_total",
        "Time inside forward, backward and the local optimizer's step.",
    ),
    # The swarm and the network.
    Declared(Gauge, "demo_peers", "Connected peers."),
    Declared(Gauge, "demo_members", "Members of the run at the head."),
    Declared(Gauge, "demo_candidates", "Candidates of the run at the head."),
    Declared(Histogram, "demo_payload_bytes", "Size of our payload of a round.", buckets=BYTES),
    Declared(
        Counter,
        "demo_network_bytes_total",
        "Bytes on the mesh's sockets, everything included.",
        {"direction": ("in", "out")},
    ),
    Declared(
        Counter,
        "demo_gossip_messages_total",
        "Gossip messages from peers, by what was made of them.",
        {"topic": tuple(Topic), "verdict": VERDICTS},
    ),
)


class Metrics:
    """Implements views.RoundObserver. Every node has a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for declared in METRICS:
            self._create(declared)
        self._totals_reached: dict[tuple[str, ...], int] = {}

    def _create(self, declared: Declared) -> None:
        name, meaning, labels = declared.name, declared.meaning, tuple(declared.labels)
        metric: Counter | Gauge | Histogram
        if declared.kind is Counter:
            metric = self._counters[name] = Counter(name, meaning, labels, registry=self.registry)
        elif declared.kind is Gauge:
            metric = self._gauges[name] = Gauge(name, meaning, labels, registry=self.registry)
        else:
            metric = self._histograms[name] = Histogram(
                name, meaning, labels, registry=self.registry, buckets=declared.buckets
            )
        if labels:
            for values in itertools.product(*declared.labels.values()):
                metric.labels(*values)

    def on_phase(self, phase: Phase, seconds: float) -> None:
        """A phase's work took this long."""
        self._histograms["demo_round_phase_seconds"].labels(phase).observe(seconds)

    def on_op(self, op: str, seconds: float) -> None:
        """A part of a phase took this long."""
        self._histograms["demo_op_seconds"].labels(op).observe(seconds)
        if op == "snapshot":
            self._gauges["demo_snapshot_last_success_timestamp_seconds"].set(time.time())

    def on_round(self, view: RoundView) -> None:
        """A round has ended for this node."""
        counters = self._counters
        counters["demo_rounds_total"].labels(view.outcome).inc()
        counters["demo_train_tokens_total"].inc(view.tokens)
        counters["demo_train_samples_total"].inc(view.samples)
        counters["demo_train_steps_total"].inc(view.steps)
        counters["demo_train_seconds_total"].inc(view.train_ms / 1000)
        if view.payload_bytes:
            self._histograms["demo_payload_bytes"].observe(view.payload_bytes)
        if view.included:
            counters["demo_rounds_included_total"].inc()
        if view.outcome in (Outcome.RECORDED, Outcome.LATE):
            self._histograms["demo_round_latency_seconds"].observe(view.latency_ms / 1000)
            self._histograms["demo_round_exchange_seconds"].observe(view.exchange_ms / 1000)
            self._gauges["demo_round_participants"].set(view.participants)

    def on_status(self, view: StatusView) -> None:
        """The node's status changed."""
        self._set_only("demo_node_info", view.peer_id, view.run_id.hex())
        self._set_only(
            "demo_build_info", view.version, platform.python_version(), str(PROTOCOL_VERSION)
        )
        for state in NodeState:
            self._gauges["demo_node_state"].labels(state).set(state is view.state)
        for name, value in {
            "demo_ready": view.state in READY,
            "demo_round_current": view.round,
            "demo_clock_offset_seconds": view.clock.correction_ms / 1000,
            "demo_head_round": view.head_round,
            "demo_head_height": view.height,
            "demo_train_loss": view.loss,
            "demo_peers": view.peers,
            "demo_members": view.members,
            "demo_candidates": view.candidates,
        }.items():
            self._gauges[name].set(value)
        self._reach(view.bytes_in, "demo_network_bytes_total", "in")
        self._reach(view.bytes_out, "demo_network_bytes_total", "out")
        self._reach(view.forks_total, "demo_forks_total")

    def on_message(self, topic: str, verdict: str) -> None:
        """A gossip message was judged."""
        self._counters["demo_gossip_messages_total"].labels(topic, verdict).inc()

    def on_event(self, name: str, **fields: object) -> None:
        """Nothing: events are for the log."""

    def on_loop_lag(self, seconds: float) -> None:
        """The event loop woke a sleeper this late."""
        self._histograms["demo_event_loop_lag_seconds"].observe(seconds)

    def _set_only(self, name: str, *values: str) -> None:
        """An info metric has one series: what changed replaces it."""
        self._gauges[name].clear()
        self._gauges[name].labels(*values).set(1)

    def _reach(self, total: int, name: str, *labels: str) -> None:
        """Let a counter follow a total that is kept elsewhere and never falls."""
        counter = self._counters[name].labels(*labels) if labels else self._counters[name]
        reached = self._totals_reached.get((name, *labels), 0)
        if total > reached:
            counter.inc(total - reached)
            self._totals_reached[(name, *labels)] = total


def format_metrics_table() -> str:
    """All of METRICS as the Markdown table of docs/operating.md."""
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for metric in METRICS:
        labels = "; ".join(
            f"{name} = {', '.join(values)}" if values else name
            for name, values in metric.labels.items()
        )
        kind = metric.kind.__name__.lower()
        rows.append(f"| `{metric.name}` | {kind} | {labels or '–'} | {metric.meaning} |")
    return "\n".join(rows) + "\n"
