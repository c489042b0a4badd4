"""A learner that models only what the protocol sees: times, payload bytes and digests.

Its "parameters" are a hash chained over what was applied, so two nodes agree exactly when they
applied the same payloads in the same order.
"""

import asyncio
import functools
import hashlib
from collections.abc import AsyncIterator, Sequence
from math import prod

import numpy as np
import safetensors.numpy

from demo_node.ports import AdoptOrder, ApplyOrder, Clock, LearnerLost, Trained, TrainOrder
from demo_protocol.errors import LocalFault
from demo_protocol.limits import DIGEST_BYTES, STATE_CHUNK_BYTES
from demo_protocol.manifest import Manifest
from demo_protocol.merkle import compute_leaves
from demo_protocol.payload import Payload, encode_payload
from demo_protocol.schema import compute_schema

ENCODE_MS, APPLY_MS = 5, 5
"""What encoding and applying take: `tiny` on a quiet core."""

SAMPLES_MAX = 4096
"""Done in a round: without a limit assignments would grow by half every few rounds (rule T2)."""


class ModelLearner:
    """Implements ports.Learner without any learning."""

    def __init__(self, manifest: Manifest, clock: Clock, name: bytes) -> None:
        self._manifest = manifest
        self._clock = clock
        self._name = name
        self._schema = compute_schema(manifest.model)
        self.states: dict[bytes, bytes] = {}
        self.restored: list[int] = []
        self.released: list[int] = []
        self.adopted: list[AdoptOrder | None] = []
        self._newest = -1

    async def load(self, record: bytes, snapshot: bytes | None) -> bytes:
        """State 0, or the digest that a snapshot carries."""
        digest = _digest(b"state 0") if snapshot is None else snapshot[-DIGEST_BYTES:]
        self.states[record] = digest
        return digest

    async def train(self, order: TrainOrder) -> Trained:
        """Time passes until the boundary; then there is a payload only this node could send."""
        if order.base not in self.states:
            raise LocalFault("asked to train from a state that is not held")
        begin_ms = self._clock.now_ms()
        await self._clock.sleep_until_ms(order.deadline_ms)
        await asyncio.sleep(ENCODE_MS / 1000)
        payload = encode_payload(self._payload(order.k, order.round)) if order.k else b""
        self._newest = order.round
        samples = min(order.sample_count, SAMPLES_MAX)
        return Trained(
            round=order.round,
            base=order.base,
            payload=payload,
            k=order.k,
            samples=samples,
            tokens=samples * self._manifest.model.context,
            loss_micronats=1_000_000,
            train_ms=order.deadline_ms - begin_ms,
            encode_ms=ENCODE_MS,
            steps=samples // self._manifest.learning.micro_batch,
        )

    async def apply(self, order: ApplyOrder) -> bytes:
        """The state after a record: a hash of its parent's and of all payloads."""
        if order.parent not in self.states:
            raise LocalFault("asked to apply to a state that is not held")
        await asyncio.sleep(APPLY_MS / 1000)
        if order.parent not in self.states:
            raise LearnerLost("it died meanwhile")
        content = b"".join(hashlib.sha256(p).digest() for p in order.payloads)
        digest = _digest(self.states[order.parent] + order.round.to_bytes(8, "big") + content)
        self.states[order.record] = digest
        return digest

    async def forget(self, records: Sequence[bytes]) -> None:
        """These states are not needed any more."""
        if not self.states:
            raise LearnerLost("this trainer is new and holds no states yet")
        for record in records:
            self.states.pop(record, None)

    async def restore(self, round_: int) -> None:
        """Noted for the tests."""
        self.restored.append(round_)

    async def release(self, round_: int) -> None:
        """Noted for the tests."""
        self.released.append(round_)

    async def snapshot(self, record: bytes) -> AsyncIterator[bytes]:
        """A safetensors file made of the digest, which is all there is of a state."""
        words = np.frombuffer(_fill(self.states[record], self._schema.parameters), np.float32)
        tensors, at = {}, 0
        for name, shape in sorted(self._schema.shapes.items()):
            tensors[name] = words[at : at + prod(shape)].reshape(shape)
            at += prod(shape)
        yield safetensors.numpy.save(tensors)

    @property
    def needs_momentum(self) -> bool:
        """Until `adopt` was called."""
        return not self.adopted

    async def momentum(self) -> AsyncIterator[bytes]:
        """A safetensors file that says of which round it is, and holds nothing."""
        yield safetensors.numpy.save({}, {"demo.round": str(self._newest)})

    async def adopt(self, order: AdoptOrder | None) -> None:
        """Noted for the tests."""
        self.adopted.append(order)

    async def leaves(self, record: bytes) -> tuple[bytes, ...]:
        """Of that file's tensors."""
        return _compute_leaves(self.states[record], self._schema.parameters)

    async def tensor_digests(self, record: bytes) -> tuple[bytes, ...]:
        """All alike, since every tensor is full of the same."""
        return (self.states[record],) * len(self._schema.shapes)

    async def evaluate(self, record: bytes) -> float:
        """A number that equal states have in common."""
        return int.from_bytes(self.states[record][:2], "big") / 2**16

    async def generate(self, record: bytes, length: int) -> bytes:
        """As good as any other text."""
        return (self.states[record] * length)[:length]

    def _payload(self, k: int, round_: int) -> Payload:
        chunks = self._schema.chunks
        seed = hashlib.sha256(self._name + round_.to_bytes(8, "big")).digest()
        first = int.from_bytes(seed[:2], "big") % (4096 - k)
        return Payload(
            k=k,
            positions=np.tile(np.arange(first, first + k, dtype=np.uint16), (chunks, 1)),
            negative=np.zeros((chunks, k), dtype=np.bool_),
            scales=np.full(chunks, seed[2], dtype=np.uint8),
        )


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:DIGEST_BYTES]


def _fill(digest: bytes, parameters: int) -> bytes:
    """Parameters that say which state they are, in the end, and of which no two chunks agree."""
    count = 4 * parameters // DIGEST_BYTES
    last = np.uint64(int.from_bytes(digest, "little"))
    return (np.arange(count, dtype=np.uint64)[::-1] * np.uint64(2**32 + 1) + last).tobytes()


@functools.lru_cache(maxsize=64)
def _compute_leaves(digest: bytes, parameters: int) -> tuple[bytes, ...]:
    """Every node has the same: hashed once."""
    return compute_leaves(_fill(digest, parameters), STATE_CHUNK_BYTES)
