import asyncio
import io
import json
from pathlib import Path

import pytest
import structlog

from demo_node import daemon
from demo_node.config import Config
from demo_node.observe.limits import BURST, WINDOW_S, RepeatLimit
from demo_node.observe.log import NodeLog
from demo_node.observe.meter import Meter
from demo_node.observe.observers import LogObserver, Observers
from demo_protocol.errors import ConfigError
from tests.control.fake_node import status_view


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Lines:
    """A log into memory, as JSON, under a clock that only the test moves."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.out = io.StringIO()
        stamp = structlog.processors.TimeStamper(key="ts")
        render = structlog.processors.JSONRenderer()
        self.log = NodeLog(self.out, "debug", [render], stamp, self.clock, {})

    def write(self, *numbers: int, level: str = "warning", **fields: object) -> None:
        for number in numbers:
            self.log.write(level, "a.b", number=number, **fields)

    def read(self) -> list[tuple[int, int]]:
        """(number, suppressed) of each line."""
        lines = [json.loads(line) for line in self.out.getvalue().splitlines()]
        return [(line["number"], line.get("suppressed", 0)) for line in lines]


SHOWN = [(number, 0) for number in range(BURST)]


def test_repeated_warnings_are_held_back_and_counted_on_the_next_one() -> None:
    lines = Lines()
    lines.write(*range(20))
    assert lines.read() == SHOWN
    lines.clock.now_s = WINDOW_S
    lines.write(20)
    assert lines.read() == [*SHOWN, (20, 20 - BURST)]


def test_the_last_one_held_back_is_told_when_nothing_comes_after_it() -> None:
    lines = Lines()
    lines.write(*range(20))
    lines.clock.now_s = WINDOW_S - 1
    lines.log.write_held()
    assert lines.read() == SHOWN
    lines.clock.now_s = WINDOW_S
    lines.log.write_held()
    lines.log.write_held()
    assert lines.read() == [*SHOWN, (19, 20 - BURST - 1)]


def test_the_end_of_the_process_tells_what_is_held_back() -> None:
    lines = Lines()
    lines.write(*range(BURST + 1))
    lines.log.close()
    assert lines.read() == [*SHOWN, (BURST, 0)], "one was held back, and it came out itself"


@pytest.mark.parametrize("ticks", [1, 7, 500])
def test_nothing_is_lost_in_a_long_storm(ticks: int) -> None:
    lines = Lines()
    for number in range(5_000):
        lines.write(number)
        lines.clock.now_s += 0.3
        if number % ticks == 0:
            lines.log.write_held()
    lines.log.close()
    told = lines.read()
    assert len(told) + sum(suppressed for _, suppressed in told) == 5_000
    windows = 5_000 * 0.3 / WINDOW_S
    assert len(told) <= (BURST + 1) * (windows + 1)


def test_what_is_no_warning_is_not_held_back() -> None:
    lines = Lines()
    lines.write(*range(50), level="info")
    lines.write(*range(50), level="debug")
    assert len(lines.read()) == 100


def test_kinds_do_not_hold_each_other_back() -> None:
    limit = RepeatLimit(Clock())
    for kind in range(100):
        line = {"event": f"kind.{kind}", "level": "error"}
        assert limit(None, "", line) is line
    for number in range(BURST):
        limit(None, "", {"event": f"text {number}", "logger": "a.library", "level": "warning"})
    with pytest.raises(structlog.DropEvent):
        limit(None, "", {"event": "another text", "logger": "a.library", "level": "warning"})


def test_a_quiet_kind_is_forgotten() -> None:
    clock = Clock()
    limit = RepeatLimit(clock)
    limit(None, "", {"event": "a.b", "level": "warning"})
    clock.now_s = WINDOW_S
    assert limit.take_due() == []
    assert not limit._windows


def test_what_is_held_back_is_counted_in_the_metrics() -> None:
    lines, meter = Lines(), Meter()
    observer = Observers([meter, LogObserver(lines.log)])
    for _ in range(50):
        observer.on_event("message.rejected", number=0)
    assert len(lines.read()) == BURST
    assert meter.registry.get_sample_value("demo_events_total", {"event": "message.rejected"}) == 50


def test_a_look_at_the_status_tells_what_is_due() -> None:
    lines = Lines()
    observer = LogObserver(lines.log)
    observer.on_status(status_view())
    begun = len(lines.out.getvalue())
    lines.write(*range(BURST + 2))
    lines.clock.now_s = WINDOW_S
    observer.on_status(status_view())
    *_, last = (json.loads(line) for line in lines.out.getvalue()[begun:].splitlines())
    assert (last["number"], last["suppressed"]) == (BURST + 1, 1)


@pytest.mark.usefixtures("libraries_log_as_before")
def test_a_node_that_fails_tells_what_it_held_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(config: Config, show: object, log: NodeLog) -> int:
        for number in range(9):
            log.write("warning", "a.b", number=number)
        raise ConfigError("the disk is full")

    monkeypatch.setattr(daemon, "_be_a_node", fail)
    with pytest.raises(ConfigError):
        asyncio.run(daemon._main(Config(datadir=tmp_path), print))
    *_, last = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (last["number"], last["suppressed"]) == (8, 9 - BURST - 1)
