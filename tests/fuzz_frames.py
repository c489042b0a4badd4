"""Frames from a hostile peer, by the million: everything that a peer can send but payloads.

    python -m tests.fuzz_frames --runs 1000000      make fuzz-frames: the same

Nearly all are sound frames with some damage, sometimes two grown together; half of what is signed
is signed anew after it, as a hostile member can; the rest is noise. For each must hold: nothing is
raised but what says whose fault it is (Reject, Ignore, Garbage, NotHeld, an error of the
negotiation, and for a manifest ConfigError); memory stays below a multiple of the frame's length;
and what a node keeps of all that it hears has a bound.

Payloads have tests/fuzz_payload.py. Inputs are drawn from a seed: the same ones every time.
"""

import argparse
import os
import random
import resource
import sys
import time
import tracemalloc
from collections import Counter
from typing import Final

from google.protobuf.message import DecodeError
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError

from demo_node.mesh.blob_frames import Garbage
from demo_node.ports import NotHeld
from demo_node.sim.keys import cheap_sign, peer_name
from demo_protocol.errors import ConfigError, Ignore, Reject
from demo_protocol.identity import Kind, signing_bytes
from demo_protocol.limits import SETS_REPLY_BYTES_MAX
from demo_protocol.pb import wire_pb2
from tests.builders import RUN_ID, Tree
from tests.frames import ROUND, Node, Sort, make_sorts

OUR_WORDS: Final = (
    *(Reject, Ignore, Garbage, NotHeld, ConfigError),
    *(DecodeError, MultiselectCommunicatorError),
)
"""What a decoder may raise. Each is caught where it is called, which its own tests show."""

BYTES_PER_BYTE, BYTES_BESIDE = 400, 64 << 10
"""Memory for each byte of a frame, and beside that. An empty submessage is two bytes on the wire,
and here an object of protobuf's and one of ours."""

MEASURED_EVERY: Final = 64
FRESH_EVERY: Final = 4096
"""After so many frames a node begins anew: else it would know all that can be known."""


# --- making inputs -------------------------------------------------------------------------------


def flip(raw: bytearray, dice: random.Random) -> None:
    """A bit."""
    if raw:
        raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)


def cut(raw: bytearray, dice: random.Random) -> None:
    """A piece away."""
    at = dice.randrange(len(raw) + 1)
    del raw[at : at + dice.choice([1, 2, 8, 64, len(raw)])]


def put(raw: bytearray, dice: random.Random) -> None:
    """Bytes in, of such as are lengths, tags and ends of numbers."""
    at = dice.randrange(len(raw) + 1)
    raw[at:at] = dice.choice(
        [b"\0", b"\xff", b"\x80", b"\x7f", b"\x0a\0", b"\x12\0"]
    ) * dice.choice([1, 2, 9, 10, 200])


def repeat(raw: bytearray, dice: random.Random) -> None:
    """A piece again: in protobuf, fields may come twice."""
    at = dice.randrange(len(raw) + 1)
    raw += raw[at : at + dice.randrange(1, 99)] * dice.choice([1, 2, 50])


DAMAGES: Final = (flip, flip, flip, cut, put, repeat)
INPUT_BYTES_MAX: Final = min(64 << 10, SETS_REPLY_BYTES_MAX)


def make_input(sort: Sort, dice: random.Random) -> bytes:
    """One frame."""
    if dice.random() < 0.05:
        return dice.randbytes(dice.choice([0, 1, 7, 64, 999]))
    raw = bytearray(dice.choice(sort.sound))
    if sort.kind is not None and dice.random() < 0.5:
        return sign_anew(raw, sort.kind, dice)
    if dice.random() < 0.1:
        raw += dice.choice(sort.sound)
    for _ in range(dice.choice([0, 1, 1, 2, 5])):
        dice.choice(DAMAGES)(raw, dice)
    return bytes(raw[:INPUT_BYTES_MAX])


def sign_anew(raw: bytearray, kind: Kind, dice: random.Random) -> bytes:
    """Damage inside, under a signature that holds: what a member could send."""
    envelope = wire_pb2.Signed.FromString(bytes(raw))
    body = bytearray(envelope.body)
    for _ in range(dice.choice([1, 2])):
        dice.choice(DAMAGES)(body, dice)
    by = peer_name(dice.randrange(9))
    if dice.random() < 0.7 and len(body) > 40:  # as its own, or as another's
        start = bytes(envelope.body).find(b"\x12\x20") + 2
        body[start : start + 32] = by
    signature = cheap_sign(by)(signing_bytes(kind, RUN_ID, bytes(body)))
    signed = wire_pb2.Signed(body=bytes(body), signature=signature, content=envelope.content)
    return signed.SerializeToString()


# --- judging -------------------------------------------------------------------------------------


class Fuzzing:
    """Frames drawn from a seed, and what became of them."""

    def __init__(self, seed: int) -> None:
        tree = Tree()
        first = tree.start(4)
        records = [first, *tree.grow_all(first, range(1, ROUND), range(4))]
        self.node = Node(tree, records)
        self.sorts = make_sorts(self.node)
        self.dice = random.Random(seed)
        self.verdicts: Counter[tuple[str, str]] = Counter()
        self.peak_per_byte = 0.0

    def run(self, count: int) -> None:
        """So many frames. Raises whatever a decoder should not have raised."""
        names = tuple(self.sorts)
        for number in range(count):
            if number % FRESH_EVERY == 0:
                self.node.begin_anew()
            name = names[number % len(names)]
            raw = make_input(self.sorts[name], self.dice)
            try:
                verdict = self.judge(name, raw, is_measured=number % MEASURED_EVERY == 0)
            except Exception as error:
                error.add_note(f"{name}: {raw.hex()}")
                raise
            self.verdicts[name, verdict] += 1

    def judge(self, name: str, raw: bytes, *, is_measured: bool) -> str:
        """Taken, or the name of what was raised."""
        if is_measured:
            tracemalloc.start()
        verdict = "taken"
        try:
            self.sorts[name].read(raw)
        except OUR_WORDS as error:
            verdict = type(error).__name__
        if is_measured:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            bound = BYTES_PER_BYTE * len(raw) + BYTES_BESIDE
            assert peak <= bound, f"{peak} bytes of memory for a frame of {len(raw)}"
            self.peak_per_byte = max(self.peak_per_byte, peak / (len(raw) + 64))
        return verdict


def main() -> int:
    """Fuzz, and tell what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_frames")
    parser.add_argument("--runs", type=int, default=1_000_000, help="frames; 1000000")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    fuzzing, begin_s = Fuzzing(asked.seed), time.monotonic()
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fuzzing.run(asked.runs)
    after_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = [
        f"{asked.runs} frames in {time.monotonic() - begin_s:.0f} s,"
        f" {time.process_time():.0f} of a processor; load {os.getloadavg()[0]:.1f}",
        f"memory {before_kb >> 10} MiB before, {after_kb >> 10} MiB at most; one frame"
        f" {fuzzing.peak_per_byte:.0f} bytes for each of its bytes at most",
    ]
    for name in fuzzing.sorts:
        found = {v: n for (sort, v), n in fuzzing.verdicts.items() if sort == name}
        told = ", ".join(f"{n} {v}" for v, n in sorted(found.items(), key=lambda item: -item[1]))
        lines.append(f"{name:>15}: {told}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
