"""The data folder: where everything lies, and the lock that keeps a second daemon out."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from demo_node.store.atomic import sweep_temporaries
from demo_node.store.disk import Disk
from demo_protocol.errors import ConfigError

_LOCKED: Final = 73
_PERMISSION: Final = 77


@dataclass(frozen=True, slots=True)
class DataDir:
    """Paths of one node's folder."""

    path: Path

    @property
    def config(self) -> Path:
        """The operator's choices."""
        return self.path / "config.toml"

    @property
    def key(self) -> Path:
        """The node's identity (0600)."""
        return self.path / "node.key"

    @property
    def manifest(self) -> Path:
        """What all peers of the run have in common."""
        return self.path / "manifest.json"

    @property
    def initial(self) -> Path:
        """State 0 of a run that goes on from a snapshot."""
        return self.path / "initial.safetensors"

    @property
    def chain_log(self) -> Path:
        """Records with their headers."""
        return self.path / "chain.log"

    @property
    def signed_log(self) -> Path:
        """What this node has signed (rule 10)."""
        return self.path / "signed.log"

    @property
    def final(self) -> Path:
        """The record that this node never leaves (rule 19)."""
        return self.path / "final"

    @property
    def peers(self) -> Path:
        """Known peers' addresses."""
        return self.path / "peers.json"

    @property
    def payloads(self) -> Path:
        """Compressed contributions of the last rounds."""
        return self.path / "payloads"

    @property
    def snapshots(self) -> Path:
        """Parameters at some records."""
        return self.path / "snapshots"

    @property
    def momentum(self) -> Path:
        """What a restart would lose of what was learned and not sent yet."""
        return self.path / "momentum.safetensors"

    @property
    def corpus(self) -> Path:
        """Training text by its root."""
        return self.path / "corpus"

    @property
    def lock(self) -> Path:
        """Held by the running daemon; contains its pid."""
        return self.path / "lock"


def open_datadir(disk: Disk, path: Path) -> DataDir:
    """Make the folder and its rooms (0700) where missing.

    Raises ConfigError: exit code 73 when it cannot be made, 77 when others may write to it.
    """
    path = Path(os.path.abspath(path))
    datadir = DataDir(path)
    _make_parents(path)
    if not disk.names(path):
        _make_folder(disk, path)
    if path.stat().st_mode & 0o022:
        raise ConfigError(
            f"{path}: other users can write to it; run: chmod go-w '{path}'", exit_code=_PERMISSION
        )
    for folder in (datadir.payloads, datadir.snapshots, datadir.corpus):
        disk.make_folder(folder)
    return datadir


@contextmanager
def hold_lock(disk: Disk, datadir: DataDir) -> Iterator[None]:
    """Be the only daemon on this folder; also removes temporary files of a crashed one.

    The system gives the lock back when the process dies, however it dies. Raises ConfigError with
    exit code 73, naming the holder's pid, while another process has it.
    """
    try:
        fd = os.open(datadir.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"{datadir.lock}: cannot be opened ({error.strerror}); choose another --datadir",
            exit_code=_LOCKED,
        ) from error
    try:
        _lock(fd, datadir)
        try:
            os.ftruncate(fd, 0)
            with suppress(OSError):  # a full disk: who holds the lock is a courtesy
                os.pwrite(fd, b"%d\n" % os.getpid(), 0)
            for folder in (datadir.path, datadir.snapshots, datadir.corpus):
                sweep_temporaries(disk, folder)
            yield
        finally:
            os.ftruncate(fd, 0)  # a start that was refused leaves the folder as it was
    finally:
        os.close(fd)


def _lock(fd: int, datadir: DataDir) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN):
            raise ConfigError(
                f"{datadir.lock}: this file system has no locks ({error.strerror});"
                " choose a --datadir on a local disk",
                exit_code=_LOCKED,
            ) from error
        pid = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
        raise ConfigError(
            f"{datadir.path}: in use by the demo-node with pid {pid};"
            " stop it first or choose another --datadir",
            exit_code=_LOCKED,
        ) from error


def _make_folder(disk: Disk, path: Path) -> None:
    try:
        disk.make_folder(path)
        path.chmod(0o700)  # an empty folder someone made for us
    except FileNotFoundError:  # where the system itself makes the folders, as in /proc
        raise ConfigError(
            f"{path}: no folder can be made there; choose another --datadir", exit_code=_LOCKED
        ) from None


def _make_parents(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be made ({error.strerror}); choose another --datadir",
            exit_code=_LOCKED,
        ) from error
