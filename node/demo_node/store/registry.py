"""Which data folders this user has on this machine: a folder of links, one to each.

Only a convenience: whatever is wrong with it, a node runs as well without. A link's name is
derived from its target, so two commands at once do not disturb each other.
"""

import contextlib
import hashlib
import os
from pathlib import Path


def remember_folder(registry: Path, folder: Path) -> None:
    """Keep a link to a data folder. What cannot be written is left alone."""
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    with contextlib.suppress(OSError):
        registry.mkdir(mode=0o700, parents=True, exist_ok=True)
        (registry / name).symlink_to(folder, target_is_directory=True)


def find_folders(registry: Path, *others: Path) -> list[Path]:
    """Sorted data folders, those in `others` too, that are there and hold a run.

    Links to folders that are gone stay: a disk may come back.
    """
    found = set(others)
    with contextlib.suppress(OSError):
        for link in registry.iterdir():
            with contextlib.suppress(OSError):
                found.add(link.readlink())
    return sorted(folder for folder in found if _holds_run(folder))


def _holds_run(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return (folder / "manifest.json").is_file()
    return False
