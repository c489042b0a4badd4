"""The pictures of the dashboards show what a query answered, in units that can be read."""

import math
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from tests.monitoring.boards import BOARDS, Mark, load, panels, read_marks
from tests.monitoring.draw import COLUMN_PX, UNIT_PX, Span, draw, pick_colour, read
from tests.monitoring.values import format_value

SPAN = Span(1_000_000.0, 1_000_060.0, 2.0)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.3834, "s", "383 ms"),
        (-0.05, "s", "-50 ms"),
        (4.0, "s", "4 s"),
        (0.0, "s", "0 s"),
        (0.000446, "s", "446 µs"),
        (1_234_567.0, "bytes", "1.18 MiB"),
        (0.0, "bytes", "0 B"),
        (12_345.0, "Bps", "12.3 kB/s"),
        (0.98, "percentunit", "98%"),
        (1.025, "percentunit", "102.5%"),
        (31_700.0, "short", "31.7 K"),
        (math.nan, "s", "–"),
    ],
)
def test_values_are_written_in_their_unit(value: float, unit: str, text: str) -> None:
    assert format_value(value, unit) == text


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_is_drawn_in_its_grid(name: str, tmp_path: Path) -> None:
    labels = {"le": "3.0", "instance": "a", "phase": "settle", "state": "active"}
    points = [[moment, "1.5"] for moment in range(1_000_010, 1_000_050, 2)]
    answer = [{"metric": labels, "values": points}, {"metric": {"le": "+Inf"}, "values": points}]
    draw(load(name), lambda _: answer, SPAN, "", tmp_path / "board.png")
    draw(load(name), lambda _: [], SPAN, "", tmp_path / "empty.png")
    rows, columns, _ = matplotlib.image.imread(tmp_path / "board.png").shape
    units = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels(load(name)))
    assert abs(columns - 24 * COLUMN_PX) <= 1
    assert abs(rows - (units + 2) * UNIT_PX) <= 1
    assert (tmp_path / "board.png").stat().st_size > (tmp_path / "empty.png").stat().st_size


def test_a_series_is_read_with_its_gaps_and_its_name() -> None:
    (panel,) = [p for p in panels(load("swarm")) if p["title"] == "Clocks: offset by node"]
    answer: list[dict[str, Any]] = [
        {"metric": {"instance": "birch"}, "values": [[1_000_004, "0.25"], [1_000_058, "-1"]]}
    ]
    (series,) = read(panel, lambda _: answer, SPAN)
    assert series.name == "birch"
    assert series.values[2] == 0.25
    assert series.values[29] == series.last == -1
    assert sum(not math.isnan(value) for value in series.values) == 2


def test_what_is_late_is_red() -> None:
    (slack,) = [p for p in panels(load("swarm")) if p["title"] == "Least slack"]
    assert pick_colour(slack, -0.001) != pick_colour(slack, 0.001) == "#73bf69"


def test_marks_are_moments_that_follow_one_another() -> None:
    """Down twice, and started when the value says; what is switched off is not asked."""
    down, starts, off = (
        {"expr": "up", "titleFormat": "{{instance}} away", "useValueForTime": False},
        {"expr": "start", "titleFormat": "{{instance}} starts", "useValueForTime": True},
        {"expr": "off", "titleFormat": "", "useValueForTime": False},
    )
    board = {
        "annotations": {
            "list": [
                down | {"enable": True, "iconColor": "red"},
                starts | {"enable": True, "iconColor": "blue"},
                down | {"expr": "never", "enable": True, "iconColor": "red"},
                off | {"enable": False, "iconColor": "blue"},
            ]
        }
    }
    answers = {
        "up": [[2, "0"], [4, "1"], [6, "1"], [8, "0"], [10, "1"]],
        "never": [[2, "0"], [4, "0"]],
        "start": [[2, "-1000"], [4, "-1000"], [10, "9000"]],
    }
    found = read_marks(
        board, lambda query: [{"metric": {"instance": "a"}, "values": answers[query]}], 3
    )
    assert found == [
        Mark(-1, -1, "a starts", "blue"),
        Mark(4, 6, "a away", "red"),
        Mark(9, 9, "a starts", "blue"),
        Mark(10, 10, "a away", "red"),
    ]
