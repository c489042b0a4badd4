"""A node's real learner without a process around it, and with as much work as is asked for."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

import torch
from torch import Tensor

from demo_node.ports import AdoptOrder, ApplyOrder, Clock, Trained, TrainOrder
from demo_node.trainer.device import Devices
from demo_node.trainer.learner import LocalLearner
from demo_protocol.manifest import Manifest

CPU: Final = Devices(torch.device("cpu"), torch.device("cpu"))

NEVER_MS: Final = 1 << 53
"""After every deadline."""


class CountingClock:
    """A clock for `LocalLearner` by which exactly `looks` micro-batches fit into a round.

    Learning takes no virtual time, so a deadline would never come. The learner looks at the
    clock before each micro-batch: that often it is early, from then on it is too late.
    """

    def __init__(self, looks: int) -> None:
        self._looks = looks
        self._left = 0

    def begin_round(self) -> None:
        """It is early again."""
        self._left = self._looks

    def now_ms(self) -> int:
        """Long before any deadline, or long after."""
        self._left -= 1
        return 0 if self._left >= 0 else NEVER_MS


class InProcessLearner:
    """Implements ports.Learner with the trainer child's own LocalLearner."""

    def __init__(
        self, manifest: Manifest, corpus: Tensor, clock: Clock, micro_batches: int
    ) -> None:
        """`corpus`: uint8 [train_bytes + heldout_bytes]. `clock`: the node's, virtual."""
        self._clock = clock
        self._counting = CountingClock(micro_batches)
        self._learner = LocalLearner(manifest, corpus, CPU, self._counting.now_ms)
        self.trained: list[Trained] = []

    async def load(self, record: bytes, snapshot: bytes | None) -> bytes:
        """As LocalLearner."""
        return self._learner.load(record, snapshot)

    async def train(self, order: TrainOrder) -> Trained:
        """As LocalLearner; the result is there when the train phase is over, as on a machine."""
        self._counting.begin_round()
        trained = self._learner.train(order)
        self.trained.append(trained)
        await self._clock.sleep_until_ms(order.deadline_ms)
        return trained

    async def apply(self, order: ApplyOrder) -> bytes:
        """As LocalLearner."""
        return self._learner.apply(order)

    async def forget(self, records: Sequence[bytes]) -> None:
        """As LocalLearner."""
        self._learner.forget(records)

    async def restore(self, round_: int) -> None:
        """As LocalLearner."""
        self._learner.restore(round_)

    async def release(self, round_: int) -> None:
        """As LocalLearner."""
        self._learner.release(round_)

    async def snapshot(self, record: bytes) -> AsyncIterator[bytes]:
        """As LocalLearner."""
        for piece in self._learner.snapshot(record):
            yield piece

    @property
    def needs_momentum(self) -> bool:
        """Never: it lives as long as its node."""
        return False

    async def momentum(self) -> AsyncIterator[bytes]:
        """Nothing: it lives as long as its node."""
        nothing: tuple[bytes, ...] = ()
        for piece in nothing:
            yield piece

    async def adopt(self, order: AdoptOrder | None) -> None:
        """Not asked for."""

    async def leaves(self, record: bytes) -> tuple[bytes, ...]:
        """As LocalLearner."""
        return self._learner.leaves(record)

    async def tensor_digests(self, record: bytes) -> tuple[bytes, ...]:
        """As LocalLearner."""
        return self._learner.tensor_digests(record)

    async def evaluate(self, record: bytes) -> float:
        """As LocalLearner."""
        return self._learner.evaluate(record)

    async def generate(self, record: bytes, length: int) -> bytes:
        """As LocalLearner."""
        return self._learner.generate(record, length)
