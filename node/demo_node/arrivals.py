"""Payloads on their way here, for peers that ask for them before they have come.

To put a peer off until then costs one request; to tell it "not yet" costs many, and time.
"""

import asyncio
from collections import Counter

WAITING_MAX = 64
"""Peers' requests that wait: half of all that are served at once."""

UNHEARD_S = 1.0
"""A payload that nothing here asks for is not waited for any longer: its header may come."""

WAIT_MAX_S = 20.0
"""Nobody is put off longer, whatever it would bear."""


class Arrivals:
    """What is being pulled, and who waits for it."""

    def __init__(self) -> None:
        self._pulled: Counter[bytes] = Counter()
        self._fresh: dict[bytes, bytes] = {}
        """Here, and not on the disk yet."""
        self._waiting: dict[bytes, dict[asyncio.Future[bytes | None], None]] = {}
        """In the order in which they came."""
        self._count = 0

    @property
    def waiting(self) -> int:
        """Requests of peers that wait."""
        return self._count

    def begin(self, name: bytes) -> None:
        """It is being pulled from now on."""
        self._pulled[name] += 1

    def come(self, name: bytes, raw: bytes) -> None:
        """Here it is, and sound. Until `end` nobody finds it elsewhere."""
        self._fresh[name] = raw
        self._tell(name, raw)

    def end(self, name: bytes) -> None:
        """It is on the disk, or nobody wants it any more."""
        self._pulled[name] -= 1
        if self._pulled[name] <= 0:
            del self._pulled[name]
            self._fresh.pop(name, None)
            self._tell(name, None)

    async def wait(self, name: bytes, wait_s: float) -> bytes | None:
        """The payload, as soon as it is here; None where that takes too long."""
        if name in self._fresh:
            return self._fresh[name]
        if wait_s <= 0 or self._count >= WAITING_MAX:
            return None
        told = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, {})[told] = None
        self._count += 1
        wait_s = min(wait_s, WAIT_MAX_S)
        unheard_s = min(wait_s, UNHEARD_S)
        try:
            done, _ = await asyncio.wait([told], timeout=unheard_s)
            if not done and name in self._pulled:
                done, _ = await asyncio.wait([told], timeout=wait_s - unheard_s)
            return told.result() if done else None
        finally:
            self._count -= 1
            left = self._waiting.get(name, {})
            left.pop(told, None)
            if not left:
                self._waiting.pop(name, None)

    def _tell(self, name: bytes, raw: bytes | None) -> None:
        for told in self._waiting.pop(name, ()):
            if not told.done():
                told.set_result(raw)
