"""What a file expects of its run: met in a quiet one, and each thing missed where it goes wrong."""

from dataclasses import replace

import pytest

from demo_node.sim.expecting import AsExpected
from demo_node.sim.scenario import Do, Event, Expect, Mix, Scenario
from demo_node.sim.simulation import simulate

QUIET = Scenario(nodes=6, rounds=12)

ALL_IS_WELL = Expect(records=1, included=1, by_liars=0, members=6, final_lag=4, clock_ms=0)

SLOW = Event(do=Do.SLOW, nodes=(4, 5), factor=500)
"""So slow that their headers are always late."""

DEAD = Event(do=Do.KILL, round=3, share=1)


def find_missed(scenario: Scenario) -> list[str]:
    """What the report says was missed."""
    report = simulate(scenario, 0)
    assert {violation.invariant for violation in report.violations} <= {AsExpected.name}
    return [violation.text for violation in report.violations]


def test_a_quiet_run_is_all_that_can_be_expected() -> None:
    assert find_missed(replace(QUIET, expect=ALL_IS_WELL)) == []


@pytest.mark.parametrize(
    ("expect", "change", "missed"),
    [
        (Expect(records=0.9), {"events": (replace(DEAD, rounds=4),)}, "rounds have a record"),
        (Expect(records=0.1), {"events": (DEAD,)}, "no honest node is left"),
        (Expect(included=0.9), {"events": (SLOW,)}, "headers of honest nodes are in a record"),
        (
            Expect(by_liars=0.01),
            {"mix": Mix(liars=0.3, liar_kinds=("replay",))},
            "records are by liars",
        ),
        (Expect(members=7), {}, "6 honest nodes are members, 7 at least"),
        (Expect(final_lag=3), {}, "4 records are not final, 3 at most"),
        (Expect(final_lag=3), {"nodes": 2}, "no record is final, 3 at most"),
        (Expect(clock_ms=50), {"mix": Mix(clock_ms=900), "nodes": 3}, "the clock of node"),
    ],
)
def test_what_is_missed_is_said(expect: Expect, change: dict[str, object], missed: str) -> None:
    found = find_missed(replace(QUIET, expect=expect, **change))  # type: ignore[arg-type]
    assert found
    assert all(missed in line for line in found)
