import asyncio
import io
import json
import logging
import math
from pathlib import Path

import pytest

from demo_node.observe.limits import BURST
from demo_node.observe.log import open_log
from demo_node.observe.observers import LogObserver, Observers
from demo_node.views import NodeState, Outcome
from tests.control.fake_node import round_view, status_view

pytestmark = pytest.mark.usefixtures("libraries_log_as_before")


def lines(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_round_is_one_json_line() -> None:
    out = io.StringIO()
    observer = LogObserver(open_log("auto", "info", out))
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
    observer = LogObserver(open_log("json", "info", out))
    for state in (NodeState.WAITING, NodeState.WAITING, NodeState.ACTIVE):
        observer.on_status(status_view(state=state))
    assert [line["state"] for line in lines(out)] == ["waiting", "active"]


def test_levels_filter() -> None:
    out = io.StringIO()
    observer = LogObserver(open_log("json", "warning", out))
    observer.on_message("headers", "rejected")
    observer.on_event("snapshot.saved", path="a")
    observer.on_event("trainer.died", exit_code=-9)
    observer.on_event("key.in_use")
    observer.on_event("nobody.declared_this")
    told = [(line["event"], line["level"]) for line in lines(out)]
    assert told == [
        ("trainer.died", "warning"),
        ("key.in_use", "error"),
        ("nobody.declared_this", "warning"),
    ]


def test_what_libraries_log_has_the_same_form() -> None:
    out = io.StringIO()
    open_log("json", "info", out)
    logging.getLogger("some.library").warning("hot: %d", 7)
    logging.getLogger("libp2p.network").error("a peer dropped")
    (line,) = lines(out)
    assert line["event"] == "hot: 7"
    assert line["logger"] == "some.library"


def test_a_line_for_a_terminal_is_short() -> None:
    out, whole = io.StringIO(), io.StringIO()
    view = round_view(123_456, loss=1.23456, record=b"\xab" * 32)
    LogObserver(open_log("json", "info", whole)).on_round(view)
    observer = LogObserver(open_log("console", "info", out))
    observer.on_round(view)
    observer.on_event("digest.differed", author="cd" * 32, base="ef" * 32)
    round_line, event_line = out.getvalue().splitlines()
    assert len(round_line) <= 80
    assert round_line.endswith("round.closed round=123456 from=4 loss=1.2346 latency=2.6s")
    assert event_line.endswith("digest.differed author=cdcdcdcd base=efefefef")
    (document,) = lines(whole)
    assert document["digest"] == "3f9c000000000001", "programs get all of it"
    assert document["record"] == "ab" * 6
    assert document["payload_bytes"] == 8_192
    assert document["latency_ms"] == 2_600


def test_what_is_unusual_about_a_round_is_shown() -> None:
    out = io.StringIO()
    observer = LogObserver(open_log("console", "info", out))
    nothing = {"record": b"", "participants": 0, "included": False, "latency_ms": 0}
    observer.on_round(round_view(158, outcome=Outcome.SKIPPED, loss=1.5, **nothing))
    observer.on_round(round_view(159, outcome=Outcome.LATE, loss=1.5))
    observer.on_round(round_view(160, loss=1.23456, included=False, latency_ms=12_345))
    skipped, late, left_out = out.getvalue().splitlines()
    assert skipped.endswith("[warning] round.closed round=158 outcome=skipped loss=1.5")
    assert late.endswith(
        "[warning] round.closed round=159 outcome=late from=4 loss=1.5 latency=2.6s"
    )
    assert left_out.endswith("round=160 from=4 ours=no loss=1.2346 latency=12.35s")


def test_a_terminal_gets_one_line_for_a_round() -> None:
    out = io.StringIO()
    observer = LogObserver(open_log("console", "info", out))
    observer.on_event("head.changed", head="ab" * 32, rolled_back=0)
    observer.on_round(round_view(6, loss=math.nan))
    observer.on_event("head.changed", head="cd" * 32, rolled_back=2)
    round_line, fork_line = out.getvalue().splitlines()
    assert "round.closed round=6" in round_line
    assert "loss" not in round_line, "there was none"
    assert fork_line.endswith("head.changed head=cdcdcdcd rolled_back=2")


def test_what_libraries_log_is_shown_on_a_terminal() -> None:
    out = io.StringIO()
    open_log("console", "info", out)
    logging.getLogger("some.library").warning("hot: %d", 7)
    (line,) = out.getvalue().splitlines()
    assert line.endswith("[warning] hot: 7 [some.library]")


@pytest.mark.parametrize(
    ("ms", "shown"), [(-4_980, "-4.98s"), (7, "0.007s"), (123_456, "123.46s"), (0, "0s")]
)
def test_a_terminal_gets_seconds(ms: int, shown: str) -> None:
    out = io.StringIO()
    LogObserver(open_log("console", "info", out)).on_event("clock.corrected", moved_ms=ms)
    assert out.getvalue().endswith(f"clock.corrected moved={shown}\n")


def test_a_terminal_gets_the_end_of_a_long_path() -> None:
    out = io.StringIO()
    path = "/home/" + "a/" * 100 + "snapshots/1200-3f9c0a1b2c3d4e5f.safetensors"
    LogObserver(open_log("console", "info", out)).on_event("snapshot.saved", path=path)
    (line,) = out.getvalue().splitlines()
    assert len(line) < 110
    assert line.endswith("/snapshots/1200-3f9c0a1b2c3d4e5f.safetensors")


def test_a_terminal_is_not_told_the_data_folder_again() -> None:
    out, whole = io.StringIO(), io.StringIO()
    path = "/srv/GPU1/run/snapshots/1200-3f9c0a1b2c3d4e5f.safetensors"
    for format_, stream in (("console", out), ("json", whole)):
        log = open_log(format_, "info", stream, folder=Path("/srv/GPU1/run"))
        LogObserver(log).on_event("snapshot.saved", path=path)
        LogObserver(log).on_event("snapshot.saved", path="/srv/GPU1/running/x")
    below, elsewhere = out.getvalue().splitlines()
    assert below.endswith("path=snapshots/1200-3f9c0a1b2c3d4e5f.safetensors")
    assert elsewhere.endswith("path=/srv/GPU1/running/x")
    assert lines(whole)[0]["path"] == path


def test_a_json_line_says_whose_it_is() -> None:
    out, shown = io.StringIO(), io.StringIO()
    log = open_log("json", "info", out)
    observer = LogObserver(log)
    observer.on_event("progress.made", detail="nobody yet")
    view = status_view(state=NodeState.STARTING, run_id=bytes(32))
    observer.on_status(view)
    observer.on_status(status_view(state=NodeState.ACTIVE, run_id=b"\xab" * 32))
    logging.getLogger("some.library").warning("hot")
    nobody, starting, active, hot = lines(out)
    assert not nobody.keys() & {"node", "run"}
    assert starting["node"] == view.peer_id
    assert "run" not in starting
    for line in (active, hot):
        assert list(line)[:5] == ["ts", "level", "event", "node", "run"]
        assert (line["node"], line["run"]) == (view.peer_id, "abababab")
    LogObserver(open_log("console", "info", shown)).on_status(view)
    assert view.peer_id not in shown.getvalue(), "a terminal is one node's"


def test_what_was_held_back_says_whose_it_is_too() -> None:
    out = io.StringIO()
    log = open_log("json", "info", out, monotonic=lambda: 0.0)
    log.context["node"] = "me"
    for _ in range(BURST + 1):
        log.write("warning", "trainer.died")
    log.close()
    assert [line["node"] for line in lines(out)] == ["me"] * (BURST + 1)


def test_every_line_has_the_round_by_the_clock() -> None:
    out = io.StringIO()
    observer = LogObserver(open_log("json", "info", out))
    observer.on_event("progress.made", detail="before genesis")
    observer.on_status(status_view(round=-1, state=NodeState.WAITING))
    observer.on_round_begun(0)
    observer.on_event("trainer.died", exit_code=-9)
    logging.getLogger("some.library").warning("hot")
    observer.on_status(status_view(round=1))
    observer.on_event("training.diverged", round=0)
    observer.on_round(round_view(0))
    before, waiting, died, hot, active, *own = lines(out)
    assert "round" not in before | waiting
    assert [line["round"] for line in (died, hot, active)] == [0, 0, 1]
    assert [line["round"] for line in own] == [0, 0], "they are about the round before"


def test_a_task_that_began_in_an_earlier_round_is_not_stale() -> None:
    out = io.StringIO()
    observer = LogObserver(open_log("json", "info", out))

    async def live() -> None:
        observer.on_round_begun(4)
        begun, over = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            begun.set()
            await over.wait()
            observer.on_event("snapshot.missed")

        task = asyncio.create_task(work())
        await begun.wait()
        observer.on_round_begun(5)
        over.set()
        await task

    asyncio.run(live())
    assert [line["round"] for line in lines(out)] == [5]


def test_skipped_rounds_are_limited_too() -> None:
    out = io.StringIO()
    log = open_log("json", "info", out, monotonic=lambda: 0.0)
    observer = LogObserver(log)
    for round_ in range(13):
        observer.on_round(round_view(round_, outcome=Outcome.SKIPPED))
    observer.on_round(round_view(13))
    log.close()
    told = [(line["round"], line["level"], line.get("suppressed")) for line in lines(out)]
    warned = [(round_, "warning", None) for round_ in range(BURST)]
    assert told == [*warned, (13, "info", None), (12, "warning", 12 - BURST)]


def test_a_librarys_error_has_its_traceback_and_no_secret() -> None:
    out = io.StringIO()
    open_log("json", "info", out)
    key = bytes(range(100, 132))
    try:
        raise ValueError(f"bad key {key!r}")
    except ValueError:
        logging.getLogger("some.library").exception("it failed")
    (line,) = lines(out)
    assert "Traceback" in str(line["exception"])
    assert "bad key <bytes>" in str(line["exception"])
    assert line["level"] == "error"


def test_observers_all_hear_everything() -> None:
    out = io.StringIO()
    log = open_log("json", "debug", out)
    both = Observers([LogObserver(log), LogObserver(log)])
    both.on_event("a.b")
    both.on_op("apply", 0.1)
    assert [line["event"] for line in lines(out)] == ["a.b", "a.b", "op.ended", "op.ended"]
