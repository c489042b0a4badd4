"""How a node is asked to end: the first signal drains, the second exits at once."""

import asyncio
import os
import signal
import time

ONE_REQUEST_S = 0.5
"""Signals this close are one request: a supervisor may signal a process and then its group."""


class Stopping:
    """One request to stop, from a signal or from the control service."""

    def __init__(self) -> None:
        self._requested = asyncio.Event()
        self._signalled_s: float | None = None

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take SIGTERM and SIGINT, before the mesh starts: trio then leaves SIGINT alone."""
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    def request(self) -> None:
        """Ask for a clean end."""
        self._requested.set()

    @property
    def requested(self) -> bool:
        """Has anybody asked?"""
        return self._requested.is_set()

    async def wait(self) -> None:
        """Return once somebody has asked."""
        await self._requested.wait()

    def _on_signal(self, number: signal.Signals) -> None:
        now_s = time.monotonic()
        if self._signalled_s is not None and now_s - self._signalled_s > ONE_REQUEST_S:
            os._exit(128 + number)  # twice means now; what matters is on disk at all times
        if self._signalled_s is None:
            self._signalled_s = now_s
        self.request()
