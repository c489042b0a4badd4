"""What an operator should look at, and what to do about it: the conditions of the alerts.

Names are those of alerts where there is one, so that docs/runbook.md has more. Here the newest
rounds judge, not the last minutes: what is said comes and goes sooner than an alert. health.py has
what is not judged by rounds and peers. A line has room for 80 letters.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from demo_node.cli.show import count
from demo_node.cli.top.concern import TAKING_PART, Concern
from demo_node.cli.top.figures import Figures
from demo_node.cli.top.health import judge_health
from demo_node.cli.top.reading import Reading
from demo_node.views import READY, NodeState, Outcome, RoundView, Standing, StatusView

SILENT_S: Final = 2.0
LAG_ROUNDS: Final = 5
"""A head that is 1 or 2 rounds behind the clock is usual; skipped rounds add some."""

CLOCK_OFF_MS: Final = 1_000
UNVERIFIED_S: Final = 900.0
JUDGED_ROUNDS: Final = 20
ROUNDS_MIN: Final = 5
"""Of fewer rounds nothing is said."""

LATE_SHARE: Final = 0.2
SKIPPED_SHARE: Final = 0.3
INCLUDED_SHARE: Final = 0.2
PARTICIPANTS_SHARE: Final = 0.5
FORKED_SHARE: Final = 0.1


def find_concerns(reading: Reading, figures: Figures) -> list[Concern]:
    """All there are, the urgent ones first."""
    found = [
        *_judge_node(reading),
        *_judge_digests(figures),
        *_judge_final(reading.status),
        *_judge_links(reading),
        *_judge_rounds(reading),
        *judge_health(reading),
    ]
    return sorted(found, key=lambda concern: not concern.is_urgent)


def _judge_node(reading: Reading) -> Iterator[Concern]:
    status = reading.status
    if reading.silent_s >= SILENT_S:
        yield Concern(
            "NoAnswer",
            f"no answer for {reading.silent_s:.0f} s",
            f"was pid {status.pid} stopped (kill -CONT), is the machine busy?",
        )
    if status.state in TAKING_PART and not status.trainer_pid:
        yield Concern(
            "TrainerDown",
            "the trainer is not up",
            "it is started again; else see trainer.died in the log",
        )


def _judge_digests(figures: Figures) -> Iterator[Concern]:
    if figures.differing:
        is_alone = figures.differing > figures.agreeing
        peers = count(figures.differing, "peer")
        yield Concern(
            "DemoDigestDiverged" if is_alone else "DemoDigestDisputed",
            f"{peers} with other parameters, {figures.agreeing} with ours",
            "see demo-node replay",
            is_urgent=is_alone,
        )


def _judge_final(status: StatusView) -> Iterator[Concern]:
    if status.rival_peers:
        yield Concern(
            "DemoFinalConflict",
            f"{count(status.rival_peers, 'peer')} on another chain, {status.own_peers} on ours",
            "see conflict in demo-node status",
        )


def _judge_links(reading: Reading) -> Iterator[Concern]:
    status = reading.status
    is_missed = status.members > 1 or any(
        peer.standing is Standing.EXPIRED for peer in reading.swarm.peers
    )
    if not status.peers and is_missed and status.state in (*TAKING_PART, NodeState.SYNCING):
        yield Concern(
            "DemoNodeIsolated",
            "no peer is connected",
            "look at the network, or start it with --peers",
        )
    correction_ms = status.clock.correction_ms
    if abs(correction_ms) > CLOCK_OFF_MS:
        yield Concern(
            "DemoClockSkew",
            f"this machine's clock is off by {-correction_ms / 1000:+.2f} s",
            "peers correct it; set it (NTP)",
            is_urgent=False,
        )
    if reading.unverified_s > UNVERIFIED_S and status.state in READY:
        yield Concern(
            "DemoClockUnverified",
            "too few peers vouch for this machine's clock",
            "have NTP running",
            is_urgent=False,
        )


def _judge_rounds(reading: Reading) -> Iterator[Concern]:
    status = reading.status
    if status.state not in TAKING_PART:
        return
    lag = status.round - status.head_round  # as it answered: a silent one may be level with it
    if lag > LAG_ROUNDS and status.round > LAG_ROUNDS:
        yield Concern(
            "DemoRoundsStalled",
            f"the head is {reading.lag_rounds} rounds behind the clock",
            "look at peers, clock and log",
        )
    rounds = reading.rounds[-JUDGED_ROUNDS:]
    if len(rounds) > ROUNDS_MIN:
        yield from _judge_outcomes(rounds)
        yield from _judge_contributions(rounds, status)


def _judge_outcomes(rounds: Sequence[RoundView]) -> Iterator[Concern]:
    of = f"of the last {len(rounds)} rounds"
    applied = sum(bool(view.record) for view in rounds)
    late = sum(view.outcome is Outcome.LATE for view in rounds)
    if late > LATE_SHARE * applied:
        yield Concern(
            "DemoRoundLatencyHigh",
            f"{late} {of} came late",
            "fewer --threads, or longer rounds",
            is_urgent=False,
        )
    if len(rounds) - applied > SKIPPED_SHARE * len(rounds):
        yield Concern(
            "DemoRoundsSkipped",
            f"{len(rounds) - applied} {of} have no record",
            "look at peers, their clocks and logs",
        )
    forked = sum(view.outcome is Outcome.FORKED for view in rounds)
    if forked > FORKED_SHARE * len(rounds):
        yield Concern(
            "DemoForksFrequent",
            f"{forked} {of} were rolled back",
            "look at the network between peers",
            is_urgent=False,
        )


def _judge_contributions(rounds: Sequence[RoundView], status: StatusView) -> Iterator[Concern]:
    applied = [view for view in rounds if view.record]
    if 2 * len(applied) <= len(rounds):
        return  # then it is not for us that they are missing
    trained = [view for view in rounds if view.samples and view.due]
    included = sum(view.included for view in trained)
    if len(trained) > ROUNDS_MIN and included < INCLUDED_SHARE * len(trained):
        yield Concern(
            "DemoNotIncluded",
            f"records list {included} of our last {len(trained)} contributions",
            "compare clocks; fewer --threads",
        )
    participants = sum(view.participants for view in applied) / len(applied)
    members = max(view.drawn for view in applied)
    is_training = status.state is NodeState.ACTIVE
    if is_training and members > 2 and participants < PARTICIPANTS_SHARE * members:
        yield Concern(
            "DemoParticipationLow",
            f"records list {participants:.0f} of {members} whose turn it is",
            "paused, gone or late ones: see below",
            is_urgent=False,
        )
