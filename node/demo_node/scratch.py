"""Temporary files of this process in one place, so that a killed one's do not pile up.

Sockets of the trainer and of its fork server lie there. Whoever is killed cannot tidy up; the next
node that starts does.
"""

import os
import re
import shutil
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Final

PREFIX: Final = "demo-"
"""Short: a socket's path may have 103 bytes on some systems, and theirs for this folder has 49."""

LAST: Final = -200
"""Of multiprocessing's exit priorities: its own folder has -100, the higher goes first."""

_NAME: Final = re.compile(re.escape(PREFIX) + r"(\d{1,9})-\w+")


def make_scratch() -> Path:
    """A folder for this process and its children, gone when it exits. Sweeps those of dead ones."""
    root = Path(tempfile.gettempdir())
    sweep_scratch(root)
    path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=root))
    # Not atexit: multiprocessing removes its own folder in there later than that, and complains.
    Finalize(None, shutil.rmtree, args=(path, True), exitpriority=LAST)
    os.environ["TMPDIR"] = str(path)
    tempfile.tempdir = None  # look at the environment again
    return path


def sweep_scratch(root: Path) -> None:
    """Remove our user's scratch folders whose process is gone."""
    for path in root.glob(PREFIX + "*"):
        match = _NAME.fullmatch(path.name)
        if match is not None and _is_ours(path) and not _is_alive(int(match[1])):
            shutil.rmtree(path, ignore_errors=True)


def _is_ours(path: Path) -> bool:
    try:
        return path.lstat().st_uid == os.getuid()
    except FileNotFoundError:
        return False  # another node that starts sweeps, too


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # of another user: alive all the same
    return True
