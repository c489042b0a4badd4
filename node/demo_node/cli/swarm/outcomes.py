"""What each fault cost the node that suffered it, and the others."""

from collections.abc import Sequence
from dataclasses import dataclass

from demo_node.cli.swarm.inflicting import Suffered
from demo_node.sim.scenario import Do
from demo_node.views import RoundView


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultOutcome:
    """One fault and what came of it.

    `rounds_lost`: from the round of the fault until the next one in which the victim's
    contribution counted again, those in which it did not. What a killed process had not yet shown
    counts as lost. 0 for a cut, which has no victim: `node` is None.
    `rounds_without_record`: of all rounds until the next fault, those that no node has a record of.
    """

    round: int
    node: int | None
    kind: Do
    back_s: float | None
    rounds_lost: int
    rounds_without_record: int


def compute_outcomes(
    suffered: Sequence[Suffered], nodes: Sequence[Sequence[RoundView]], rounds: int
) -> list[FaultOutcome]:
    """One for each fault. `nodes`: every node's rounds, in the order of their numbers."""
    recorded = {view.round for own in nodes for view in own if view.record}
    begins = [event.round for event in suffered]
    ends = [*begins, rounds][1:]
    return [
        FaultOutcome(
            round=event.round,
            node=event.node,
            kind=event.do,
            back_s=event.back_s,
            rounds_lost=_count_lost(event, nodes, rounds),
            rounds_without_record=sum(r not in recorded for r in range(begin, end)),
        )
        for event, begin, end in zip(suffered, begins, ends, strict=True)
    ]


def _count_lost(event: Suffered, nodes: Sequence[Sequence[RoundView]], rounds: int) -> int:
    if event.node is None:
        return 0
    included = {view.round for view in nodes[event.node] if view.included or not view.due}
    back = min((r for r in included if r > event.round), default=rounds)
    return sum(r not in included for r in range(event.round, back))
