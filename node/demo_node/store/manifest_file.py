"""The run's manifest on disk: its canonical bytes, so `sha256sum` of two nodes' files agrees."""

from pathlib import Path
from typing import Final

from demo_node.store.atomic import write_atomic
from demo_node.store.disk import Disk
from demo_protocol.errors import ConfigError
from demo_protocol.manifest import Manifest, compute_run_id, decode_manifest, encode_manifest

OTHER: Final = 76
"""Another run, or another protocol version (sysexits.h: EX_PROTOCOL)."""

AGAIN: Final = "copy the file again from a peer's data folder"
"""Of a damaged one."""


class OtherProtocol(ConfigError):
    """The folder's run is of another protocol version: this program can read nothing of it."""


def load_manifest(disk: Disk, path: Path) -> Manifest | None:
    """The manifest, or None when there is none yet.

    Raises OtherProtocol, or ConfigError when it is damaged.
    """
    try:
        raw = disk.read(path)
    except FileNotFoundError:
        return None
    try:
        return decode_manifest(raw)
    except ConfigError as error:
        if error.exit_code == OTHER:
            raise OtherProtocol(f"{path}: {error}", exit_code=OTHER) from None
        raise ConfigError(f"{path}: {error}; {AGAIN}", exit_code=error.exit_code) from None


def save_manifest(disk: Disk, path: Path, manifest: Manifest) -> None:
    """Write the manifest (fsyncs). Raises ConfigError when the folder belongs to another run."""
    held = load_manifest(disk, path)
    if held == manifest:
        return
    if held is not None:
        raise ConfigError(
            f"{path.parent}: belongs to run {compute_run_id(held).hex()[:16]};"
            " choose another --datadir for this one",
            exit_code=OTHER,
        )
    write_atomic(disk, path, encode_manifest(manifest))
