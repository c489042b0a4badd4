"""What can keep a node from saving its last state must not keep it from leaving."""

import asyncio
from types import SimpleNamespace

import pytest

from demo_node.node import _leave
from demo_node.ports import LearnerLost
from demo_node.trainer.settings import UnknownState
from demo_protocol.errors import ConfigError


class Leaving:
    """The parts of a node that leaving asks for, and what was said."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.said: list[tuple[str, object]] = []
        self.driver = self.outbox = self.snapshotting = self.operations = self.observer = self

    def leave(self) -> None:
        pass

    async def flush(self) -> None:
        pass

    def status(self) -> SimpleNamespace:
        return SimpleNamespace(round_ms=3_000)

    async def save_head(self) -> None:
        raise self.error

    def on_event(self, name: str, **fields: object) -> None:
        self.said.append((name, fields.get("reason")))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (LearnerLost(), "the trainer has died"),
        (UnknownState("not held yet"), "the trainer has died"),
        (ConfigError("the disk is full"), "the disk is full"),
    ],
    ids=["no trainer", "a trainer that is new", "no room"],
)
def test_a_last_state_that_cannot_be_saved_is_a_line_and_no_crash(
    error: Exception, reason: str
) -> None:
    node = Leaving(error)
    asyncio.run(_leave(node))  # type: ignore[arg-type]
    assert node.said == [("snapshot.missed", reason)]
