"""How long a connection may be silent, in virtual time."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import pytest
import trio
import trio.testing

from demo_node.mesh.account import Totals
from demo_node.mesh.transport import MeteredStream
from demo_node.mesh.yamux import PatientYamux


@dataclass
class Line:
    """A connection over which nothing comes; `unacknowledged` is what the peer's kernel lacks."""

    unacknowledged: int
    bytes_in: int = 0
    pings: int = 0
    _rtt: float = 0.02
    stream_buffers: dict[int, bytes] = field(default_factory=dict)
    aborted_s: float | None = None
    waiting: int = 0
    has_most_waiting: bool = False
    _silent: int = 0

    @property
    def _stream(self) -> "Line":
        return self

    async def _ping(self) -> None:
        self.pings += 1

    def abort(self) -> None:
        self.aborted_s = trio.current_time()


def watch(line: Line) -> float:
    """Seconds until it is given up."""

    async def run() -> float:
        begin_s = trio.current_time()
        with trio.fail_after(60):
            await PatientYamux._measure_rtt_loop(cast(PatientYamux, line))
        assert line.aborted_s is not None
        return line.aborted_s - begin_s

    return trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))


def test_who_got_what_we_sent_and_says_nothing_is_frozen() -> None:
    line = Line(unacknowledged=0)
    assert 3 < watch(line) <= 5
    assert line.pings >= 3


def test_who_has_not_got_it_may_be_behind_our_own_full_uplink() -> None:
    assert 8 < watch(Line(unacknowledged=5000)) <= 10


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_socket_tells_what_is_under_way_and_a_closed_one_nothing(is_closed: bool) -> None:
    async def run() -> int:
        listener, *_ = await trio.open_tcp_listeners(0, host="127.0.0.1")
        one = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        other = await listener.accept()
        with trio.move_on_after(0.2):  # nobody reads: in the end nobody takes it any more
            await one.send_all(bytes(1 << 26))
        inner, tcp = SimpleNamespace(stream=one), SimpleNamespace(totals=Totals())
        metered = MeteredStream(inner, tcp, trio.CancelScope())  # type: ignore[arg-type]
        if is_closed:
            one.socket.close()
        found = metered.unacknowledged
        for stream in (one, other, listener):
            await stream.aclose()
        return found

    assert (trio.run(run) == 0) is is_closed
