"""Whole files, all or nothing: a temporary file in the same folder, fsync, rename, fsync folder.

After a crash a path holds either what it held before or the complete new content.
"""

from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Final, Self

from demo_node.store.disk import PRIVATE, Disk

_SUFFIX: Final = ".tmp"
_SERIAL = count()
"""Two threads that write one path get two temporary files; the last rename wins."""


def write_atomic(
    disk: Disk,
    path: Path,
    content: bytes | Iterable[bytes],
    *,
    mode: int = PRIVATE,
    durable: bool = True,
) -> None:
    """Replace `path` by `content`, bytes or pieces. Two fsyncs unless `durable` is False.

    Not durable means: readers in this boot see all or nothing, a power cut may leave anything.
    Raises ConfigError when the disk is full, read-only or closed to us.
    """
    with AtomicFile(disk, path, mode=mode) as file:
        for piece in [content] if isinstance(content, bytes) else content:
            file.write(piece)
        file.commit(durable=durable)


class AtomicFile:
    """A file that appears under its name only at `commit`; without it, nothing is left behind.

    Used where content comes in pieces between awaits: call `write` and `commit` from a thread.
    """

    def __init__(self, disk: Disk, path: Path, *, mode: int = PRIVATE) -> None:
        self._disk = disk
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{next(_SERIAL)}{_SUFFIX}")
        self._file = disk.create(self._temporary, mode)
        self._committed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if not self._committed:
            self._disk.unlink(self._temporary)

    def write(self, piece: bytes | memoryview) -> None:
        """Append a piece."""
        self._file.write(piece)

    def sync(self) -> None:
        """Return when what was written is on the device; it has no name yet."""
        self._file.sync()

    def commit(self, *, durable: bool = True) -> None:
        """Give the file its name. Two fsyncs unless `durable` is False."""
        if durable:
            self._file.sync()
        self._disk.rename(self._temporary, self._path)
        self._committed = True
        if durable:
            self._disk.sync_folder(self._path.parent)


def sweep_temporaries(disk: Disk, folder: Path) -> None:
    """Remove what an interrupted `write_atomic` left in `folder`. Only while nobody writes."""
    for name in disk.names(folder):
        if name.startswith(".") and name.endswith(_SUFFIX):
            disk.unlink(folder / name)
