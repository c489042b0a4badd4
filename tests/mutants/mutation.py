"""One mistake that somebody might make, and the scenario that must show it."""

import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

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
        text = path.read_text()
        if text.count(self.old) != 1:
            found = text.count(self.old)
            raise ValueError(f"{self.name}: {self.file} has the text {found} times, not once")
        path.write_text(text.replace(self.old, self.new))


def copy_sources(folder: Path) -> None:
    """A copy of the sources, to be mutated."""
    for source in SOURCES:
        shutil.copytree(
            ROOT / source, folder / source, ignore=shutil.ignore_patterns("__pycache__")
        )
