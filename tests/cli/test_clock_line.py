"""The line of `demo-node status` about the clock."""

import pytest

from demo_node.cli.show import format_clock, format_status
from demo_node.views import ClockView
from tests.control.fake_node import status_view


def clock(correction_ms: int, error_ms: int, peers: int, verified: bool) -> ClockView:
    return ClockView(correction_ms=correction_ms, error_ms=error_ms, peers=peers, verified=verified)


@pytest.mark.parametrize(
    ("view", "line"),
    [
        (clock(0, 0, 1, False), "unverified (1 peer; at least 3 are needed)"),
        (clock(0, 0, 0, False), "unverified (0 peers; at least 3 are needed)"),
        (
            clock(-4_980, 0, 2, False),
            "unverified (2 peers; at least 3 are needed), corrected by -4.98 s before",
        ),
        (clock(-4_980, 20, 3, True), "corrected by -4.98 s, within 20 ms of most of 3 peers"),
        (clock(1, 12, 5, True), "right, within 12 ms of most of 5 peers"),
    ],
)
def test_what_peers_make_of_the_clock(view: ClockView, line: str) -> None:
    assert format_clock(view) == line


def test_the_status_has_the_line() -> None:
    lines = format_status(status_view()).splitlines()
    assert f"clock       {format_clock(status_view().clock)}" in lines
