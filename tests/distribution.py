"""What is uploaded: a wheel and a source distribution, made from a copy of this tree."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]


@dataclass(frozen=True)
class Built:
    """A wheel and a source distribution."""

    wheel: Path
    source: Path


def list_sources() -> list[str]:
    """Files of this tree that git has, or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return [name for name in listed.stdout.decode().split("\0") if (ROOT / name).is_file()]


def copy_tree(folder: Path) -> None:
    """These files, but for tests."""
    for name in list_sources():
        if not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def build(folder: Path) -> Built:
    """From the tree in `folder`, with what pip would fetch installed already."""
    targets = ("-t", "wheel", "-t", "sdist")
    command = [sys.executable, "-m", "hatchling", "build", *targets, "-d", "out"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=100)
    (wheel,), (source,) = ((folder / "out").glob(kind) for kind in ("*.whl", "*.tar.gz"))
    return Built(wheel, source)


def install(wheel: Path, site: Path) -> None:
    """Into a folder for PYTHONPATH; what it needs is installed already."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel]
    subprocess.run(list(map(str, pip)), check=True, capture_output=True, timeout=100)
