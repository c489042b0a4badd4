"""A disk in memory whose power can be cut: what was not synced may be lost, whole or in part.

What it promises is what POSIX does and no more: file contents are durable after `sync` on the
file, names after `sync_folder` on the folder, a rename is all or nothing. Folders are durable at
once. For simulations and tests.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from demo_node.store.disk import PRIVATE, Appender
from demo_node.store.rope import Rope


class PowerCut(Exception):
    """The machine is off. Only `MemoryDisk.after_power_cut` is left of it."""


@dataclass(slots=True)
class _File:
    """Of `content` the first `synced` bytes are on the device; in the place of a file that was
    emptied the device still has `before`, until the next sync.
    """

    mode: int
    content: Rope
    synced: int = 0
    before: bytes | None = None


@dataclass(slots=True)
class MemoryDisk:
    """Implements `Disk`. `operations_left` counts down to a PowerCut in the midst of things.

    Disks with the same `shared` keep equal pieces of their files once.
    """

    operations_left: int | None = None
    shared: dict[bytes, bytes] | None = None
    _files: dict[Path, _File] = field(default_factory=dict)
    _durable: dict[Path, _File] = field(default_factory=dict)
    _folders: set[Path] = field(default_factory=set)

    def after_power_cut(self, random: Random) -> "MemoryDisk":
        """What a machine with this disk finds when it starts again."""
        found = MemoryDisk(shared=self.shared, _folders=set(self._folders))
        for path in sorted(self._files.keys() | self._durable.keys()):
            # A name that was not synced may have reached the device, or not.
            file = random.choice([self._files, self._durable]).get(path)
            if file is not None:
                content = _lose_unsynced(file, random)
                found._files[path] = _File(file.mode, Rope(content, self.shared), len(content))
        found._durable = dict(found._files)
        return found

    def create(self, path: Path, mode: int = PRIVATE) -> Appender:
        """See `Disk.create`."""
        self._spend()
        self._check_folder(path)
        file = self._files.setdefault(path, _File(mode, self._empty()))
        if file.before is None:
            file.before = file.content.read(0, file.synced)
        file.content, file.synced = self._empty(), 0
        return _OpenFile(file, self._spend)

    def append(self, path: Path, mode: int = PRIVATE) -> Appender:
        """See `Disk.append`."""
        self._spend()
        self._check_folder(path)
        return _OpenFile(self._files.setdefault(path, _File(mode, self._empty())), self._spend)

    def read(self, path: Path, offset: int = 0, length: int | None = None) -> bytes:
        """See `Disk.read`."""
        end = None if length is None else offset + length
        return self._file(path).content.read(offset, end)

    def size(self, path: Path) -> int:
        """See `Disk.size`."""
        return len(self._file(path).content)

    def mode(self, path: Path) -> int:
        """See `Disk.mode`."""
        return self._file(path).mode

    def names(self, folder: Path) -> list[str]:
        """See `Disk.names`."""
        return sorted(
            path.name for path in self._files.keys() | self._folders if path.parent == folder
        )

    def make_folder(self, folder: Path) -> None:
        """See `Disk.make_folder`."""
        self._spend()
        self._folders.add(folder)

    def rename(self, old: Path, new: Path) -> None:
        """See `Disk.rename`."""
        self._spend()
        self._files[new] = self._file(old)
        del self._files[old]

    def unlink(self, path: Path) -> None:
        """See `Disk.unlink`."""
        self._spend()
        self._files.pop(path, None)

    def remove_folder(self, folder: Path) -> None:
        """See `Disk.remove_folder`."""
        self._spend()
        self._folders.discard(folder)

    def truncate(self, path: Path, length: int) -> None:
        """See `Disk.truncate`."""
        self._spend()
        file = self._file(path)
        file.content.truncate(length)
        file.synced, file.before = len(file.content), None

    def sync_folder(self, folder: Path) -> None:
        """See `Disk.sync_folder`."""
        self._spend()
        elsewhere = {path: file for path, file in self._durable.items() if path.parent != folder}
        here = {path: file for path, file in self._files.items() if path.parent == folder}
        self._durable = elsewhere | here

    def _empty(self) -> Rope:
        return Rope(shared=self.shared)

    def _file(self, path: Path) -> _File:
        file = self._files.get(path)
        if file is None:
            raise FileNotFoundError(path)
        return file

    def _check_folder(self, path: Path) -> None:
        if path.parent not in self._folders:
            raise FileNotFoundError(path.parent)

    def _spend(self) -> None:
        if self.operations_left is None:
            return
        self.operations_left -= 1
        if self.operations_left < 0:
            raise PowerCut


class _OpenFile:
    def __init__(self, file: _File, spend: Callable[[], None]) -> None:
        self._file = file
        self._spend = spend

    def write(self, piece: bytes | memoryview) -> None:
        half = len(piece) // 2
        self._file.content.append(piece[:half])
        self._spend()  # the power may go in the midst of a write
        self._file.content.append(piece[half:])

    def sync(self) -> None:
        self._spend()
        self._file.synced, self._file.before = len(self._file.content), None

    def close(self) -> None:
        pass


def _lose_unsynced(file: _File, random: Random) -> bytes:
    """The synced content and any part of what was written since, or zeros in its place."""
    if file.before:
        return random.choice([file.before, file.content.read()])
    synced, tail = file.content.read(0, file.synced), file.content.read(file.synced)
    kept = tail[: random.randint(0, len(tail))]
    return synced + (bytes(len(kept)) if random.random() < 0.25 else kept)
