"""One payload that headers of two rounds name: an honest one, and one that copied its hash."""

import asyncio
import hashlib
from typing import Any, cast

import numpy as np

from demo_node.fetching import Fetcher
from demo_node.sim.whole.silent_observer import SilentObserver
from demo_protocol.effects import PullPayload
from demo_protocol.events import Event, PayloadsHeld
from demo_protocol.payload import Payload, encode_payload
from tests.builders import view

EARLY, LATE = 4, 7


class SlowPeers:
    """Give a payload once they are told to; ports of which nothing else is used."""

    def __init__(self, payload: bytes) -> None:
        self.may_give = asyncio.Event()
        self.asked = 0
        self._payload = payload

    async def pull_payload(self, *_arguments: object) -> bytes:
        self.asked += 1
        await self.may_give.wait()
        return self._payload


class Shelf:
    """A store of payloads in memory."""

    def __init__(self) -> None:
        self.rounds: dict[bytes, list[int]] = {}

    async def read_payload(self, _payload_hash: bytes) -> bytes | None:
        return None

    async def keep_payload(self, round_: int, payload_hash: bytes, _raw: bytes) -> None:
        await asyncio.sleep(0)
        self.rounds.setdefault(payload_hash, []).append(round_)


class Clock:
    def now_ms(self) -> int:
        return 0


def test_it_is_pulled_once_and_held_for_both_rounds() -> None:
    believed = view()
    k, chunks = believed.manifest.learning.k, believed.schema.chunks
    raw = encode_payload(
        Payload(
            k=k,
            positions=np.tile(np.arange(k, dtype=np.uint16), (chunks, 1)),
            negative=np.zeros((chunks, k), dtype=np.bool_),
            scales=np.full(chunks, 7, dtype=np.uint8),
        )
    )
    name = hashlib.sha256(raw).digest()
    told: list[Event] = []

    async def pull() -> tuple[SlowPeers, Shelf]:
        peers, shelf = SlowPeers(raw), Shelf()
        parts = (believed, peers, shelf, Clock(), SilentObserver(), told.append, None)
        fetcher = Fetcher(*cast(Any, parts))
        first = asyncio.create_task(fetcher.pull_payload(PullPayload(name, len(raw), k, EARLY, ())))
        await asyncio.sleep(0)
        for round_ in (LATE, EARLY, LATE):
            await fetcher.pull_payload(PullPayload(name, len(raw), k, round_, ()))
        peers.may_give.set()
        await first
        return peers, shelf

    peers, shelf = asyncio.run(pull())
    assert peers.asked == 1
    assert shelf.rounds == {name: [EARLY, LATE]}
    assert told == [PayloadsHeld(0, EARLY, (name,)), PayloadsHeld(0, LATE, (name,))]
