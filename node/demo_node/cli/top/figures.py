"""Figures of the newest rounds: pure functions of what the node said."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from demo_node.cli.quantile import compute_quantile
from demo_node.cli.top.reading import Reading, compute_rate
from demo_node.views import DigestVerdict, Outcome, Phase, RoundView

LATELY: Final = 60
"""Rounds that quantiles, shares and counts are of."""

PHASES: Final = (Phase.TRAIN, Phase.CONTRIBUTE, Phase.PROPOSE, Phase.SETTLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of the last `rounds` rounds; seconds, bytes, NaN where there is nothing to tell it from.

    `slack_s`: what was left of the newest applied round when it was applied; below 0, it was late.
    `phases_s`: medians. `agreeing` and `differing`: listed peers, by what their newest headers say.
    """

    rounds: int
    outcomes: Counter[Outcome]
    trained: int
    included: int
    latency_last_s: float
    latency_p50_s: float
    latency_p95_s: float
    exchange_p50_s: float
    slack_s: float
    phases_s: dict[Phase, float]
    train_share: float
    tokens_per_s: float
    bytes_in_per_s: float
    bytes_out_per_s: float
    bytes_per_round: float
    participants: int
    agreeing: int
    differing: int


def compute_figures(reading: Reading) -> Figures:
    """What the newest rounds of a reading come to."""
    rounds, round_s = reading.rounds[-LATELY:], reading.status.round_ms / 1000
    applied = [view for view in rounds if view.record]
    latencies = sorted(view.latency_ms / 1000 for view in applied)
    exchanges = sorted(view.exchange_ms / 1000 for view in applied)
    last = applied[-1] if applied else None
    wall_s = (rounds[-1].round - rounds[0].round + 1) * round_s if rounds else 0.0
    traffic = [view.bytes_in + view.bytes_out for view in rounds]
    others = [peer for peer in reading.swarm.peers if peer.peer != reading.status.peer]
    return Figures(
        rounds=len(rounds),
        outcomes=Counter(view.outcome for view in rounds),
        trained=sum(view.samples > 0 and view.due for view in rounds),
        included=sum(view.included for view in rounds),
        latency_last_s=last.latency_ms / 1000 if last else math.nan,
        latency_p50_s=compute_quantile(latencies, 0.5),
        latency_p95_s=compute_quantile(latencies, 0.95),
        exchange_p50_s=compute_quantile(exchanges, 0.5),
        slack_s=round_s - last.latency_ms / 1000 if last else math.nan,
        phases_s={phase: _median_phase_s(rounds, phase) for phase in PHASES},
        train_share=compute_rate(sum(view.train_ms for view in rounds) / 1000, wall_s),
        tokens_per_s=compute_rate(sum(view.tokens for view in rounds), wall_s),
        bytes_in_per_s=_or_of_rounds(reading.bytes_in_per_s, [v.bytes_in for v in rounds], wall_s),
        bytes_out_per_s=_or_of_rounds(
            reading.bytes_out_per_s, [v.bytes_out for v in rounds], wall_s
        ),
        bytes_per_round=sum(traffic) / len(traffic) if traffic else math.nan,
        participants=last.participants if last else 0,
        agreeing=sum(peer.digest is DigestVerdict.EQUAL for peer in others),
        differing=sum(peer.digest is DigestVerdict.DIFFERENT for peer in others),
    )


def spread_rounds(rounds: Sequence[RoundView], columns: int) -> list[RoundView | None]:
    """The newest rounds by number, one for each column, newest last; None where one was missed."""
    if not rounds:
        return []
    by_number = {view.round: view for view in rounds}
    newest = max(by_number)
    oldest = max(min(by_number), newest - columns + 1)
    return [by_number.get(number) for number in range(oldest, newest + 1)]


def _median_phase_s(rounds: Sequence[RoundView], phase: Phase) -> float:
    took = [(p.end_ms - p.begin_ms) / 1000 for v in rounds for p in v.phases if p.phase is phase]
    return compute_quantile(sorted(took), 0.5)


def _or_of_rounds(measured: float, of_rounds: Sequence[int], wall_s: float) -> float:
    """The first answer has nothing before it: then what the rounds say."""
    return compute_rate(sum(of_rounds), wall_s) if math.isnan(measured) else measured
