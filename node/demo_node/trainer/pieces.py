"""Long byte strings in pieces: gRPC refuses messages over 4 MiB by default."""

from collections.abc import Iterable, Iterator
from typing import Final

PIECE_BYTES: Final = 128 << 10
"""A message of 2 MiB takes 2 to 10 ms of the event loop's time, one of this size half of one; 48 MB
in pieces of 64 KiB to 2 MiB are equally fast."""


def iterate_pieces(parts: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """The bytes of `parts`, one after the other, in pieces of at most PIECE_BYTES.

    Small parts share a piece; no step copies more than one piece.
    """
    held: list[memoryview] = []
    room = PIECE_BYTES
    for part in parts:
        view = memoryview(part)
        while view:
            held.append(view[:room])
            view = view[room:]
            room -= len(held[-1])
            if room == 0:
                yield b"".join(held)
                held, room = [], PIECE_BYTES
    if held:
        yield b"".join(held)
