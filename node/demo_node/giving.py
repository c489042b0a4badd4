"""Giving payloads to whoever asks: what is here, and what is on its way here."""

from collections.abc import Awaitable, Callable

from demo_node.arrivals import Arrivals
from demo_node.copies import Copies
from demo_node.ports import BlobRequest, Busy

OnGiven = Callable[[bytes, int], None]
"""A payload was given, of so many bytes."""


class Giving:
    """Answers requests for payloads."""

    def __init__(
        self,
        read: Callable[[bytes], Awaitable[bytes | None]],
        arrivals: Arrivals,
        copies: Copies,
        on_given: OnGiven,
    ) -> None:
        """`read` finds a payload that is kept, or None."""
        self._read = read
        self._arrivals = arrivals
        self._copies = copies
        self._on_given = on_given

    async def answer(self, asking: bytes, request: BlobRequest) -> bytes | None:
        """A payload, also one that is on its way here and comes soon enough.

        Raises Busy where others should be asked first.
        """
        raw = await self._read(request.key)
        if raw is None:
            raw = await self._arrivals.wait(request.key, request.wait_ms / 1000)
        # Who catches up asks for what is here now, and knows nobody else to ask in time.
        is_of_now = bool(request.wait_ms)
        if raw is not None and is_of_now and not self._copies.may_give(request.key, asking):
            raise Busy("this node has given its payload often enough")
        return raw

    def on_answered(self, asking: bytes, request: BlobRequest, size: int) -> None:
        """So many bytes of an answer begin to leave; 0: whoever asked has called it off."""
        if request.wait_ms:
            self._copies.answered(request.key, asking, is_given=bool(size))
        if size:
            self._on_given(request.key, size)
