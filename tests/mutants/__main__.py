"""Does the simulator bite? Each mutation must be caught within SEEDS seeds: `make mutants`.

Sources are copied for each mutation, mutated there, and run; nothing needs to be restored. First
the scenarios are played without any mutation: then nothing may be broken.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click

from tests.mutants.catalogue import MUTATIONS
from tests.mutants.mutation import Mutation, copy_sources, play

SEEDS = 50
"""A mutation that survives so many is not caught."""

CLEAN_SEEDS = 3
"""Of each scenario: it must hold where nothing was planted."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one mutation: the seed that shows it, None for a survivor; how it showed."""

    mutation: Mutation
    seed: int | None
    seconds: float
    how: str


def main() -> int:
    """Run what was asked for; 0 if everything was caught and nothing without a mutation."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="of mutations; without any, all")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="at most, for each")
    parser.add_argument("--clean-seeds", type=int, default=CLEAN_SEEDS, help="without any mutation")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    unknown = set(asked.names) - {m.name for m in MUTATIONS}
    if unknown:
        click.echo(f"no mutation {', '.join(sorted(unknown))}; there are:")
        click.echo("\n".join(f"  {m.name}" for m in MUTATIONS))
        return 2
    mutations = [m for m in MUTATIONS if not asked.names or m.name in asked.names]
    with ThreadPoolExecutor(asked.jobs) as pool:
        broken = _play_clean(pool, mutations, asked.clean_seeds)
        click.echo(
            f"{len({m.scenario for m in mutations})} scenarios without a mutation,"
            f" {asked.clean_seeds} seeds of each: {len(broken)} broken"
        )
        click.echo("| mutation | seed | how it showed |\n|---|---|---|")
        outcomes = list(pool.map(lambda mutation: _hunt(mutation, asked.seeds), mutations))
    survivors = [outcome.mutation.name for outcome in outcomes if outcome.seed is None]
    caught = len(outcomes) - len(survivors)
    click.echo(f"{caught} of {len(outcomes)} mutations caught within {asked.seeds} seeds")
    for line in broken:
        click.echo(f"  broken without a mutation: {line}")
    return 1 if survivors or broken else 0


def _play_clean(pool: ThreadPoolExecutor, mutations: Sequence[Mutation], seeds: int) -> list[str]:
    """What was broken where nothing should be."""
    plays = [(s, seed) for s in sorted({m.scenario for m in mutations}) for seed in range(seeds)]
    with tempfile.TemporaryDirectory(prefix="demo-mutant-") as name:
        folder = Path(name)
        copy_sources(folder)  # somebody may be at work on the originals
        found = list(pool.map(lambda each: play(folder, *each), plays))
    return [
        f"{scenario} seed {seed}: {how}"
        for (scenario, seed), how in zip(plays, found, strict=True)
        if how
    ]


def _hunt(mutation: Mutation, seeds: int) -> Outcome:
    """Play one seed after the other until it shows."""
    begin_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="demo-mutant-") as name:
        folder = Path(name)
        copy_sources(folder)
        mutation.plant(folder)
        seed, how = 0, ""
        while seed < seeds and not how:
            how = play(folder, mutation.scenario, seed)
            seed += not how
    outcome = Outcome(mutation, seed if how else None, time.monotonic() - begin_s, how)
    found = f"{seed} | {how}" if how else "– | SURVIVED"
    click.echo(f"| `{mutation.name}` | {found} |")
    return outcome


if __name__ == "__main__":
    sys.exit(main())
