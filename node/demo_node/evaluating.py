"""Looking now and then at what the head has learned: the held-out loss, the same everywhere."""

import math
import time

from demo_node.observer import RoundObserver
from demo_node.ports import Learner, LearnerLost
from demo_node.round import RoundDriver
from demo_protocol.errors import ConfigError


class Evaluating:
    """Evaluates the head of every `every`th round; 0: none.

    By the round's number, so that nodes look at the same records and equal replicas show equal
    losses. Rounds go on meanwhile, beside it on the same cores: the loss comes when it comes.
    """

    def __init__(
        self, driver: RoundDriver, learner: Learner, observer: RoundObserver, every: int
    ) -> None:
        self._driver = driver
        self._learner = learner
        self._observer = observer
        self._every = every
        self._record = b""
        self.loss = math.nan
        """In nats per byte; NaN before the first look."""
        self.round = -1
        """Of the record that `loss` is of; -1 before the first look."""

    async def run(self) -> None:
        """Look whenever an update of such a round has become the head, for ever.

        What is due while the last look is still going on is left out.
        """
        while self._every:
            await self._driver.wait_for_head_change()
            if self._is_due():
                await self._look()

    def _is_due(self) -> bool:
        """Not while syncing: the trainer has rounds to replay, and nobody waits for old losses."""
        head = self._driver.view.head_state
        is_chosen = head.round % self._every == 0 and head.record != self._record
        return is_chosen and not self._driver.machine.syncing

    async def _look(self) -> None:
        """What is in the way (no trainer, state, memory, time) is no fault: the next may tell."""
        head = self._driver.view.head_state
        begin_s = time.perf_counter()
        try:
            loss = await self._learner.evaluate(head.record)
        except (LearnerLost, LookupError, ConfigError):
            return
        self._observer.on_op("evaluate", time.perf_counter() - begin_s)
        self.loss, self.round, self._record = loss, head.round, head.record
