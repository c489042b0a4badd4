"""One mistake that somebody might make, and the scenario that must show it."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

SCENARIOS = Path(__file__).parent / "scenarios"

TIMEOUT_S = 900
"""For one seed: a mutation may make a node run in circles, which is caught, too."""

SHOWN = 100
"""Characters of what a run says of how it broke."""

SOURCES = (Path("protocol"), Path("node"))
"""Folders that are copied and mutated; what is installed is left alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """In `file`, `old` becomes `new`. It stands there once, or the mutation is out of date.

    `scenario` names a file of this folder's `scenarios`; `rule` says what is broken.
    """

    name: str
    rule: str
    file: str
    old: str
    new: str
    scenario: str

    def plant(self, folder: Path) -> None:
        """Make the mistake in a copy of the sources below `folder`. Raises ValueError."""
        path = folder / self.file
        path.write_text(self.mutate(path.read_text()))

    def mutate(self, source: str) -> str:
        """The file's text with the mistake in it. Raises ValueError where it does not fit."""
        found = source.count(self.old)
        if found != 1:
            raise ValueError(f"{self.name}: {self.file} has the text {found} times, not once")
        return source.replace(self.old, self.new)


def copy_sources(folder: Path) -> None:
    """A copy of the sources, to be mutated."""
    for source in SOURCES:
        shutil.copytree(
            ROOT / source, folder / source, ignore=shutil.ignore_patterns("__pycache__")
        )


def play(folder: Path, scenario: str, seed: int) -> str:
    """How the run broke with the sources below `folder`; empty where it held."""
    command = [sys.executable, "-m", "demo_node.cli", "simulate", "--seed", str(seed)]
    command += ["--scenario", str(SCENARIOS / f"{scenario}.toml")]
    paths = os.pathsep.join(str(folder / source) for source in SOURCES)
    try:
        ended = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return "it never ends"
    if ended.returncode == 0:
        return ""
    lines = ended.stderr.splitlines()
    broken = next((at for at, line in enumerate(lines) if line.startswith("broken in ")), None)
    if broken is None:
        last = lines[-1] if lines else "without a word"
        return f"it ended by itself: {last[:SHOWN]}"
    return f"{lines[broken].removeprefix('broken in ')}: {lines[broken + 1].strip()[:SHOWN]}"
