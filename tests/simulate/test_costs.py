"""docs/scale.md: what the simulator counts is what can be computed from the messages' lengths."""

from dataclasses import replace
from pathlib import Path

import pytest

from demo_node.sim.scenario import churn, read_scenario
from demo_node.sim.simulation import simulate
from demo_protocol.payload import typical_payload_bytes
from tests.simulate import round_costs
from tests.simulate.machine_costs import Follower, measure

SCENARIOS = Path(__file__).parents[1] / "scenarios"

COMPARED_BYTES = range(60, 260)
"""What rule 23 asks and is answered in a round where nothing is missing."""


@pytest.mark.parametrize(("nodes", "contributors"), [(12, 0), (40, 0), (40, 8)])
def test_bytes_in_are_headers_payloads_one_proposal_and_a_comparison(
    nodes: int, contributors: int
) -> None:
    follower = Follower(nodes, contributors)
    proposal = follower.play(0)
    header = follower.machine.view.chain[follower.head.record].contributions[0]
    payload = typical_payload_bytes(follower.machine.view.schema, follower.manifest.learning.k)
    each = follower.heard * (len(header.raw) + payload) + len(proposal.raw)
    computed = each * (nodes - 1) / nodes  # nobody sends to itself
    quiet = read_scenario(SCENARIOS / "quiet.toml")
    report = simulate(replace(quiet, nodes=nodes, rounds=6, contributors=contributors), 1)
    assert report.records == 6
    assert follower.heard == (contributors or nodes)
    assert int(report.bytes_in_per_node_per_round - computed) in COMPARED_BYTES


def test_a_row_of_the_table_has_all_its_cells() -> None:
    cells = [cell.strip() for cell in measure(10, 0).strip("| ").split("|")]
    assert len(cells) == 12
    assert cells[:3] == ["10", "0", "10"]
    assert all(float(cell.replace(",", "")) >= 0 for cell in cells)


def test_what_is_added_up_in_the_document_is_the_sum_of_what_was_measured() -> None:
    text = round_costs.SCALE.read_text()
    rows = round_costs.read_rows()
    assert [row.headers for row in rows] == [10, 100, 32, 1_000, 32, 10_000, 32]
    lines = text.splitlines()
    tables = [*map(round_costs.bytes_row, rows), *map(round_costs.processor_row, rows)]
    assert [line for line in tables if line not in lines] == []
    assert [limit for limit in round_costs.limits(rows) if limit not in text] == []


def test_figures_are_shown_with_two_digits_and_one_unit() -> None:
    assert round_costs.show(1_604_313, 1_604_313, "bytes") == "1.6 MB"
    assert round_costs.show(0.43, 0.63, "seconds") == "430 to 630 ms"
    assert round_costs.show(43, 63, "seconds") == "43 to 63 s"
    assert round_costs.show(840, 1_040, "percent") == "840 to 1,000 %"


def test_the_file_of_the_standard_churn_is_the_standard_churn() -> None:
    assert read_scenario(SCENARIOS / "churn.toml").mix == churn().mix
