"""The embedded training text: the source of this interpreter's own standard library.

The text depends on file contents and relative paths only; not on locale, directory order, or
where Python is installed. Two Pythons of one version mostly give the same text, others do not:
then the corpus comes from a peer (`store.corpus`).
"""

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from demo_node.store.corpus import Corpus, build_corpus
from demo_protocol.errors import ConfigError

KIND: Final = "stdlib-bytes"

BLOCK_BYTES: Final = 65_536

_HELD_OUT: Final = 13
"""A file is held out when the first byte of its path's SHA-256 is below this: 5 % of files."""

_FOLDERS_LEFT_OUT: Final = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
)

_LEFT_OUT: Final = ("_sysconfigdata", "config-", "sitecustomize", "usercustomize")
"""Made at build or install time: they hold paths of one machine."""


def build_stdlib_corpus(folder: Path | None = None) -> Corpus:
    """The corpus of `folder`, by default this interpreter's standard library. Reads 12 MB: < 1 s.

    Raises ConfigError when there is no source text, as in some stripped installs.
    """
    folder = folder or Path(sysconfig.get_paths()["stdlib"])
    parts: dict[bool, list[bytes]] = {False: [], True: []}
    sources = sorted(_walk(os.fsencode(folder), b"")) if folder.is_dir() else []
    for relative, path in sources:
        with open(path, "rb") as file:
            parts[hashlib.sha256(relative).digest()[0] < _HELD_OUT].append(file.read())
    train, heldout = b"\0".join(parts[False]), b"\0".join(parts[True])
    if not train or not heldout:
        raise ConfigError(
            f"{folder}: no source text of Python's standard library to train on; install a Python"
            " that has its .py files, or join a run with --peers to fetch the text",
            exit_code=78,
        )
    return build_corpus(KIND, train, heldout, BLOCK_BYTES)


def _walk(folder: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(path relative to the top, with `/`; path) of every source file, in no order."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = os.fsdecode(entry.name)
            if name.startswith(_LEFT_OUT):
                continue
            relative = prefix + entry.name
            # Links to folders would bring in other trees, or loop.
            if entry.is_dir(follow_symlinks=False):
                if name not in _FOLDERS_LEFT_OUT:
                    yield from _walk(entry.path, relative + b"/")
            elif name.endswith(".py") and entry.is_file():
                yield relative, entry.path
