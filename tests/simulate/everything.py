"""Every scenario that is kept, once each: what of the protocol do simulations come to?

make coverage runs this and the scenarios of whole nodes (tests/sim) and looks at nothing else.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click

from demo_node.sim.scenario import Scenario, read_scenario, standard_mix
from demo_node.sim.simulation import simulate
from tests.simulate.stages import sized

TESTS = Path(__file__).parents[1]
FOLDERS = ("scenarios", "sim/seeds", "mutants/scenarios")

LARGE = 4_000
"""Nodes times rounds of a file that is left out: a night's."""


def list_runs() -> Iterator[tuple[str, Scenario, int]]:
    """(what it is, scenario, seed)."""
    for folder in FOLDERS:
        for file in sorted((TESTS / folder).glob("*.toml")):
            scenario = read_scenario(file)
            if scenario.nodes * scenario.rounds <= LARGE:
                yield file.stem, scenario, scenario.seed
    mix = sized(standard_mix(), 24, 60)
    yield "full mix", mix, 1
    yield "full mix, 8 drawn", replace(mix, contributors=8), 2
    stamps = (("admission", "stamp"), ("stamp_bits", 4), ("overlap_rounds", 1))
    yield "full mix, with stamps and overlap", replace(mix, agreement=stamps), 3
    yield "full mix, real training", replace(sized(mix, 8, 30), learner="real"), 4
    for seed, drawn in ((5, 0), (6, 8), (7, 0)):
        liars = replace(mix.mix, liars=0.3, liar_kinds=("garble", "equivocate"))
        yield "nonsense", replace(mix, rounds=100, contributors=drawn, mix=liars), seed


def main() -> int:
    """1 where something was broken."""
    broken = 0
    for what, scenario, seed in list_runs():
        report = simulate(scenario, seed)
        broken += bool(report.violations)
        verdict = f"{len(report.violations)} violations" if report.violations else "all held"
        click.echo(f"{what}: {report.faults.total()} faults, {verdict}, {report.seconds:.0f} s")
    return min(broken, 1)


if __name__ == "__main__":
    sys.exit(main())
