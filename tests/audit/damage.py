"""Files of a data folder, one byte of them changed."""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.audit.builders import Swarm


@dataclass(frozen=True, slots=True)
class Flip:
    """One byte of one file, and what it becomes."""

    path: Path
    position: int
    change: int


def flips_of(paths: list[Path], count: int) -> Iterator[Flip]:
    """`count` drawn ones, and the ends of each file."""
    draw = random.Random("audit" + paths[0].suffix)
    for path in paths:
        size = path.stat().st_size
        ends = {0, 1, size // 2, size - 2, size - 1}
        drawn = {draw.randrange(size) for _ in range(count // len(paths))}
        for position in sorted(ends | drawn):
            yield Flip(path, position, draw.choice([1, 2, 4, 8, 16, 32, 64, 128, 255]))


class Flipped:
    """A file with one byte changed, until the end of the block."""

    def __init__(self, flip: Flip) -> None:
        self._flip = flip
        self._before = flip.path.read_bytes()

    def __enter__(self) -> None:
        changed = bytearray(self._before)
        changed[self._flip.position] ^= self._flip.change
        self._flip.path.write_bytes(changed)

    def __exit__(self, *_: object) -> None:
        self._flip.path.write_bytes(self._before)


def files_of(swarm: Swarm, pattern: str) -> list[Path]:
    found = sorted(path for path in swarm.folder.glob(pattern) if path.is_file())
    assert found
    return found


def hash_files(folder: Path) -> dict[Path, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
