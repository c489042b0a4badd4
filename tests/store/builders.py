"""Valid by default: what the tests of this room put into the store."""

import hashlib
import json
from collections.abc import AsyncIterator

from demo_node.store.chainlog import ChainEntry
from demo_node.store.corpus import Corpus, build_corpus
from demo_node.store.snapshot_info import SnapshotInfo

RUN = hashlib.sha256(b"run").digest()


def name(number: int) -> bytes:
    """A record's hash."""
    return hashlib.sha256(b"record %d" % number).digest()


def chain_entry(number: int = 0, raw: bytes | None = None) -> ChainEntry:
    bundle = b"bundle %d" % number if raw is None else raw
    return ChainEntry(name(number), name(number - 1), number, bundle)


def snapshot_info(round_: int = 0, run_id: bytes = RUN) -> SnapshotInfo:
    return SnapshotInfo(
        run_id=run_id,
        record=name(round_),
        round=round_,
        height=round_,
        digest=bytes([round_ % 256]) * 8,
        chain_state=b"state %d" % round_,
    )


def tensors(fill: int = 7, numel: int = 12) -> bytes:
    """A safetensors file with one fp32 tensor whose bytes are all `fill`."""
    entry = {"dtype": "F32", "shape": [numel], "data_offsets": [0, 4 * numel]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "embed.weight": entry}).encode()
    return len(header).to_bytes(8, "little") + header + bytes([fill]) * (4 * numel)


async def pieces(raw: bytes, size: int = 11) -> AsyncIterator[bytes]:
    for start in range(0, len(raw), size):
        yield raw[start : start + size]


def corpus(seed: int = 0, blocks: int = 9, block_bytes: int = 1024) -> Corpus:
    """Text without repetition; the last block is short."""
    words = range(seed << 20, (seed << 20) + blocks * block_bytes // 32)
    text = b"".join(hashlib.sha256(b"%d" % word).digest() for word in words)[:-100]
    return build_corpus("stdlib-bytes", text[:-500], text[-500:], block_bytes)
