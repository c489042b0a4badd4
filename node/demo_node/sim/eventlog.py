"""The event log: one SHA-256 over every step of every node, the same for the same seed anywhere."""

import hashlib
import struct

from demo_protocol.effects import (
    Announce,
    Apply,
    Effect,
    Finalised,
    HeadChanged,
    KeepRecord,
    Persist,
    PullRecords,
    Refused,
    Release,
    Restore,
    Train,
)
from demo_protocol.events import (
    Event,
    GossipBatch,
    PayloadsHeld,
    RootComputed,
    StartMoved,
    StateApplied,
    StatesLost,
    TrainingDone,
)

_STEP = struct.Struct("<qIQ8s")
_FLUSH_BYTES = 1 << 16
_ENDING_BYTES = 8


class EventLog:
    """Nothing of it is kept but its digest and its length."""

    def __init__(self) -> None:
        self.steps = 0
        self._hash = hashlib.sha256()
        self._waiting = bytearray()

    def digest(self) -> str:
        """SHA-256 over everything so far."""
        self._flush()
        return self._hash.hexdigest()

    def add_step(
        self, now_ms: int, node: int, event: Event, effects: list[Effect], pulls: int, head: bytes
    ) -> None:
        """A machine took one step, and stands on `head`. `pulls`: so many payloads, not listed."""
        self.steps += 1
        waiting = self._waiting
        name = _name_event(event)
        waiting += _STEP.pack(now_ms, node, len(name) + (pulls << 32), head[:_ENDING_BYTES])
        waiting += name
        for effect in effects:
            waiting += _name_effect(effect)
        if len(waiting) >= _FLUSH_BYTES:
            self._flush()

    def add_line(self, now_ms: int, node: int, line: str) -> None:
        """Whatever else happened."""
        self.steps += 1
        self._waiting += _STEP.pack(now_ms, node, len(line), b"") + line.encode()

    def _flush(self) -> None:
        self._hash.update(self._waiting)
        self._waiting.clear()


def _name_event(event: Event) -> bytes:
    """A few bytes that tell it from others of this node and moment."""
    match event:
        case GossipBatch(_, messages):  # the end of a signature, or of a proposal's content
            return b"".join([raw[-_ENDING_BYTES:] for _, raw, _ in messages])
        case PayloadsHeld(_, _, hashes):
            return b"".join([name[:_ENDING_BYTES] for name in hashes])
        case StateApplied(digest=digest):
            return digest[:_ENDING_BYTES]
        case RootComputed(_, record, root):
            return record[:_ENDING_BYTES] + root[:_ENDING_BYTES]
        case StatesLost(_, record, digest):
            return b"lost" + record[:_ENDING_BYTES] + digest[:_ENDING_BYTES]
        case StartMoved(_, state, digest):
            return b"moved" + state.record[:_ENDING_BYTES] + digest[:_ENDING_BYTES]
        case TrainingDone(payload_hash=name):
            return name[:_ENDING_BYTES]
        case _:
            return type(event).__name__.encode()[:_ENDING_BYTES]


def _name_effect(effect: Effect) -> bytes:
    match effect:
        case Announce(raw=raw):
            return raw[-_ENDING_BYTES:]
        case Persist(hash=name):
            return name
        case Apply(record=name) | KeepRecord(record=name) | PullRecords(record=name):
            return name[:_ENDING_BYTES]
        case HeadChanged(head=name):
            return name[:_ENDING_BYTES]
        case Finalised(record=name):
            return b"final" + name[:_ENDING_BYTES]
        case Release(round_):
            return struct.pack("<7sq", b"release", round_)
        case Restore(round_):
            return struct.pack("<7sq", b"restore", round_)
        case Refused(_, _, error):
            return type(error).__name__.encode()
        case Train(sample_first=first, sample_count=count):
            return struct.pack("<qq", first, count)
        case _:
            return type(effect).__name__.encode()
