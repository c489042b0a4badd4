"""Does the simulator bite? Each mutation must be caught within SEEDS seeds: `make mutants`.

Sources are copied for each mutation, mutated there, and run; nothing needs to be restored. First
the scenarios are played without any mutation: then nothing may be broken.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click

from tests.mutants.catalogue import MUTATIONS
from tests.mutants.mutation import ROOT, SOURCES, Mutation, copy_sources

SEEDS = 50
"""A mutation that survives so many is not caught."""

TIMEOUT_S = 900
"""For one seed: a mutation may make a node run in circles, which is caught, too."""

SCENARIOS = Path(__file__).parent / "scenarios"


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
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--clean-seeds", type=int, default=3, help="without any mutation")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    mutations = [m for m in MUTATIONS if not asked.names or m.name in asked.names]
    if not mutations:
        click.echo(f"no such mutation; there are {', '.join(m.name for m in MUTATIONS)}")
        return 2
    with ThreadPoolExecutor(asked.jobs) as pool:
        broken = _play_clean(pool, mutations, asked.clean_seeds)
        outcomes = list(pool.map(lambda m: _hunt(m, asked.seeds), mutations))
    survivors = [outcome.mutation.name for outcome in outcomes if outcome.seed is None]
    caught = len(outcomes) - len(survivors)
    click.echo(f"{caught} of {len(outcomes)} mutations caught within {asked.seeds} seeds")
    for name in survivors:
        click.echo(f"  survived: {name}")
    for line in broken:
        click.echo(f"  broken without a mutation: {line}")
    return 1 if survivors or broken else 0


def _play_clean(pool: ThreadPoolExecutor, mutations: Sequence[Mutation], seeds: int) -> list[str]:
    plays = [(s, seed) for s in sorted({m.scenario for m in mutations}) for seed in range(seeds)]
    found = pool.map(lambda play: _play(ROOT, *play), plays)
    return [
        f"{scenario} seed {seed}: {how}"
        for (scenario, seed), how in zip(plays, found, strict=True)
        if how
    ]


def _hunt(mutation: Mutation, seeds: int) -> Outcome:
    begin_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="demo-mutant-") as name:
        folder = Path(name)
        copy_sources(folder)
        mutation.plant(folder)
        for seed in range(seeds):
            how = _play(folder, mutation.scenario, seed)
            if how:
                break
    outcome = Outcome(mutation, seed if how else None, time.monotonic() - begin_s, how)
    verdict = f"seed {seed}: {how}" if how else "SURVIVED"
    click.echo(f"{mutation.name} ({mutation.rule}): {verdict}, {outcome.seconds:.0f} s")
    return outcome


def _play(folder: Path, scenario: str, seed: int) -> str:
    """How the run broke; empty where it did not."""
    command = [sys.executable, "-m", "demo_node.cli", "simulate", "--seed", str(seed)]
    command += ["--scenario", str(SCENARIOS / f"{scenario}.toml")]
    paths = os.pathsep.join(str(folder / source) for source in SOURCES)
    try:
        ended = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return "it never ends"
    if ended.returncode == 0:
        return ""
    lines = [line for line in ended.stderr.splitlines() if line.startswith("broken")]
    return (lines or ended.stderr.splitlines()[-1:] or ["it ended without a word"])[0]


if __name__ == "__main__":
    sys.exit(main())
