"""A second implementation, of payloads and updates: see second.py."""

import math
import struct
from collections.abc import Sequence

Matrix = list[list[int]]

BASIS: Matrix = [
    [
        round(2048 * math.sqrt((2 if f else 1) / 64) * math.cos(math.pi * ((2 * i + 1) * f) / 128))
        for f in range(64)
    ]
    for i in range(64)
]


def read_payload(raw: bytes, chunks: int) -> list[tuple[list[int], list[int], int]]:
    """Of each chunk: slots, signs, value."""
    k = struct.unpack("<H", raw[1:3])[0]
    r = len(bin((4096 - k) // (k + 1) // 2)) - 2 if (4096 - k) // (k + 1) > 1 else 0
    fixed = (bit for byte in raw[3:] for bit in f"{byte:08b}"[::-1])
    unary = "".join(f"{byte:08b}"[::-1] for byte in raw[3 + -(-chunks * (1 + k * (1 + r)) // 8) :])
    *zeros, _ = (len(run) for run in unary.split("1"))
    code = 128
    read = []
    for at in range(0, len(zeros), k + 1):
        folded = 2 * zeros[at] + int(next(fixed))
        code = (code + (-(folded + 1) // 2 if folded % 2 else folded // 2)) % 256
        slot, slots, signs = -1, [], []
        for quotient in zeros[at + 1 : at + 1 + k]:
            signs.append(-1 if next(fixed) == "1" else 1)
            slot += 1 + (quotient << r) + sum(int(next(fixed)) << bit for bit in range(r))
            slots.append(slot)
        read.append((slots, signs, (16 + (code & 15)) << (code >> 4)))
    return read


def add_votes(chunks: Sequence[tuple[list[int], list[int], int]]) -> list[int]:
    """The votes of all payloads for one chunk."""
    energies = [value * value * len(slots) for slots, _, value in chunks]
    median = sorted(energies)[(len(chunks) - 1) // 2]
    votes = [0] * 4096
    for slots, signs, value in chunks:
        clipped = min(value, math.isqrt(median // len(slots)))
        for slot, sign in zip(slots, signs, strict=True):
            votes[slot] += sign * clipped
    return votes


def invert(votes: list[int]) -> str:
    """Signs of a chunk, as the vectors write them."""
    rows = [votes[at : at + 64] for at in range(0, 4096, 64)]
    moved = _multiply(BASIS, _shift(_multiply(_shift(rows), _transpose(BASIS))))
    return "".join("-0+"[(x > 0) - (x < 0) + 1] for row in moved for x in row)


def _shift(rows: Matrix) -> Matrix:
    s = max(max(abs(x) for row in rows for x in row).bit_length() - 10, 0)
    half = 1 << s >> 1
    return [[(1 if x > 0 else -1) * min((abs(x) + half) >> s, 1023) for x in row] for row in rows]


def _transpose(rows: Matrix) -> Matrix:
    return [list(column) for column in zip(*rows, strict=True)]


def _multiply(a: Matrix, b: Matrix) -> Matrix:
    columns = _transpose(b)
    return [[sum(x * y for x, y in zip(row, c, strict=True)) for c in columns] for row in a]
