"""The one door to the file system: every file operation of this room goes through a `Disk`.

`FileDisk` is the real one. `store.memory.MemoryDisk` loses what was not synced when its power is
cut. What an operator can fix (full disk, read-only, no permission) is raised as ConfigError; a
missing file stays FileNotFoundError, because callers know what that means.

Every operation blocks; only `sync`, `sync_folder` and `truncate` wait for the device.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Final, Protocol

from demo_protocol.errors import ConfigError

PRIVATE: Final = 0o600
"""Mode of every file we make: only the operator reads it."""


class Appender(Protocol):
    """An open file that only grows."""

    def write(self, piece: bytes | memoryview) -> None:
        """Append the whole of `piece`. Not durable yet."""
        ...

    def sync(self) -> None:
        """Return when everything written is on the device (fsync)."""
        ...

    def close(self) -> None:
        """Give the file back. Does not sync."""
        ...


class Disk(Protocol):
    """What the store asks of a file system. Paths are absolute."""

    def create(self, path: Path, mode: int = PRIVATE) -> Appender:
        """Open an empty file; one that exists is emptied."""
        ...

    def append(self, path: Path, mode: int = PRIVATE) -> Appender:
        """Open a file at its end; one that is missing is made."""
        ...

    def read(self, path: Path, offset: int = 0, length: int | None = None) -> bytes:
        """Up to `length` bytes from `offset`, None for the rest. Raises FileNotFoundError."""
        ...

    def size(self, path: Path) -> int:
        """Bytes in the file. Raises FileNotFoundError."""
        ...

    def mode(self, path: Path) -> int:
        """Permission bits of the file. Raises FileNotFoundError."""
        ...

    def names(self, folder: Path) -> list[str]:
        """Sorted names in a folder; empty when there is none."""
        ...

    def make_folder(self, folder: Path) -> None:
        """Make a private folder (0700) where there is none. Its parent must exist."""
        ...

    def rename(self, old: Path, new: Path) -> None:
        """Replace `new` by `old` in one step. Durable after `sync_folder`."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove a file; a missing one is fine."""
        ...

    def remove_folder(self, folder: Path) -> None:
        """Remove an empty folder."""
        ...

    def truncate(self, path: Path, length: int) -> None:
        """Cut the file to `length` bytes, durably."""
        ...

    def sync_folder(self, folder: Path) -> None:
        """Return when names made, renamed and removed in `folder` are on the device (fsync)."""
        ...


class FileDisk:
    """The real file system."""

    def create(self, path: Path, mode: int = PRIVATE) -> Appender:
        """See `Disk.create`."""
        return _OpenFile(path, os.O_TRUNC, mode)

    def append(self, path: Path, mode: int = PRIVATE) -> Appender:
        """See `Disk.append`."""
        return _OpenFile(path, 0, mode)

    def read(self, path: Path, offset: int = 0, length: int | None = None) -> bytes:
        """See `Disk.read`."""
        with _explained(path), path.open("rb") as file:
            file.seek(offset)
            return file.read(-1 if length is None else length)

    def size(self, path: Path) -> int:
        """See `Disk.size`."""
        with _explained(path):
            return path.stat().st_size

    def mode(self, path: Path) -> int:
        """See `Disk.mode`."""
        with _explained(path):
            return path.stat().st_mode & 0o777

    def names(self, folder: Path) -> list[str]:
        """See `Disk.names`."""
        with _explained(folder):
            try:
                return sorted(os.listdir(folder))
            except FileNotFoundError:
                return []

    def make_folder(self, folder: Path) -> None:
        """See `Disk.make_folder`."""
        with _explained(folder):
            folder.mkdir(mode=0o700, exist_ok=True)

    def rename(self, old: Path, new: Path) -> None:
        """See `Disk.rename`."""
        with _explained(new):
            os.replace(old, new)

    def unlink(self, path: Path) -> None:
        """See `Disk.unlink`."""
        with _explained(path):
            path.unlink(missing_ok=True)

    def remove_folder(self, folder: Path) -> None:
        """See `Disk.remove_folder`."""
        with _explained(folder):
            folder.rmdir()

    def truncate(self, path: Path, length: int) -> None:
        """See `Disk.truncate`."""
        with _explained(path), path.open("r+b") as file:
            file.truncate(length)
            os.fsync(file.fileno())

    def sync_folder(self, folder: Path) -> None:
        """See `Disk.sync_folder`."""
        with _explained(folder):
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


class _OpenFile:
    def __init__(self, path: Path, flags: int, mode: int) -> None:
        def opener(name: str, _: int) -> int:
            every = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            return os.open(name, every | flags, mode)

        self._path = path
        with _explained(path):
            self._file = FileIO(str(path), "ab", opener=opener)

    def write(self, piece: bytes | memoryview) -> None:
        view = memoryview(piece)
        with _explained(self._path):
            while view:
                view = view[self._file.write(view) :]  # the system may take less than all

    def sync(self) -> None:
        with _explained(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


_CANNOT_CREATE: Final = 73
_NO_PERMISSION: Final = 77

_REMEDIES: Final = {
    errno.ENOSPC: ("the disk is full; free some space and start again", _CANNOT_CREATE),
    errno.EDQUOT: ("your disk quota is used up; free some space and start again", _CANNOT_CREATE),
    errno.EROFS: ("the disk is read-only; choose another folder with --datadir", _CANNOT_CREATE),
    errno.ENOTDIR: ("a file is where a folder should be; choose another --datadir", _CANNOT_CREATE),
    errno.EIO: ("the disk reports an error; check its health before you go on", _CANNOT_CREATE),
    errno.EACCES: ("permission denied; give yourself access or use --datadir", _NO_PERMISSION),
    errno.EPERM: ("not permitted; give yourself access or use --datadir", _NO_PERMISSION),
}


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what an operator can fix into one line that says how."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0)
        if remedy is None:
            raise
        raise ConfigError(f"{path}: {remedy[0]}", exit_code=remedy[1]) from error
