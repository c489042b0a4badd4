"""Asking the node again and again, and drawing what it says until somebody has seen enough."""

import asyncio
import contextlib
import os
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from demo_node.cli.top.draw import Look, draw, draw_waiting
from demo_node.cli.top.reading import ROUNDS_READ, Reading, Readings
from demo_node.control.client import (
    ControlClient,
    NotAnswering,
    NotRunning,
    Refused,
    control_client,
)

REDRAW_S: Final = 0.5
"""The running round moves on between two answers, and the window may change its size."""

QUIT_KEYS: Final = b"qQ\x03"
EXPLAIN_KEYS: Final = b"?hH"


class Asker:
    """Asks a node everything that the screen shows; keeps its newest answers.

    `gone_since_s`: when it was found to have ended, by the monotonic clock.
    """

    def __init__(self) -> None:
        self.gone_since_s: float | None = None
        self._readings = Readings()
        self._newest: Reading | None = None
        self._answered_s = 0.0
        self._asked_s: float | None = None

    async def ask(self, client: ControlClient) -> Reading:
        """The node's answers now. Raises NotRunning, NotAnswering or Refused."""
        if self._asked_s is None:  # else it still owes an answer
            self._asked_s = time.monotonic()
        status = await client.status()
        rounds = await client.rounds(limit=ROUNDS_READ)
        swarm = await client.swarm()
        health = await client.health()
        self._answered_s, self._asked_s = time.monotonic(), None
        self.gone_since_s = None
        self._newest = self._readings.add(status, rounds, swarm, health, self._answered_s)
        return self._newest

    async def run(self, datadir: Path, interval_s: float) -> None:
        """Ask on and on. A silent node may speak again, one that ended may be started again."""
        self._asked_s = None  # of a question before Ctrl-Z nobody awaits the answer
        while True:
            with contextlib.suppress(NotRunning):
                async with control_client(datadir) as client:
                    await self._ask_until_gone(client, interval_s)
            self._asked_s = None
            if self.gone_since_s is None:
                self.gone_since_s = time.monotonic()
            await asyncio.sleep(interval_s)

    async def _ask_until_gone(self, client: ControlClient, interval_s: float) -> None:
        while True:
            await asyncio.sleep(interval_s)
            with contextlib.suppress(NotAnswering, Refused):  # Refused: it is just ending
                await self.ask(client)

    def look(self) -> Reading:
        """The newest answers, and how old they are. `ask` must have succeeded once."""
        assert self._newest is not None
        now_s = time.monotonic()
        silent_s = 0.0 if self._asked_s is None else now_s - self._asked_s
        return replace(self._newest, age_s=now_s - self._answered_s, silent_s=silent_s)


@dataclass(slots=True)
class _Wish:
    """What the one who watches wants: to go, (Ctrl-Z) the shell for a while, words explained."""

    woken: asyncio.Event = field(default_factory=asyncio.Event)
    is_leaving: bool = False
    to_come_back: bool = False
    is_explained: bool = False

    def for_good(self) -> None:
        self.is_leaving = True
        self.woken.set()

    def for_a_while(self) -> None:
        self.to_come_back = True
        self.for_good()

    def on_key(self, key: bytes) -> None:
        """None: the terminal is gone."""
        if not key or key in QUIT_KEYS:
            self.is_leaving = True
        else:
            self.is_explained = key in EXPLAIN_KEYS and not self.is_explained
        self.woken.set()


async def watch(client: ControlClient, datadir: Path, console: Console, interval_s: float) -> None:
    """A full screen until q, Ctrl-C or SIGTERM; Ctrl-Z puts it aside until `fg`.

    Raises NotRunning where no node is there at first. For one that ends later, it waits.
    """
    asker = Asker()
    await asker.ask(client)  # what is wrong from the beginning is said without a screen
    while await _watch_until_left(asker, datadir, console, interval_s):
        # The terminal is the shell's again, and this signal does what it usually does: here the
        # process stops until `fg`, unless there is no shell that could continue it.
        signal.raise_signal(signal.SIGTSTP)


async def _watch_until_left(
    asker: Asker, datadir: Path, console: Console, interval_s: float
) -> bool:
    """Is it only for a while?"""
    wish = _Wish()
    asking = asyncio.create_task(asker.run(datadir, interval_s))
    try:
        with _wished_by_keys_and_signals(wish), _screen(console) as live:
            while not wish.is_leaving and not asking.done():
                live.update(_draw(asker, datadir, console, wish), refresh=True)
                wish.woken.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(wish.woken.wait(), min(REDRAW_S, interval_s))
        if asking.done():
            asking.result()
    finally:
        asking.cancel()
    return wish.to_come_back


def _draw(asker: Asker, datadir: Path, console: Console, wish: _Wish) -> Text:
    if asker.gone_since_s is not None:
        return draw_waiting(datadir, time.monotonic() - asker.gone_since_s)
    color = console.color_system is not None and not console.no_color
    look = Look(
        console.width,
        console.height,
        color,
        has_keys=sys.stdin.isatty(),
        is_explained=wish.is_explained,
    )
    return draw(asker.look(), look)


def _screen(console: Console) -> Live:
    return Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop")


@contextlib.contextmanager
def _wished_by_keys_and_signals(wish: _Wish) -> Iterator[None]:
    """Keys come one by one and unseen meanwhile; the terminal is as before afterwards."""
    loop = asyncio.get_running_loop()
    leaving = dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), wish.for_good)
    leaving[signal.SIGTSTP] = wish.for_a_while
    for number, act in leaving.items():
        loop.add_signal_handler(number, act)
    try:
        with _single_keys(wish) if sys.stdin.isatty() else contextlib.nullcontext():
            yield
    finally:
        for number in leaving:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _single_keys(wish: _Wish) -> Iterator[None]:
    loop, terminal = asyncio.get_running_loop(), sys.stdin.fileno()

    def on_key() -> None:
        wish.on_key(os.read(terminal, 1))

    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    loop.add_reader(terminal, on_key)
    try:
        yield
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
