"""Vectors: the blob protocol's frames, and what is asked and answered in them."""

import hashlib
from typing import Any

from demo_node.ports import Blob
from demo_protocol.answers import HeadAnswer, encode_head, encode_peers, encode_time
from demo_protocol.identity import compute_lot
from demo_protocol.pb import wire_pb2
from demo_protocol.pool import Pool
from demo_protocol.reconcile import compute_comparison_ms
from demo_protocol.schedule import (
    contribute_end_ms,
    coverage_cut_ms,
    round_start_ms,
    settle_start_ms,
    slot_start_ms,
    train_end_ms,
)
from demo_protocol.sets import Difference, Summary, encode_difference, encode_summary
from tests.protocol_vectors.making import MANIFEST, PEERS, RUN_ID, make_header


def asking_case() -> dict[str, Any]:
    """Requests and replies to the byte; fingerprints; the moments of a round."""
    pool = Pool(PEERS[0])
    heard = [make_header(1, 5, RUN_ID), make_header(2, 5, RUN_ID)]
    for header in [*heard, make_header(2, 5, RUN_ID, samples=17)]:  # 2 signs twice
        pool.add_header(header)
    nothing = Pool(PEERS[0]).fingerprint(5)
    summary = Summary(4, (nothing, pool.fingerprint(5)), hashlib.sha256(RUN_ID).digest()[:16])
    names = tuple(header.hash for header in heard)
    head = HeadAnswer(
        head=names[0],
        round=5,
        snapshot_record=RUN_ID,
        height=4,
        syncing=False,
        final=RUN_ID,
        snapshot_root=names[1],
        payloads_from=2,
    )
    return {
        "requests": {
            "time": _frame(Blob.TIME),
            "payload": _frame(Blob.PAYLOAD, heard[0].body.payload_hash),
            "headers": _frame(Blob.HEADERS, b"".join(names)),
            "records, up to 3": _frame(Blob.RECORDS, names[0], 3),
            "sets": _frame(Blob.SETS, encode_summary(summary)),
        },
        "replies": {
            "not held": _reply(None),
            "time 1700000000000": _reply(encode_time(1_700_000_000_000)),
            "head": _reply(encode_head(head)),
            "peers": _reply(encode_peers(["/ip4/192.0.2.1/tcp/4001"])),
            "sets": _reply(encode_difference(Difference(names[0], 5, names, (RUN_ID,)))),
        },
        "kinds": {kind.name: kind.value for kind in Blob},
        "headers": [header.raw.hex() for header in heard],
        "fingerprints": {
            "of no header": nothing.hex(),
            "of the first, and 2 signed twice": pool.fingerprint(5).hex(),
        },
        "lot of 1 in 5 at 0": compute_lot(PEERS[0], 5, PEERS[1]).hex(),
        "moments of round 3, ms after genesis": _moments(),
    }


def _frame(kind: Blob, key: bytes = b"", limit: int = 0) -> str:
    message = wire_pb2.BlobRequest(kind=kind, key=key, limit=limit).SerializeToString()
    return (len(message).to_bytes(8, "big") + message).hex()


def _reply(body: bytes | None) -> str:
    if body is None:
        return (b"\1" + bytes(8)).hex()
    return (b"\0" + len(body).to_bytes(8, "big") + body).hex()


def _moments() -> dict[str, int]:
    schedule = MANIFEST.schedule
    moments = {
        "begins": round_start_ms(schedule, 3),
        "train boundary": train_end_ms(schedule, 3),
        "comparison, draw 0": compute_comparison_ms(schedule, 3, 0),
        "comparison, draw 9999": compute_comparison_ms(schedule, 3, 9_999),
        "coverage cut": coverage_cut_ms(schedule, 3),
        "contribute end, slot 0": contribute_end_ms(schedule, 3),
        "slot 2": slot_start_ms(schedule, 3, 2),
        "settle": settle_start_ms(schedule, 3),
    }
    return {name: ms - schedule.genesis_ms for name, ms in moments.items()}
