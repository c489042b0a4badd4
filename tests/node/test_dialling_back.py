"""Who asks to be dialled back is, where it is seen, and not more often than is decent."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import pytest

from demo_node.dialling_back import AT_ONCE_MAX, HOST_PAUSE_S, PAUSE_S, DialsBack
from demo_node.ports import Busy, Unreachable
from demo_protocol.answers import decode_dial_back, encode_port
from demo_protocol.reach import DialBack

PORT = 4001
KEY = encode_port(PORT)


class Stage:
    """A mesh that notes whom it was told to dial, and a clock."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.seen: dict[bytes, str] = {}
        self.dialled: list[tuple[bytes, int]] = []
        self.fault: Exception | None = None
        self.hangs: asyncio.Event | None = None
        self.door = DialsBack(self.dial, lambda peer: self.seen.get(peer, ""), lambda: self.now_s)

    async def dial(self, peer: bytes, port: int) -> DialBack | None:
        self.dialled.append((peer, port))
        if self.hangs:
            await self.hangs.wait()
        if self.fault:
            raise self.fault
        return DialBack(f"{self.seen[peer]}/tcp/{port}", reached=True)

    def peer(self, number: int, host: str = "") -> bytes:
        name = bytes([number]) * 32
        self.seen[name] = host or f"/ip4/9.9.{number}.1"
        return name

    async def ask(self, peer: bytes, key: bytes = KEY) -> bool:
        raw = await self.door.answer(peer, key)
        return raw is not None and decode_dial_back(raw, PORT).reached


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_who_asks_is_told_what_came_of_it() -> None:
    async def play() -> None:
        stage = Stage()
        assert await stage.ask(stage.peer(1))
        assert stage.dialled == [(bytes([1]) * 32, PORT)]

    run(play())


@pytest.mark.parametrize("key", [b"", b"\0\0", b"\x0f", b"\x0f\xa1\0", b"/ip4/1.2.3.4/tcp/9"])
def test_a_question_that_is_none_has_nobody_dialled(key: bytes) -> None:
    async def play() -> None:
        stage = Stage()
        assert not await stage.ask(stage.peer(1), key)
        assert not stage.dialled

    run(play())


@pytest.mark.parametrize(
    "host", ["/dns4/victim.example", "/memory/1", "", "/ip4/9.9.1.1/tcp/4001/p2p/relay/p2p-circuit"]
)
def test_who_is_not_seen_at_a_number_is_not_dialled(host: str) -> None:
    async def play() -> None:
        stage = Stage()
        peer = stage.peer(1)
        stage.seen[peer] = host
        assert not await stage.ask(peer)
        assert not stage.dialled

    run(play())


@pytest.mark.parametrize(
    ("host", "other"),
    [
        ("/ip4/9.9.1.1", "/ip4/9.9.1.1"),
        ("/ip6/2a00::1", "/ip6/2a00::2"),
        ("/ip6/2a00::1", "/ip6/2a00::ffff:ffff:ffff:ffff"),
    ],
)
def test_one_host_with_many_keys_is_dialled_once_in_a_while(host: str, other: str) -> None:
    async def play() -> None:
        stage = Stage()
        assert await stage.ask(stage.peer(1, host))
        stage.now_s += HOST_PAUSE_S - 1
        assert not await stage.ask(stage.peer(2, other))
        stage.now_s += 1
        assert await stage.ask(stage.peer(2, other))
        assert len(stage.dialled) == 2

    run(play())


def test_many_hosts_are_dialled_one_after_the_other_and_forgotten() -> None:
    async def play() -> None:
        stage = Stage()
        answered = 0
        for number in range(200):
            stage.now_s += PAUSE_S / 2
            with contextlib.suppress(Busy):  # to be asked again soon, and not like who was dialled
                answered += await stage.ask(stage.peer(number))
        assert answered == 100
        assert not await stage.ask(stage.peer(198))
        assert len(stage.door._dialled_s) <= HOST_PAUSE_S / PAUSE_S + 1

    run(play())


def test_dials_that_nobody_answers_are_few() -> None:
    async def play() -> None:
        stage = Stage()
        stage.hangs = asyncio.Event()
        waiting = []
        for number in range(AT_ONCE_MAX):
            waiting.append(asyncio.create_task(stage.ask(stage.peer(number))))
            await asyncio.sleep(0)
            stage.now_s += PAUSE_S
        with pytest.raises(Busy):
            await stage.ask(stage.peer(99))
        stage.hangs.set()
        assert all(await asyncio.gather(*waiting))
        stage.now_s += PAUSE_S
        assert await stage.ask(stage.peer(99))

    run(play())


def test_a_mesh_that_has_gone_is_no_answer() -> None:
    async def play() -> None:
        stage = Stage()
        stage.fault = Unreachable("gone")
        assert not await stage.ask(stage.peer(1))
        stage.fault = None
        stage.now_s += PAUSE_S
        assert await stage.ask(stage.peer(2))

    run(play())
