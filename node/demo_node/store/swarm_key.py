"""The key of a private swarm: a file that each of its nodes has, in the format of libp2p's others.

Three lines, as in Go's `swarm.key`: /key/swarm/psk/1.0.0/, /base16/ and 64 hexadecimal digits.
"""

import re
from pathlib import Path
from typing import Final

from demo_node.store.atomic import write_atomic
from demo_node.store.disk import PRIVATE, Disk
from demo_protocol.errors import ConfigError

_HEAD: Final = "/key/swarm/psk/1.0.0/\n/base16/\n"
_PERMISSION: Final = 77


def create_swarm_key(disk: Disk, path: Path, secret: bytes) -> None:
    """Write the 32 bytes to a new file, 0600 (fsyncs). Raises ConfigError when a file is there."""
    if path.name in disk.names(path.parent):
        raise ConfigError(f"{path}: there already; nothing is overwritten, move it away first")
    write_atomic(disk, path, f"{_HEAD}{secret.hex()}\n".encode(), mode=PRIVATE)


def load_swarm_key(disk: Disk, path: Path) -> bytes:
    """Read the 32 bytes.

    Raises ConfigError: exit code 77 when others can read it, 78 when it is missing or damaged.
    """
    try:
        mode = disk.mode(path)
        raw = disk.read(path)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no swarm key; copy the file of whoever invited you, or make one with"
            " demo-node key psk"
        ) from None
    if mode & 0o077:
        raise ConfigError(
            f"{path}: other users can read the key; run: chmod 600 '{path}'", exit_code=_PERMISSION
        )
    found = re.fullmatch(rf"{_HEAD}([0-9a-fA-F]{{64}})\s*", raw.decode("ascii", "replace"))
    if found is None:
        raise ConfigError(
            f"{path}: not a swarm key, which is /key/swarm/psk/1.0.0/, /base16/ and 64 hexadecimal"
            " digits, a line each; copy the whole file again"
        )
    return bytes.fromhex(found[1])
