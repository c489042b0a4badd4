"""A second implementation of what docs/wire.md says, from that page alone: nothing of the first one
is imported. Slow and short; what it computes is compared with tests/vectors/. Of an update:
second_update.py."""

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

U32 = 0xFFFF_FFFF
TURN = 1_000_000


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


# --- hashes and draws ----------------------------------------------------------------------------


def name_message(kind: str, run_id: bytes, body: bytes) -> bytes:
    return sha(b"demo-node/" + kind.encode() + b"/1\0" + run_id + body)


def member_key(admitted_by: bytes, peer: bytes) -> bytes:
    return sha(b"demo-node/member/1\0" + admitted_by + peer)


def rank_hash(key: bytes, round_: int) -> bytes:
    return sha(b"demo-node/rank/1\0" + key + struct.pack(">Q", round_))


def draw(label: bytes, key: bytes, round_: int) -> bytes:
    tagged = b"demo-node/draw/1\0" + bytes([len(label)]) + label
    return sha(tagged + key + struct.pack("<Q", round_))


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    if not leaves:
        return sha(b"demo-node/empty/1\0")
    level = list(leaves)
    while len(level) > 1:
        pairs = [level[at : at + 2] for at in range(0, len(level), 2)]
        level = [sha(b"demo-node/node/1\0" + b"".join(p)) if p[1:] else p[0] for p in pairs]
    return level[0]


def leaf(block: bytes) -> bytes:
    return sha(b"demo-node/leaf/1\0" + block)


# --- words, samples, digest ----------------------------------------------------------------------


def mix(x: int) -> int:
    for shift, factor in ((17, 0xED5AD4BB), (11, 0xAC4C1B51), (15, 0x31848BAB)):
        x = (x ^ x >> shift) * factor & U32
    return x ^ x >> 14


def stream(tag: bytes, *parts: bytes) -> tuple[int, ...]:
    return struct.unpack(
        "<8I", sha(tag + b"\0" + b"".join(struct.pack("<I", len(p)) + p for p in parts))
    )


def word(first: int, second: int, n: int) -> int:
    return mix(mix(n + first & U32) ^ second)


def sample(run_id: bytes, root: bytes, total: int, number: int) -> int:
    epoch, value = divmod(number, total)
    key = stream(b"demo-node/samples/1", run_id, root, struct.pack("<Q", epoch))
    half = max(((total - 1).bit_length() + 1) // 2, 1)
    while True:
        left, right = value >> half, value & (1 << half) - 1
        for t in range(6):
            left, right = right, left ^ word(key[t], key[t + 1], right) & (1 << half) - 1
        value = left << half | right
        if value < total:
            return value


def probation_sample(key: bytes, round_: int, total: int, n: int) -> int:
    first, second, *_ = stream(b"demo-node/probation/1", draw(b"p", key, round_))
    return word(first, second, n) * total >> 32


def digest(words: Iterable[int]) -> bytes:
    first = second = count = 0
    for count, w in enumerate(words, 1):
        x = w ^ (count - 1) * 0x9E3779B1 & U32
        x = (x ^ x >> 16) * 0x7FEB352D & U32
        x = (x ^ x >> 15) * 0x846CA68B & U32
        x ^= x >> 16
        first += x
        x = x * 0xC2B2AE35 & U32
        second += x ^ x >> 15
    return struct.pack("<II", first + count & U32, second & U32)


# --- protobuf ------------------------------------------------------------------------------------


def varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte, at = raw[at], at + 1
        value, shift = value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, at


def parse(raw: bytes) -> dict[int, list[Any]]:
    """Numbers and bytes of a message, by field."""
    found: dict[int, list[Any]] = {}
    at = 0
    while at < len(raw):
        tag, at = varint(raw, at)
        value: Any
        value, at = varint(raw, at)
        if tag & 7 == 2:
            value, at = raw[at : at + value], at + value
        found.setdefault(tag >> 3, []).append(value)
    return found


def put(number: int, value: int | bytes) -> bytes:
    """A field of a message; nothing where it is 0 or empty."""
    if not value:
        return b""
    if isinstance(value, int):
        return number_bytes(number << 3) + number_bytes(value)
    return number_bytes(number << 3 | 2) + number_bytes(len(value)) + value


def number_bytes(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def unzigzag(value: int) -> int:
    return value >> 1 ^ -(value & 1)


# --- what the chain says -------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """A peer that the chain knows; fields as in wire.proto."""

    peer: bytes
    admitted_by: bytes = b""
    since_round: int = 0
    credited_round: int = 0
    included: int = 0
    left: bool = False
    samples: tuple[int, ...] = ()
    member_round: int = -2
    contributed: int = 0
    samples_total: int = 0
    first_round: int = -1
    last_round: int = -1
    removed_until: int = 0
    credited_turns: int = 0
    never_drawn: bool = False

    @property
    def key(self) -> bytes:
        return member_key(self.admitted_by, self.peer)

    def encode(self) -> bytes:
        return b"".join(
            (
                put(1, self.peer),
                put(2, self.admitted_by),
                put(3, zigzag(self.since_round)),
                put(4, zigzag(self.credited_round)),
                put(5, self.included),
                put(6, int(self.left)),
                put(7, b"".join(map(number_bytes, self.samples))),
                put(8, zigzag(self.member_round)),
                put(9, self.contributed),
                put(10, self.samples_total),
                put(11, zigzag(self.first_round)),
                put(12, zigzag(self.last_round)),
                put(13, zigzag(self.removed_until)),
                put(14, self.credited_turns),
                put(15, int(self.never_drawn)),
            )
        )


def read_known(raw: bytes) -> Known:
    got = {number: values[-1] for number, values in parse(raw).items()}
    packed, samples = got.get(7, b""), []
    at = 0
    while at < len(packed):
        count, at = varint(packed, at)
        samples.append(count)

    def signed(number: int) -> int:
        return unzigzag(got.get(number, 0))

    return Known(
        peer=got[1],
        admitted_by=got.get(2, b""),
        since_round=signed(3),
        credited_round=signed(4),
        included=got.get(5, 0),
        left=bool(got.get(6)),
        samples=tuple(samples),
        member_round=signed(8),
        contributed=got.get(9, 0),
        samples_total=got.get(10, 0),
        first_round=signed(11),
        last_round=signed(12),
        removed_until=signed(13),
        credited_turns=got.get(14, 0),
        never_drawn=bool(got.get(15)),
    )


@dataclass(frozen=True)
class State:
    record: bytes
    parent: bytes = b""
    round: int = -1
    height: int = 0
    cursor: int = 0
    turns: int = 0
    known: dict[bytes, Known] = field(default_factory=dict)
    credits: frozenset[tuple[int, bytes]] = frozenset()

    def members(self, expire_rounds: int) -> set[bytes]:
        def is_one(k: Known) -> bool:
            expired = self.turns - k.credited_turns >= expire_rounds * TURN
            return bool(k.admitted_by) and not k.left and not expired

        return {peer for peer, known in self.known.items() if is_one(known)}

    def encode(self) -> bytes:
        return b"".join(
            (
                put(1, self.record),
                put(2, self.parent),
                put(3, zigzag(self.round)),
                put(4, self.height),
                put(5, self.cursor),
                *(put(6, self.known[peer].encode()) for peer in sorted(self.known)),
                *(put(7, put(1, r) + put(2, peer)) for r, peer in sorted(self.credits)),
                put(8, self.turns),
            )
        )


def read_state(raw: bytes) -> State:
    """Without `due`."""
    got = parse(raw)
    entries = [read_known(entry) for entry in got.get(6, [])]
    return State(
        record=got[1][0],
        parent=got.get(2, [b""])[0],
        round=unzigzag(got.get(3, [0])[0]),
        height=got.get(4, [0])[0],
        cursor=got.get(5, [0])[0],
        turns=got.get(8, [0])[0],
        known={entry.peer: entry for entry in entries},
    )


def interval_length(known: Known, samples_start: int) -> int:
    counts = sorted(count for count in known.samples[-8:] if count)
    median = counts[(len(counts) - 1) // 2] if counts else 0
    return max(-(-3 * median // 2), samples_start)


def advance(p: State, bundle: bytes, run_id: bytes, manifest: dict[str, Any]) -> State:
    """The state after a record, where every member contributes and nothing overlaps."""
    rules, start = manifest["agreement"], manifest["learning"]["samples_start"]
    proposal, headers = _open_bundle(bundle, run_id)
    notice = parse(proposal[1][0])
    content = parse(proposal[3][0])
    record = name_message("proposal", run_id, proposal[1][0])
    r = notice.get(1, [0])[0]
    before = p.members(rules["expire_rounds"])
    turns = p.turns + (r - p.round) * TURN
    known = dict(p.known)
    for join in _wishes(content.get(4, [])):
        peer, never = join[2][0], bool(join.get(5))
        early = p.height < rules["probation"] and not never
        known[peer] = replace(
            known.get(peer, Known(peer)),
            admitted_by=record if early else b"",
            since_round=r,
            credited_round=r,
            credited_turns=turns,
            included=0,
            left=False,
            samples=(),
            member_round=-2,
            never_drawn=never,
        )
    for leave in _wishes(content.get(5, [])):
        known[leave[2][0]] = replace(known[leave[2][0]], left=True, since_round=r)
    for evidence in content.get(6, []):
        peer = parse(parse(parse(evidence)[2][0])[1][0])[2][0]
        until = r + rules["forget_rounds"]
        known[peer] = replace(known[peer], left=True, since_round=r, removed_until=until)
    credits = {(q, peer) for q, peer in p.credits if q > r - rules["late_rounds"]}
    for name in (*content.get(2, []), *content.get(3, [])):
        header = headers[name]
        q, peer = header.get(1, [0])[0], header[2][0]
        old = known[peer]
        new = replace(
            old,
            credited_round=max(old.credited_round, q),
            credited_turns=max(old.credited_turns, turns - (r - q) * TURN),
        )
        if name in content.get(2, []):
            new = replace(new, included=new.included + 1)
            if header.get(8):
                count = header.get(9, [0])[0]
                new = replace(
                    new,
                    samples=(*new.samples, count)[-8:],
                    contributed=new.contributed + 1,
                    samples_total=new.samples_total + count,
                    first_round=r if new.first_round < 0 else new.first_round,
                    last_round=r,
                )
        known[peer] = new
        credits.add((q, peer))
    ready = [
        k
        for k in known.values()
        if not (k.admitted_by or k.left or k.never_drawn) and k.included >= rules["probation"]
    ]
    ready.sort(key=lambda k: (k.since_round, sha(b"demo-node/waiting/1\0" + record + k.peer)))
    for k in ready[: max(2, len(before) // 8)]:
        known[k.peer] = replace(k, admitted_by=record)
    state = State(
        record=record,
        parent=p.record,
        round=r,
        height=p.height + 1,
        cursor=p.cursor + sum(interval_length(p.known[peer], start) for peer in before),
        turns=turns,
        known=known,
        credits=frozenset(credits),
    )
    after = state.members(rules["expire_rounds"])
    for peer in before - after:
        known[peer] = replace(known[peer], member_round=p.round)
    for peer in [k for k in known if k not in after and _end(known[k], rules) <= r]:
        del known[peer]
    return state


def _end(k: Known, rules: dict[str, int]) -> int:
    if k.left:
        rounds = rules["late_rounds"] + 1
        if k.contributed:
            rounds = max(rounds, rules["forget_rounds"])
        return max(k.since_round + rounds, k.removed_until)
    if k.admitted_by:
        return max(k.member_round, k.credited_round, k.since_round) + rules["forget_rounds"]
    if k.credited_round > k.since_round:
        return k.credited_round + rules["expire_rounds"]
    return k.since_round + max(rules["expire_rounds"], 3)


def _wishes(raws: Iterable[bytes]) -> Iterator[dict[int, list[Any]]]:
    for raw in raws:
        yield parse(parse(raw)[1][0])


def _open_bundle(
    raw: bytes, run_id: bytes
) -> tuple[dict[int, list[Any]], dict[bytes, dict[int, list[Any]]]]:
    bundle = parse(raw)
    bodies = [parse(signed)[1][0] for signed in bundle.get(2, [])]
    headers = {name_message("header", run_id, body): parse(body) for body in bodies}
    return parse(bundle[1][0]), headers
