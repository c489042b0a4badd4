"""What a snapshot's file says of itself: its name, its metadata, the checksum file beside it."""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from demo_node.store.tensorfile import NotTensors
from demo_protocol.limits import DIGEST_BYTES, HASH_BYTES

FORMAT: Final = "demo-node/snapshot/1"

_ROUND: Final = re.compile(r"-?\d{1,18}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotInfo:
    """What a snapshot says of itself. `chain_state` is a ChainState of wire.proto, encoded."""

    run_id: bytes
    record: bytes
    round: int
    height: int
    digest: bytes
    chain_state: bytes


def compute_name(info: SnapshotInfo) -> str:
    """Name of a snapshot's file."""
    return f"{info.round}-{info.record.hex()[:16]}.safetensors"


def compute_checksum_line(name: str, sha256: bytes) -> bytes:
    """What stands in the checksum file of the snapshot file `name`."""
    return f"{sha256.hex()}  {name}\n".encode()


def compute_checksum_path(path: Path) -> Path:
    """Where the SHA-256 of a snapshot file stands."""
    return path.with_name(path.name + ".sha256")


def encode_info(info: SnapshotInfo) -> dict[str, str]:
    """The metadata of a snapshot's file."""
    return {
        "demo.format": FORMAT,
        "demo.run_id": info.run_id.hex(),
        "demo.record": info.record.hex(),
        "demo.round": str(info.round),
        "demo.height": str(info.height),
        "demo.digest": info.digest.hex(),
        "demo.chain_state": base64.b64encode(info.chain_state).decode(),
    }


def decode_info(metadata: Mapping[str, str]) -> SnapshotInfo:
    """What a snapshot's metadata says of it. Raises NotTensors where it is none."""
    if metadata.get("demo.format") != FORMAT:
        raise NotTensors("it is not a snapshot of a run, or of a newer version")
    try:
        state = base64.b64decode(metadata.get("demo.chain_state", ""), validate=True)
    except (binascii.Error, ValueError):
        raise NotTensors("its chain state is damaged") from None
    return SnapshotInfo(
        run_id=_decode_hex(metadata, "demo.run_id", HASH_BYTES),
        record=_decode_hex(metadata, "demo.record", HASH_BYTES),
        round=_decode_integer(metadata, "demo.round"),
        height=_decode_integer(metadata, "demo.height"),
        digest=_decode_hex(metadata, "demo.digest", DIGEST_BYTES),
        chain_state=state,
    )


def _decode_hex(metadata: Mapping[str, str], key: str, length: int) -> bytes:
    try:
        value = bytes.fromhex(metadata.get(key, ""))
    except ValueError:
        value = b""
    if len(value) != length:
        raise NotTensors(f"its {key} is damaged")
    return value


def _decode_integer(metadata: Mapping[str, str], key: str) -> int:
    text = metadata.get(key, "")
    if not _ROUND.fullmatch(text):
        raise NotTensors(f"its {key} is damaged")
    return int(text)
