import io
import json
import logging
import math
from collections.abc import Iterator

import pytest
import structlog

from demo_node.observe.log import configure_log
from demo_node.observe.observers import LogObserver, Observers
from demo_node.views import NodeState, Outcome
from tests.control.fake_node import round_view, status_view


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_round_is_one_json_line() -> None:
    out = io.StringIO()
    observer = LogObserver(configure_log("auto", "info", out))
    observer.on_round(round_view(6, loss=math.nan))
    observer.on_round(round_view(7, outcome=Outcome.SKIPPED))
    first, second = lines(out)
    assert first["event"] == "round.closed"
    assert first["level"] == "info"
    assert first["round"] == 6
    assert first["loss"] is None
    assert str(first["ts"]).endswith("Z")
    assert second["level"] == "warning"


def test_a_state_is_told_when_it_changes() -> None:
    out = io.StringIO()
    observer = LogObserver(configure_log("json", "info", out))
    for state in (NodeState.WAITING, NodeState.WAITING, NodeState.ACTIVE):
        observer.on_status(status_view(state=state))
    assert [line["state"] for line in lines(out)] == ["waiting", "active"]


def test_levels_filter() -> None:
    out = io.StringIO()
    observer = LogObserver(configure_log("json", "warning", out))
    observer.on_message("headers", "rejected")
    observer.on_event("peer.joined", peer="a")
    observer.on_event("trainer.lost", exit_code=-9)
    assert [line["event"] for line in lines(out)] == ["trainer.lost"]


def test_what_libraries_log_has_the_same_form() -> None:
    out = io.StringIO()
    configure_log("json", "info", out)
    logging.getLogger("some.library").warning("hot: %d", 7)
    logging.getLogger("libp2p.network").error("a peer dropped")
    (line,) = lines(out)
    assert line["event"] == "hot: 7"
    assert line["logger"] == "some.library"


def test_a_line_for_a_terminal_is_short() -> None:
    out, whole = io.StringIO(), io.StringIO()
    view = round_view(123_456, loss=1.23456, record=b"\xab" * 32)
    LogObserver(configure_log("json", "info", whole)).on_round(view)
    observer = LogObserver(configure_log("console", "info", out))
    observer.on_round(view)
    observer.on_event("digest.differed", author="cd" * 32, base="ef" * 32)
    round_line, event_line = out.getvalue().splitlines()
    assert len(round_line) <= 140
    assert "round=123456" in round_line
    assert "loss=1.2346" in round_line
    assert "digest=3f9c0000 " in round_line
    assert event_line.endswith("digest.differed author=cdcdcdcd base=efefefef")
    (document,) = lines(whole)
    assert document["digest"] == "3f9c000000000001", "programs get all of it"
    assert document["record"] == "ab" * 6
    assert document["payload_bytes"] == 8_192


def test_a_terminal_gets_one_line_for_a_round() -> None:
    out = io.StringIO()
    observer = LogObserver(configure_log("console", "info", out))
    observer.on_event("head.changed", head="ab" * 32, rolled_back=0)
    observer.on_round(round_view(6, loss=math.nan))
    observer.on_event("head.changed", head="cd" * 32, rolled_back=2)
    round_line, fork_line = out.getvalue().splitlines()
    assert "round.closed round=6" in round_line
    assert "loss" not in round_line, "there was none"
    assert fork_line.endswith("head.changed head=cdcdcdcd rolled_back=2")


def test_what_libraries_log_is_shown_on_a_terminal() -> None:
    out = io.StringIO()
    configure_log("console", "info", out)
    logging.getLogger("some.library").warning("hot: %d", 7)
    (line,) = out.getvalue().splitlines()
    assert line.endswith("[warning] hot: 7 [some.library]")


def test_observers_all_hear_everything() -> None:
    out = io.StringIO()
    log = configure_log("json", "debug", out)
    both = Observers([LogObserver(log), LogObserver(log)])
    both.on_event("a.b")
    both.on_op("apply", 0.1)
    assert [line["event"] for line in lines(out)] == ["a.b", "a.b", "op.ended", "op.ended"]
