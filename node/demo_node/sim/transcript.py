"""What the nodes around a violation did last, in words that a person can read."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from demo_protocol.chain import Chain
from demo_protocol.effects import (
    Announce,
    Apply,
    Effect,
    HeadChanged,
    KeepRecord,
    Persist,
    PullHeaders,
    PullRecords,
    Refused,
    Resync,
    Train,
)
from demo_protocol.events import (
    Event,
    GossipBatch,
    HeadersFetched,
    PayloadsHeld,
    PayloadsLost,
    RecordsFetched,
    StartMoved,
    StateApplied,
    StatesLost,
    Tick,
    TrainingDone,
)
from demo_protocol.identity import Kind

KEPT, KEPT_OF_MANY = 60, 8
"""Newest steps kept of a node, where there are few and where there are many."""

MANY_NODES = 128

SHOWN = 80
"""Lines of one transcript."""

HEARD = 3
"""Messages of one moment that are named."""

SHORT = 6
"""Hexadecimal digits that stand for a hash."""


@dataclass(frozen=True, slots=True)
class Step:
    """One node at one moment. What it said and did is put into words only when it is wanted."""

    number: int
    now_ms: int
    round: int
    node: int
    event: Event | None
    effects: tuple[Effect, ...]
    head: bytes
    note: str = ""


class Transcript:
    """The newest steps of every node, but for what merely arrives."""

    def __init__(self) -> None:
        self._steps: dict[int, deque[Step]] = {}
        self._number = 0

    def add(self, now_ms: int, round_: int, node: int, event: Event, effects: list[Effect]) -> None:
        """A step; of headers that bring nothing but a payload to pull nothing is kept."""
        match event:
            case GossipBatch() if all(isinstance(effect, Refused) for effect in effects):
                return
            case Tick() | PayloadsHeld() if not effects:
                return
        self._put(Step(self._number, now_ms, round_, node, event, tuple(effects), b""))

    def add_note(self, now_ms: int, round_: int, node: int, note: str) -> None:
        """Something happened to a node; -1 is the network."""
        self._put(Step(self._number, now_ms, round_, node, None, (), b"", note))

    def _put(self, step: Step) -> None:
        self._number += 1
        steps = self._steps.get(step.node)
        if steps is None:
            kept = KEPT if len(self._steps) <= MANY_NODES else KEPT_OF_MANY
            steps = self._steps[step.node] = deque(maxlen=kept)
        steps.append(step)

    def lines(self, nodes: Iterable[int], names: "Names", begin_ms: int) -> list[str]:
        """The newest steps of these nodes and of the network, in the order they happened."""
        wanted = [step for node in {*nodes, -1} for step in self._steps.get(node, ())]
        wanted.sort(key=lambda step: step.number)
        lines = []
        for step in wanted:
            who = "network" if step.node < 0 else f"node {step.node}"
            for text in [step.note] if step.event is None else _tell(step, names):
                seconds = (step.now_ms - begin_ms) / 1000
                lines.append(f"{seconds:9.3f} s  round {step.round:>3}  {who:<9} {text}")
        return lines[-SHOWN:]


class Names:
    """Short names of records and peers."""

    def __init__(self, chains: Iterable[Chain], peers: dict[bytes, int]) -> None:
        self._rounds = {
            record.hash: record.round for chain in chains for record in chain.records.values()
        }
        self._peers = peers

    def record(self, name: bytes) -> str:
        """r12/ab34ef: a record of round 12."""
        round_ = self._rounds.get(name)
        where = "?" if round_ is None else f"{round_}"
        return f"r{where}/{name.hex()[:SHORT]}"

    def peer(self, name: bytes) -> str:
        """Node 7, or a key that belongs to none."""
        index = self._peers.get(name)
        return f"key {name.hex()[:SHORT]}" if index is None else f"node {index}"


def _tell(step: Step, names: Names) -> Iterator[str]:
    assert step.event is not None
    doing = [told for effect in step.effects if (told := _tell_effect(effect, names))]
    told = _tell_event(step.event, names)
    if told or doing:
        yield f"{told or 'the clock'}: {', '.join(doing) or 'nothing to do'}"


def _tell_event(event: Event, names: Names) -> str:
    match event:
        case GossipBatch(_, messages):
            heard = [f"a {kind.value} from {names.peer(sender)}" for kind, _, sender in messages]
            return f"hears {', '.join(heard[:HEARD])}{' and others' * (len(heard) > HEARD)}"
        case HeadersFetched(_, raws, sender):
            return f"gets {len(raws)} headers from {names.peer(sender)}"
        case RecordsFetched(_, bundles, sender):
            return f"gets {len(bundles)} records from {names.peer(sender)}"
        case StateApplied(_, record, digest):
            return f"has applied {names.record(record)}, digest {digest.hex()[:SHORT]}"
        case StatesLost(_, record, digest):
            return f"lost its states, loads {names.record(record)}, digest {digest.hex()[:SHORT]}"
        case StartMoved(_, state, digest):
            return f"begins anew at {names.record(state.record)}, digest {digest.hex()[:SHORT]}"
        case PayloadsHeld(_, _, hashes):
            return f"holds {len(hashes)} more payloads"
        case PayloadsLost(_, payload_hashes):
            return f"lost {len(payload_hashes)} payloads"
        case TrainingDone():
            return f"trained round {event.round} from {names.record(event.base)}"
        case _:
            return ""


def _tell_effect(effect: Effect, names: Names) -> str:
    match effect:
        case Persist(kind, round_, name, _):
            return f"signs {kind.value} {name.hex()[:SHORT]} of round {round_}"
        case Announce(kind, _):
            return "" if kind is not Kind.MEMBERSHIP else "asks to be let in or out"
        case HeadChanged(head, previous, rolled_back):
            back = f", {rolled_back} rolled back" if rolled_back else ""
            return f"head {names.record(previous)} -> {names.record(head)}{back}"
        case Apply(record, parent, _, payloads):
            count = len(payloads)
            return f"applies {names.record(record)} on {names.record(parent)}, {count} payloads"
        case KeepRecord(record):
            return f"knows record {names.record(record)}"
        case Train(base=base, sample_first=first, sample_count=count):
            return f"trains from {names.record(base)}, samples {first} to {first + count}"
        case PullRecords(record, _, count):
            return f"asks for {count} records up to {names.record(record)}"
        case PullHeaders(hashes, _):
            return f"asks for {len(hashes)} headers"
        case Refused():
            return ""
        case Resync(target):
            return f"looks for a snapshot below {names.record(target)}"
        case _:
            return type(effect).__name__
