"""Concerns about events of the last hours, and about what may go wrong soon.

Thresholds are those of deploy/prometheus/rules/alerts.yml. What counts there only after a while is
said here at once, unless it passes by itself.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from demo_node.cli.show import format_bytes, format_duration
from demo_node.cli.top.concern import TAKING_PART, Concern
from demo_node.cli.top.reading import Reading
from demo_node.views import READY, HealthView, NodeState

MINUTE_S: Final = 60
HOUR_S: Final = 3_600
ALWAYS_S: Final = math.inf

NOT_READY_S: Final = 15 * MINUTE_S
LOOP_LAG_S: Final = 0.25
DISK_BYTES_MIN: Final = 1e9
DISK_SNAPSHOTS_MIN: Final = 4
SNAPSHOT_ROUNDS: Final = 40
GOSSIP_ROUNDS: Final = 5
"""Before, the links of the mesh are still being made."""

WRITING: Final = (NodeState.SYNCING, NodeState.ACTIVE, NodeState.PAUSED, NodeState.FINISHED)


@dataclass(frozen=True, slots=True)
class EventAlert:
    """Fires where `event` happened more than `more_than` times within `window_s`."""

    concern: Concern
    event: str
    window_s: float
    more_than: int = 0


EVENT_ALERTS: Final = (
    EventAlert(
        Concern("DemoKeyInUse", "somebody else signs with this node's key", "stop one of the two"),
        "key.in_use",
        HOUR_S,
    ),
    EventAlert(
        Concern(
            "DemoTrainerRestarts",
            "the trainer keeps dying",
            "see trainer.died in the log; free memory",
            is_urgent=False,
        ),
        "trainer.died",
        HOUR_S,
        more_than=2,
    ),
    EventAlert(
        Concern(
            "DemoTrainingOutOfMemory",
            "too little memory to train",
            "free some, or use --device cpu",
            is_urgent=False,
        ),
        "training.out_of_memory",
        HOUR_S,
        more_than=2,
    ),
    EventAlert(
        Concern(
            "DemoTrainingDiverged",
            "training diverges: gradients are not finite",
            "check the graphics card",
            is_urgent=False,
        ),
        "training.keeps_diverging",
        2 * HOUR_S,
    ),
    EventAlert(
        Concern(
            "DemoDeviceUnfit",
            "this device computes updates wrongly",
            "report device and driver",
            is_urgent=False,
        ),
        "trainer.known_answer_failed",
        ALWAYS_S,
    ),
    EventAlert(
        Concern(
            "DemoPayloadsRejected",
            "a peer gave a payload that no honest one makes",
            "dropped; the log says who",
            is_urgent=False,
        ),
        "payload.rejected",
        30 * MINUTE_S,
    ),
    EventAlert(
        Concern(
            "DemoMessagesRejected",
            "a peer sent gossip that no honest one sends",
            "dropped; the log says why",
            is_urgent=False,
        ),
        "message.rejected",
        30 * MINUTE_S,
    ),
    EventAlert(
        Concern(
            "DemoSnapshotFails",
            "a snapshot could not be written",
            "free space; the log says why",
            is_urgent=False,
        ),
        "snapshot.missed",
        2 * HOUR_S,
    ),
)


def judge_health(reading: Reading) -> Iterator[Concern]:
    """What happened, then what it runs out of."""
    for alert in EVENT_ALERTS:
        if _is_firing(alert, reading.health, reading.now_ms):
            yield alert.concern
    yield from _judge_state(reading)
    yield from _judge_machine(reading)
    yield from _judge_gossip(reading)
    yield from _judge_snapshots(reading)


def _is_firing(alert: EventAlert, health: HealthView, now_ms: int) -> bool:
    """Of each event at least as many times are kept as any alert counts."""
    times_ms = _find_times(health, alert.event)
    if len(times_ms) <= alert.more_than:
        return False
    return now_ms - times_ms[-1 - alert.more_than] < alert.window_s * 1000


def _find_times(health: HealthView, name: str) -> tuple[int, ...]:
    return next((event.newest_ms for event in health.events if event.name == name), ())


def _judge_state(reading: Reading) -> Iterator[Concern]:
    status = reading.status
    faults, cleared = (
        _find_times(reading.health, name) for name in ("state.fault", "state.fault_cleared")
    )
    if max(faults, default=0) > max(cleared, default=0):
        yield Concern(
            "DemoStateFault",
            "others compute other parameters; it signs nothing",
            "try --device cpu",
        )
    if status.state in READY or status.state is NodeState.WAITING:
        return
    since_ms = (_find_times(reading.health, "state.changed") or (status.started_ms,))[-1]
    seconds = (reading.now_ms - since_ms) / 1000
    if seconds > NOT_READY_S:
        yield Concern(
            "DemoNodeNotReady",
            f"{status.state.value} for {format_duration(seconds)}",
            "a first sync may take so long; else see the log",
            is_urgent=False,
        )


def _judge_machine(reading: Reading) -> Iterator[Concern]:
    health = reading.health
    if health.loop_lag_p99_s > LOOP_LAG_S:
        yield Concern(
            "DemoEventLoopBlocked",
            f"it answers {health.loop_lag_p99_s:.2f} s late, 1 time in 100",
            "fewer --threads, less else to do",
            is_urgent=False,
        )
    written = DISK_SNAPSHOTS_MIN * health.snapshot_bytes + health.momentum_file_bytes
    needed = max(written, DISK_BYTES_MIN)
    if health.disk_free_bytes < needed and reading.status.state in WRITING:
        yield Concern(
            "DemoDiskLow",
            f"{format_bytes(health.disk_free_bytes)} left on the disk",
            "free space: without any, the node ends",
            is_urgent=False,
        )


def _judge_gossip(reading: Reading) -> Iterator[Concern]:
    status = reading.status
    is_linked = reading.health.gossip_links or not status.peers or status.members < 2
    if status.state in TAKING_PART and not is_linked and len(reading.rounds) > GOSSIP_ROUNDS:
        yield Concern(
            "DemoGossipMeshEmpty",
            "peers pass no gossip on to this node",
            "are they in step? else start it again",
            is_urgent=False,
        )


def _judge_snapshots(reading: Reading) -> Iterator[Concern]:
    status = reading.status
    if status.state not in TAKING_PART or reading.health.records_applied <= SNAPSHOT_ROUNDS:
        return
    saved_ms = (_find_times(reading.health, "snapshot.saved") or (status.started_ms,))[-1]
    age_ms = reading.now_ms - saved_ms
    if age_ms > SNAPSHOT_ROUNDS * status.round_ms:
        yield Concern(
            "DemoSnapshotStale",
            f"no snapshot was saved for {format_duration(age_ms / 1000)}",
            "is the disk full or slow?",
            is_urgent=False,
        )
