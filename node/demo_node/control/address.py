"""Where a node's control socket is: one function for the node and for those who ask it."""

import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from demo_protocol.errors import ConfigError

SOCKET_PATH_BYTES_MAX: Final = 100
"""The kernel takes 107 bytes (103 on macOS); longer paths fail in bind with a bare EINVAL."""


def socket_path(datadir: Path) -> Path:
    """`run/control.sock` in the data folder, or a short path derived from it where that is long."""
    folder = datadir.absolute()
    inside = folder / "run" / "control.sock"
    if len(os.fsencode(inside)) <= SOCKET_PATH_BYTES_MAX:
        return inside
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16] + ".sock"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        outside = Path(runtime) / "demo-node" / name
        if len(os.fsencode(outside)) <= SOCKET_PATH_BYTES_MAX:
            return outside
    return Path(f"/tmp/demo-node-{os.getuid()}") / name


def prepare_socket_folder(path: Path) -> None:
    """Make the socket's folder ours alone. In /tmp somebody else may have been there first."""
    folder = path.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ConfigError(
            f"{folder} belongs to someone else; remove it or set XDG_RUNTIME_DIR", exit_code=77
        )
    folder.chmod(0o700)
