"""Milliseconds to rounds and deadlines. Integers only: every peer gets the same ones.

Source: DESIGN.md section 5; PROTOCOL.md rules 1, 2 and 12.
"""

from dataclasses import dataclass
from typing import Final

BPS: Final = 10_000
"""Basis points in a whole round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When a run's rounds and their phases begin. The settle phase is what the others leave."""

    genesis_ms: int
    round_ms: int
    train_bps: int
    contribute_bps: int
    propose_bps: int
    slots: int
    slot_offset_ms: int
    skew_max_ms: int


def round_at(schedule: Schedule, now_ms: int) -> int:
    """Number of the round that `now_ms` (Unix milliseconds) falls into; negative before genesis."""
    return (now_ms - schedule.genesis_ms) // schedule.round_ms


def round_start_ms(schedule: Schedule, round_: int) -> int:
    """First millisecond of `round_`; its train phase begins."""
    return schedule.genesis_ms + round_ * schedule.round_ms


def has_begun(schedule: Schedule, round_: int, now_ms: int) -> bool:
    """By somebody's clock that is as far ahead of ours as clocks may be."""
    return now_ms + schedule.skew_max_ms >= round_start_ms(schedule, round_)


def _boundary_ms(schedule: Schedule, round_: int, bps: int) -> int:
    return round_start_ms(schedule, round_) + schedule.round_ms * bps // BPS


def train_end_ms(schedule: Schedule, round_: int) -> int:
    """Train boundary: local work stops, the contribute phase begins."""
    return _boundary_ms(schedule, round_, schedule.train_bps)


def contribute_end_ms(schedule: Schedule, round_: int) -> int:
    """The propose phase begins; slot 0 may propose."""
    return _boundary_ms(schedule, round_, schedule.train_bps + schedule.contribute_bps)


def coverage_cut_ms(schedule: Schedule, round_: int) -> int:
    """Only contributions held by now count for coverage (rule 17)."""
    return contribute_end_ms(schedule, round_) - schedule.skew_max_ms


def slot_start_ms(schedule: Schedule, round_: int, slot: int) -> int:
    """From now on the proposer of `slot` may step in (rule 12)."""
    return contribute_end_ms(schedule, round_) + slot * schedule.slot_offset_ms


def settle_start_ms(schedule: Schedule, round_: int) -> int:
    """The propose phase ends: choose a record, apply its update."""
    bps = schedule.train_bps + schedule.contribute_bps + schedule.propose_bps
    return _boundary_ms(schedule, round_, bps)


def next_boundary_ms(schedule: Schedule, now_ms: int) -> int:
    """The next boundary of a phase or slot after `now_ms`."""
    r = round_at(schedule, now_ms)
    boundaries = [
        train_end_ms(schedule, r),
        coverage_cut_ms(schedule, r),
        *(slot_start_ms(schedule, r, slot) for slot in range(schedule.slots)),
        settle_start_ms(schedule, r),
        round_start_ms(schedule, r + 1),
    ]
    return min(b for b in boundaries if b > now_ms)
