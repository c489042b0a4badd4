"""What an operator should look at, and what to do about it: the conditions of the alerts.

Here they are judged by the newest rounds, so they come and go sooner than alerts, which wait.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from demo_node.cli.show import count, format_clock
from demo_node.cli.top.figures import Figures
from demo_node.cli.top.reading import Reading
from demo_node.views import READY, NodeState, Outcome, RoundView
from demo_protocol.common_time import PEERS_MIN

LAG_ROUNDS: Final = 5
"""A head that is 1 or 2 rounds behind the clock is usual; skipped rounds add some."""

SILENT_S: Final = 2.0
CLOCK_OFF_MS: Final = 1_000
JUDGED_ROUNDS: Final = 20
INCLUDED_ROUNDS: Final = 5
SKIPPED_SHARE: Final = 0.2
LATE_SHARE: Final = 0.05


@dataclass(frozen=True, slots=True)
class Concern:
    """`name` is for programs; `is_urgent`: the node does not do its part, or is alone with it."""

    name: str
    text: str
    remedy: str
    is_urgent: bool = True


def find_concerns(reading: Reading, figures: Figures) -> list[Concern]:
    """All there are, the urgent ones first."""
    found = [*_judge_node(reading), *_judge_swarm(reading, figures), *_judge_rounds(reading)]
    return sorted(found, key=lambda concern: not concern.is_urgent)


def _judge_node(reading: Reading) -> Iterator[Concern]:
    status = reading.status
    if reading.silent_s >= SILENT_S:
        yield Concern(
            "silent",
            f"the node has not answered for {reading.silent_s:.0f} s",
            f"is the machine very busy, or was pid {status.pid} stopped (kill -CONT)?",
        )
    if status.state in (NodeState.ACTIVE, NodeState.PAUSED) and not status.trainer_pid:
        yield Concern(
            "trainer_down",
            "the trainer process is not up",
            "another one starts; if it repeats, look at trainer.died in the log",
        )
    elif reading.trainer_restarts:
        times = count(reading.trainer_restarts, "time")
        yield Concern(
            "trainer_restarted",
            f"the trainer was restarted {times} meanwhile",
            "once is nothing; else look for the out-of-memory killer, or use --device cpu",
            is_urgent=False,
        )


def _judge_swarm(reading: Reading, figures: Figures) -> Iterator[Concern]:
    status, swarm = reading.status, reading.swarm
    if figures.differing:
        who = count(figures.differing, "peer")
        yield Concern(
            "digest_differs",
            f"{who} of {figures.agreeing + figures.differing} with other parameters than ours",
            "demo-node replay says who is right",
        )
    if not status.peers and swarm.known > 1 and status.state in READY:
        yield Concern(
            "isolated",
            "no peer is connected",
            "look at the network; others can dial the address that demo-node status shows",
        )
    off_ms = status.clock.correction_ms
    if abs(off_ms) >= CLOCK_OFF_MS:
        yield Concern(
            "clock_off",
            f"this machine's clock is off by {-off_ms / 1000:+.2f} s; the node corrects it",
            "set it (NTP), for other programs' sake",
            is_urgent=False,
        )
    if not status.clock.verified and status.peers >= PEERS_MIN and status.state in READY:
        yield Concern(
            "clock_unverified",
            f"clock {format_clock(status.clock)}",
            "have NTP running",
            is_urgent=False,
        )


def _judge_rounds(reading: Reading) -> Iterator[Concern]:
    status = reading.status
    if status.state not in (NodeState.ACTIVE, NodeState.PAUSED):
        return
    lag = status.round - status.head_round
    if lag > LAG_ROUNDS and reading.rounds:
        yield Concern(
            "behind",
            f"the head is {lag} rounds behind the clock",
            "are there peers, and is the clock right? else look at the log",
        )
    rounds = reading.rounds[-JUDGED_ROUNDS:]
    trained = [view for view in rounds if view.samples][-INCLUDED_ROUNDS:]
    if len(trained) == INCLUDED_ROUNDS and not any(view.included for view in trained):
        yield Concern(
            "not_included",
            f"no record lists one of our last {INCLUDED_ROUNDS} contributions",
            "compare clocks; if contribute has no slack: fewer --threads, or a faster uplink",
        )
    yield from _judge_outcomes(rounds)


def _judge_outcomes(rounds: Sequence[RoundView]) -> Iterator[Concern]:
    if len(rounds) < INCLUDED_ROUNDS:
        return
    of = f"of the last {len(rounds)} rounds"
    skipped = sum(view.outcome is Outcome.SKIPPED for view in rounds)
    if skipped >= SKIPPED_SHARE * len(rounds):
        yield Concern(
            "skipped",
            f"{skipped} {of} got no record",
            "busy machines, or peers that cannot reach each other: look at their clocks and logs",
        )
    late = sum(view.outcome is Outcome.LATE for view in rounds)
    if late > LATE_SHARE * len(rounds):
        yield Concern(
            "late",
            f"{late} {of} were applied after they had ended",
            "this machine is busy: fewer --threads, or a run with longer rounds",
        )
    forked = sum(view.outcome is Outcome.FORKED for view in rounds)
    if forked:
        yield Concern(
            "forked",
            f"{forked} {of} rolled back for another branch",
            "now and then is usual after a cut; else look at the network",
            is_urgent=False,
        )
