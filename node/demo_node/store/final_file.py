"""What a node must know after a restart so that it does not leave its final record (rule 19).

The final record, and the state of the chain at one that is not after it: from there on records are
read back from the log, so that forks since then are known. One file, replaced as a whole.
"""

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from demo_node.store.atomic import write_atomic
from demo_node.store.disk import Disk
from demo_protocol.answers import decode_chain_state, encode_chain_state
from demo_protocol.errors import Reject
from demo_protocol.finality import Final as FinalRecord
from demo_protocol.limits import HASH_BYTES
from demo_protocol.roster import ChainState

_TAG: Final = b"demo-node/final/1\n"
_NUMBERS: Final = struct.Struct(">qq")
_FIXED: Final = len(_TAG) + 2 * HASH_BYTES + _NUMBERS.size


@dataclass(frozen=True, slots=True)
class KeptFinal:
    """`final` is None where nothing is final yet; `state` is of a record not after it."""

    final: FinalRecord | None
    state: ChainState


def write_final(disk: Disk, path: Path, run_id: bytes, kept: KeptFinal) -> None:
    """Durable when it returns. Raises ConfigError when the disk takes nothing."""
    final = kept.final or FinalRecord(bytes(HASH_BYTES), 0, 0)
    content = (
        _TAG
        + run_id
        + final.record
        + _NUMBERS.pack(final.round, final.height)
        + encode_chain_state(kept.state)
    )
    write_atomic(disk, path, content + hashlib.sha256(content).digest())


def read_final(disk: Disk, path: Path, run_id: bytes) -> KeptFinal | None:
    """What was written last; None where there is nothing, or what was not written by us."""
    try:
        raw = disk.read(path)
    except FileNotFoundError:
        return None
    content, checksum = raw[:-HASH_BYTES], raw[-HASH_BYTES:]
    if hashlib.sha256(content).digest() != checksum or not content.startswith(_TAG + run_id):
        return None
    record = content[len(_TAG) + HASH_BYTES : _FIXED - _NUMBERS.size]
    round_, height = _NUMBERS.unpack(content[_FIXED - _NUMBERS.size : _FIXED])
    try:
        state = decode_chain_state(content[_FIXED:])
    except Reject:  # of another version
        return None
    return KeptFinal(FinalRecord(record, round_, height) if height else None, state)
