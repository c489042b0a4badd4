"""Nodes with which nothing is wrong, as Prometheus sees them: no alert may fire for any.

Each is a function of time: what all of its series would be. Series that a scenario does not name
are 0, as a node declares them, so that none is quiet only because a series is missing.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import Histogram

from demo_node.observe.buckets import OF_A_ROUND
from demo_node.observe.metrics import METRICS
from demo_node.views import READY, NodeState

Level = Callable[[float], float]
"""Value of a series at so many seconds after the scenario began."""

INSTANCE: Final = 'instance="127.0.0.1:9464", job="demo-node"'


@dataclass(frozen=True, slots=True)
class Scenario:
    """`levels`: by name and labels without instance and job. Lasts for `lasts_s`."""

    name: str
    lasts_s: int
    step_s: int
    levels: Mapping[str, Level | float] = field(default_factory=dict)

    def make_series(self) -> list[dict[str, str]]:
        """As a unit test of promtool wants them."""
        steps = self.lasts_s // self.step_s
        series = []
        for name in {name: None for name in (*ALL, *self.levels)}:
            level = self.levels.get(name, 0.0)
            if callable(level):
                values = " ".join(_write(level(n * self.step_s)) for n in range(steps + 1))
            else:
                values = f"{level:g}x{steps}"
            series.append({"series": _name(name), "values": values})
        return series


def _write(value: float) -> str:
    """As promtool reads it: not a number where there was no scrape."""
    return "_" if math.isnan(value) else f"{value:g}"


def _name(series: str) -> str:
    """With the labels that Prometheus gives to what it scrapes."""
    if series.endswith("}"):
        return f"{series[:-1]}, {INSTANCE}}}"
    return f"{series}{{{INSTANCE}}}"


def _all_series() -> list[str]:
    """Everything that a node exposes of its own; histograms with the buckets that rules ask for."""
    found = ["up"]
    for metric in METRICS:
        if not all(metric.labels.values()):
            continue  # who it is
        suffixes = ("_sum", "_count") if metric.kind is Histogram else ("",)
        for values in itertools.product(*metric.labels.values()):
            pairs = [f'{k}="{v}"' for k, v in zip(metric.labels, values, strict=True)]
            labels = f"{{{', '.join(pairs)}}}" if pairs else ""
            found += [f"{metric.name}{suffix}{labels}" for suffix in suffixes]
    return found


ALL: Final = tuple(_all_series())


HOUR_S: Final = 3_600


def _until(end_s: float, level: Level) -> Level:
    """It stays as it was then."""
    return lambda t: level(min(t, end_s))


def _rising(by: float) -> Level:
    """So much a second."""
    return lambda t: t * by


def _stepping(before: float, after: float, moment_s: float) -> Level:
    """From one level to another."""
    return lambda t: after if t >= moment_s else before


def in_state(state: NodeState) -> dict[str, float]:
    """The states a node may be in: this one."""
    held = {f'demo_node_state{{state="{s}"}}': float(s is state) for s in NodeState}
    return {"up": 1.0, "demo_ready": float(state in READY), **held}


def in_rounds(round_s: int, members: int, begin_s: int = 0) -> dict[str, Level | float]:
    """A node that trains with others since `begin_s`; 1 round of 20 is late, 1 of 20 skipped."""

    def rounds(share: float = 1.0) -> Level:
        return lambda t: math.floor(max(0.0, t - begin_s) / round_s * share)

    def saved(t: float) -> float:
        tenth = 10 * round_s
        return begin_s + (t - begin_s) // tenth * tenth if t >= begin_s + tenth else 0.0

    since_begun = _stepping(0.0, float(members), begin_s + round_s)
    peers = float(members - 1)
    levels: dict[str, Level | float] = {
        **in_state(NodeState.ACTIVE),
        "demo_round_length_seconds": float(round_s),
        "demo_round_current": lambda t: (t - begin_s) // round_s,
        "demo_head_round": lambda t: max(-1, (t - begin_s) // round_s - 2),
        'demo_rounds_total{outcome="recorded"}': rounds(0.9),
        'demo_rounds_total{outcome="late"}': rounds(0.05),
        'demo_rounds_total{outcome="skipped"}': rounds(0.05),
        'demo_records_total{change="applied"}': rounds(0.95),
        "demo_rounds_included_total": rounds(0.9),
        "demo_rounds_sent_total": rounds(),
        "demo_train_step_seconds_count": rounds(),
        "demo_train_seconds_total": rounds(round_s * 0.5),
        'demo_digests_total{verdict="equal"}': rounds(peers),
        'demo_payloads_total{verdict="accepted"}': rounds(peers),
        'demo_payloads_total{verdict="missing"}': rounds(0.1),
        'demo_gossip_messages_total{topic="headers", verdict="accepted"}': rounds(peers),
        'demo_gossip_messages_total{topic="headers", verdict="ignored"}': rounds(peers),
        "demo_round_participants": since_begun,
        "demo_round_due": since_begun,
        "demo_members": since_begun,
        "demo_peers": peers,
        "demo_clock_verified": float(peers >= 3),
        "demo_clock_offset_seconds": 0.02,
        "demo_snapshot_last_success_timestamp_seconds": saved,
        "demo_snapshot_bytes": 4e6,
        "demo_momentum_file_bytes": 4e6,
        "demo_datadir_free_bytes": 50e9,
    }
    for topic in ("headers", "proposals", "membership"):
        levels[f'demo_gossip_mesh_peers{{topic="{topic}"}}'] = peers
    for bound, share in (
        ("0.005", 9.0),
        ("0.05", 9.9),
        ("0.25", 10.0),
        ("1.0", 10.0),
        ("+Inf", 10),
    ):
        levels[f'demo_event_loop_lag_seconds_bucket{{le="{bound}"}}'] = _rising(share)
    for edge in (*OF_A_ROUND, math.inf):
        bound = "+Inf" if edge == math.inf else str(float(edge))
        levels[f'demo_round_latency_ratio_bucket{{le="{bound}"}}'] = rounds(float(edge >= 0.9))
    return levels


def _paused(round_s: int, members: int) -> dict[str, Level | float]:
    """It votes and applies; what it would contribute is missing."""
    levels = in_rounds(round_s, members) | in_state(NodeState.PAUSED)
    for name in (
        "demo_rounds_included_total",
        "demo_rounds_sent_total",
        "demo_train_step_seconds_count",
    ):
        levels[name] = 0.0
    return levels | {"demo_round_participants": members - 1.0, "demo_train_seconds_total": 0.0}


def _waiting() -> dict[str, Level | float]:
    """Manifest and parameters are here, genesis is far."""
    return {
        **in_state(NodeState.WAITING),
        "demo_round_length_seconds": 60.0,
        "demo_round_current": lambda t: -1_000 + t // 60,
        "demo_head_round": -1.0,
        "demo_datadir_free_bytes": 50e9,
    }


def _finished() -> dict[str, Level | float]:
    """The run had its last round, and the others were stopped since."""
    over = in_rounds(60, 4) | in_state(NodeState.FINISHED)
    stopped = {
        name: _until(HOUR_S, level) if callable(level) else level for name, level in over.items()
    }
    links = _stepping(3.0, 0.0, 2 * HOUR_S)
    for topic in ("headers", "proposals", "membership"):
        stopped[f'demo_gossip_mesh_peers{{topic="{topic}"}}'] = links
    return stopped | {"demo_round_current": lambda t: t // 60, "demo_peers": links}


def _left_alone() -> dict[str, Level | float]:
    """The three others leave one after the other, and say so."""

    def others(t: float) -> float:
        return max(0.0, 3.0 - t // 1_200)

    levels = in_rounds(60, 4)
    for topic in ("headers", "proposals", "membership"):
        levels[f'demo_gossip_mesh_peers{{topic="{topic}"}}'] = others
    return levels | {
        "demo_peers": others,
        "demo_members": lambda t: 1 + others(t),
        "demo_round_due": lambda t: 1 + others(t),
        "demo_round_participants": lambda t: 1 + others(t),
        "demo_clock_verified": lambda t: float(others(t) >= 3),
        'demo_membership_changes_total{change="left"}': lambda t: 3 - others(t),
    }


def _begun_late() -> dict[str, Level | float]:
    """Two hours of waiting for genesis, then rounds of ten minutes."""
    begin_s = 7_200
    levels = in_rounds(600, 4, begin_s)
    waiting = in_state(NodeState.WAITING)
    active = in_state(NodeState.ACTIVE)
    for name in ("demo_ready", *(name for name in waiting if "state" in name)):
        levels[name] = _stepping(float(waiting[name]), float(active[name]), begin_s)
    return levels


def _slept() -> dict[str, Level | float]:
    """A laptop, Prometheus too, from the first hour to the third; then it replays for a minute."""
    awake_s = 3 * HOUR_S
    levels = in_rounds(60, 4)
    head = levels["demo_head_round"]
    assert callable(head)
    behind = _until(HOUR_S, head)
    levels["demo_head_round"] = lambda t: behind(t) if t < awake_s + 60 else head(t)
    asleep = {name: _but_asleep(level, HOUR_S, awake_s) for name, level in levels.items()}
    return asleep | {"up": 1.0}  # promtool is awake, and would see that there is none


def _but_asleep(level: Level | float, begin_s: float, end_s: float) -> Level:
    """No scrape in between."""

    def look(t: float) -> float:
        return math.nan if begin_s < t < end_s else level(t) if callable(level) else level

    return look


QUIET: Final = (
    Scenario("four nodes, rounds of 3 s", HOUR_S, 15, in_rounds(3, 4)),
    Scenario("four nodes, rounds of a minute", 4 * HOUR_S, 60, in_rounds(60, 4)),
    Scenario("three nodes, rounds of ten minutes", 12 * HOUR_S, 120, in_rounds(600, 3)),
    Scenario("two nodes, rounds of 20 s", HOUR_S, 15, in_rounds(20, 2)),
    Scenario("alone in its run", 4 * HOUR_S, 60, in_rounds(60, 1)),
    Scenario("paused, one of four", 4 * HOUR_S, 60, _paused(60, 4)),
    Scenario("paused, one of two", HOUR_S, 15, _paused(3, 2)),
    Scenario("paused, and alone", HOUR_S, 15, _paused(3, 1)),
    Scenario("waits for genesis", 4 * HOUR_S, 60, _waiting()),
    Scenario("its run is finished", 4 * HOUR_S, 60, _finished()),
    Scenario("the others leave", 4 * HOUR_S, 60, _left_alone()),
    Scenario("slept for two hours", 5 * HOUR_S, 30, _slept()),
    Scenario("its run begins after two hours", 14 * HOUR_S, 120, _begun_late()),
)
"""Everything that should not wake anybody."""

CUT_OFF: Final = Scenario(
    "one of four, without peers", HOUR_S, 60, in_rounds(60, 4) | {"demo_peers": 0.0}
)
"""One for which an alert does fire: the way of looking at them sees it."""
