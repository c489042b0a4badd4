"""Between the node and the process beside it: whole messages, open streams, all bounded."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from demo_node.mesh.hivemind import channel
from demo_node.mesh.hivemind.channel import MESSAGE_BYTES_MAX, Channel
from tests.mesh.hosts import on_uvloop
from tests.waiting import wait_until


class End:
    """One end, and what came to it."""

    def __init__(self, sock: socket.socket) -> None:
        self.took: list[tuple[dict[str, Any], int]] = []
        self.ended = 0
        self.channel = Channel(sock, lambda m, fd: self.took.append((m, fd)), self._end)

    def _end(self) -> None:
        self.ended += 1


@contextlib.contextmanager
def ends() -> Iterator[tuple[End, socket.socket]]:
    """An end, and the bare socket of the other one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end = End(ours)
    try:
        yield end, theirs
    finally:
        end.channel.close()
        theirs.close()


@on_uvloop
async def test_messages_come_whole_in_order_and_with_their_streams() -> None:
    with ends() as (a, sock):
        b = End(sock.dup())
        read, write = os.pipe()
        for number in range(500):
            a.channel.send({"number": number}, write if number == 250 else -1)
        await wait_until(lambda: len(b.took) == 500)
        assert [message["number"] for message, _ in b.took] == list(range(500))
        passed = {number: fd for number, (_, fd) in enumerate(b.took) if fd >= 0}
        assert list(passed) == [250]
        os.write(passed[250], b"through")
        assert os.read(read, 99) == b"through"
        os.close(passed[250])
        assert os.read(read, 99) == b""  # the sender's own descriptor is closed as well
        os.close(read)
        b.channel.close()


@pytest.mark.parametrize("garbage", [b"{", b"[]", b"x" * (MESSAGE_BYTES_MAX + 1), b"\xff"])
@on_uvloop
async def test_what_is_no_message_ends_it(garbage: bytes) -> None:
    with ends() as (a, sock):
        sock.send(b"{}")
        sock.send(garbage)
        await wait_until(lambda: a.ended)
        assert [message for message, _ in a.took] == [{}]
        assert a.ended == 1


@on_uvloop
async def test_an_end_that_is_gone_is_told_once() -> None:
    with ends() as (a, sock):
        sock.close()
        await wait_until(lambda: a.ended)
        a.channel.send({})
        await asyncio.sleep(0)
        assert a.ended == 1


@on_uvloop
async def test_a_message_that_is_too_long_is_not_sent_but_ends_it() -> None:
    with ends() as (a, sock):
        a.channel.send({"long": "x" * MESSAGE_BYTES_MAX})
        assert a.ended == 1
        assert sock.recv(99) == b""


@on_uvloop
async def test_who_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "BACKLOG_MAX", 10)
    with ends() as (a, _):
        for _ in range(1000):
            a.channel.send({"long": "x" * 10_000})
        assert a.ended == 1
