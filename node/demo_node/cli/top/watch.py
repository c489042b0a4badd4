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

from demo_node.cli.top.draw import Look, draw
from demo_node.cli.top.reading import ROUNDS_READ, Reading, Readings
from demo_node.control.client import ControlClient, NotAnswering, NotRunning
from demo_protocol.errors import ConfigError

REDRAW_S: Final = 0.5
"""The running round moves on between two answers, and the window may change its size."""

QUIT_KEYS: Final = b"qQ\x03"


class NodeEnded(ConfigError):
    """The node that was watched is gone."""

    def __init__(self, datadir: Path) -> None:
        super().__init__(
            f"the node in {datadir} has ended; start it with: demo-node start --datadir {datadir}",
            exit_code=69,
        )


class Asker:
    """Asks a node everything that the screen shows; keeps its newest answers."""

    def __init__(self, client: ControlClient) -> None:
        self._client = client
        self._readings = Readings()
        self._newest: Reading | None = None
        self._answered_s = 0.0
        self._asked_s: float | None = None

    async def ask(self) -> Reading:
        """The node's answers now. Raises NotRunning, NotAnswering or Refused."""
        if self._asked_s is None:  # else it still owes an answer
            self._asked_s = time.monotonic()
        status = await self._client.status()
        rounds = await self._client.rounds(limit=ROUNDS_READ)
        swarm = await self._client.swarm()
        health = await self._client.health()
        self._answered_s, self._asked_s = time.monotonic(), None
        self._newest = self._readings.add(status, rounds, swarm, health, self._answered_s)
        return self._newest

    async def run(self, interval_s: float) -> None:
        """Ask until the node is gone: then raises NotRunning. A silent one may speak again."""
        while True:
            await asyncio.sleep(interval_s)
            with contextlib.suppress(NotAnswering):
                await self.ask()

    def look(self) -> Reading:
        """The newest answers, and how old they are. `ask` must have succeeded once."""
        assert self._newest is not None
        now_s = time.monotonic()
        silent_s = 0.0 if self._asked_s is None else now_s - self._asked_s
        return replace(self._newest, age_s=now_s - self._answered_s, silent_s=silent_s)


@dataclass(slots=True)
class _Leave:
    """What the one who watches wants: to go, or (Ctrl-Z) to have the shell for a while."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    to_come_back: bool = False

    def for_good(self) -> None:
        self.asked.set()

    def for_a_while(self) -> None:
        self.to_come_back = True
        self.asked.set()


async def watch(client: ControlClient, datadir: Path, console: Console, interval_s: float) -> None:
    """A full screen until q, Ctrl-C or SIGTERM; Ctrl-Z puts it aside until `fg`.

    Raises NodeEnded where the node goes first.
    """
    while await _watch_until_left(client, datadir, console, interval_s):
        # The terminal is the shell's again, and this signal does what it usually does: here the
        # process stops until `fg`, unless there is no shell that could continue it.
        signal.raise_signal(signal.SIGTSTP)


async def _watch_until_left(
    client: ControlClient, datadir: Path, console: Console, interval_s: float
) -> bool:
    """Is it only for a while? What was asked before is forgotten then: it is long ago."""
    asker, leave = Asker(client), _Leave()
    await asker.ask()  # what is wrong from the beginning is said without a screen
    asking = asyncio.create_task(asker.run(interval_s))
    try:
        with _left_by_keys_and_signals(leave), _screen(console) as live:
            while not leave.asked.is_set() and not asking.done():
                color = console.color_system is not None and not console.no_color
                look = Look(console.width, console.height, color)
                live.update(draw(asker.look(), look), refresh=True)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(leave.asked.wait(), min(REDRAW_S, interval_s))
        if asking.done():
            asking.result()
    except NotRunning:
        raise NodeEnded(datadir) from None
    finally:
        asking.cancel()
    return leave.to_come_back


def _screen(console: Console) -> Live:
    return Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop")


@contextlib.contextmanager
def _left_by_keys_and_signals(leave: _Leave) -> Iterator[None]:
    """Keys come one by one and unseen meanwhile; the terminal is as before afterwards."""
    loop = asyncio.get_running_loop()
    leaving = dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), leave.for_good)
    leaving[signal.SIGTSTP] = leave.for_a_while
    for number, act in leaving.items():
        loop.add_signal_handler(number, act)
    try:
        with _single_keys(leave) if sys.stdin.isatty() else contextlib.nullcontext():
            yield
    finally:
        for number in leaving:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _single_keys(leave: _Leave) -> Iterator[None]:
    loop, terminal = asyncio.get_running_loop(), sys.stdin.fileno()

    def on_key() -> None:
        pressed = os.read(terminal, 1)
        if not pressed or pressed in QUIT_KEYS:
            leave.for_good()

    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    loop.add_reader(terminal, on_key)
    try:
        yield
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
