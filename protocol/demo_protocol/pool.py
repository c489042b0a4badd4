"""What a node has heard and not yet forgotten: headers, payloads held, proposals that wait."""

import hashlib
import itertools
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import TypeVar

from demo_protocol.evidence import Offence
from demo_protocol.identity import compute_lot
from demo_protocol.limits import (
    EVIDENCE_KEPT_MAX,
    FINGERPRINT_BYTES,
    HEADERS_WAITING_MAX,
    JOINS_KEPT_MAX,
    PENDING_MAX,
)
from demo_protocol.messages import Header, Membership, Notice, Proposal, Sealed

T = TypeVar("T")


@dataclass(slots=True)
class Pool:
    """Headers by hash and by (round, peer); the first of a peer and round is the one used.

    `names` are the hashes of all headers of a round, `payloads` those of the payloads held that
    headers of a round name: what is over is forgotten without a look at what is not.
    `notices` are of the first proposal of a peer and round, `repeated` has those who made two,
    `awaited` those notices whose proposals are being pulled. `brought` are the headers that came
    with those `pending` records which are part of a chain: they are nobody's until it is valid.
    `offences` hold the newest one of each peer. `lots` are of those `wishes` whose
    author wants to join, or wanted to; `order` has them sorted; `holder` is whose pool it is.
    """

    holder: bytes = b""

    headers: dict[bytes, Sealed[Header]] = field(default_factory=dict)
    by_round: dict[int, dict[bytes, Sealed[Header]]] = field(default_factory=dict)
    second: dict[int, dict[bytes, Sealed[Header]]] = field(default_factory=dict)
    names: dict[int, list[bytes]] = field(default_factory=dict)
    fingerprints: dict[int, bytes] = field(default_factory=dict)
    payloads: dict[int, set[bytes]] = field(default_factory=dict)
    payload_changes: int = 0
    notices: dict[tuple[int, bytes], Sealed[Notice]] = field(default_factory=dict)
    repeated: set[tuple[int, bytes]] = field(default_factory=set)
    offences: dict[bytes, Offence] = field(default_factory=dict)
    awaited: dict[bytes, Sealed[Notice]] = field(default_factory=dict)
    pending: dict[bytes, Sealed[Proposal]] = field(default_factory=dict)
    brought: dict[bytes, Mapping[bytes, Sealed[Header]]] = field(default_factory=dict)
    wishes: dict[bytes, Sealed[Membership]] = field(default_factory=dict)
    lots: dict[bytes, bytes] = field(default_factory=dict)
    order: list[tuple[bytes, bytes]] = field(default_factory=list)

    def add_header(self, header: Sealed[Header]) -> Sealed[Header]:
        """Remember a header whose signature holds. Its author's first of that round."""
        name, round_, peer = header.hash, header.body.round, header.body.peer
        if name not in self.headers:
            self.headers[name] = header
            self.names.setdefault(round_, []).append(name)
        first = self.by_round.setdefault(round_, {}).setdefault(peer, header)
        if first.hash != name:
            self.second.setdefault(round_, {}).setdefault(peer, header)
        self.fingerprints.pop(round_, None)
        return first

    def of_round(self, round_: int) -> Iterable[Sealed[Header]]:
        """The first header of every peer in `round_`."""
        return self.by_round.get(round_, {}).values()

    def fingerprint(self, round_: int) -> bytes:
        """Equal where the same is known of a round (rule 23).

        Whoever signed several headers counts as that: each node may have heard another two.
        """
        known = self.fingerprints.get(round_)
        if known is None:
            second = self.second.get(round_, {})
            names = [
                hashlib.sha256(peer).digest() if peer in second else header.hash
                for peer, header in self.by_round.get(round_, {}).items()
            ]
            known = hashlib.sha256(b"".join(sorted(names))).digest()[:FINGERPRINT_BYTES]
            self.fingerprints[round_] = known
        return known

    def hashes_of_round(self, round_: int) -> list[bytes]:
        """Of every peer's first header of a round, and of its second, where it signed two."""
        heard = (*self.of_round(round_), *self.second.get(round_, {}).values())
        return [header.hash for header in heard]

    def held_payloads(self, round_: int) -> Set[bytes]:
        """Payloads held that headers of `round_` name."""
        return self.payloads.get(round_, frozenset())

    def held_of_round(self, round_: int) -> frozenset[bytes]:
        """The hash of every peer's first header of `round_`, where all that it needs is here."""
        held = self.held_payloads(round_)
        return frozenset(
            header.hash
            for header in self.of_round(round_)
            if header.body.k == 0 or header.body.payload_hash in held
        )

    def is_held(self, header: Header) -> bool:
        """Is everything here that applying it needs? A heartbeat needs nothing."""
        return header.k == 0 or header.payload_hash in self.payloads.get(header.round, ())

    def add_payloads(self, round_: int, payload_hashes: Iterable[bytes]) -> None:
        """Payloads are here, which headers of `round_` name."""
        self.payloads.setdefault(round_, set()).update(payload_hashes)
        self.payload_changes += 1

    def drop_payload(self, payload_hash: bytes) -> None:
        """It is not here after all."""
        for held in self.payloads.values():
            held.discard(payload_hash)
        self.payload_changes += 1

    def await_proposal(self, notice: Sealed[Notice]) -> None:
        """A proposal is being pulled; the oldest makes room."""
        self.awaited[notice.hash] = notice
        if len(self.awaited) > PENDING_MAX:
            del self.awaited[next(iter(self.awaited))]

    def add_pending(
        self, proposal: Sealed[Proposal], brought: Iterable[Sealed[Header]] | None = None
    ) -> None:
        """A proposal whose parent or headers are missing; the oldest makes room.

        `brought`: what came with a record of a chain, None of a proposal that came alone.
        """
        self.pending[proposal.hash] = proposal
        if brought is not None:
            before = self.brought.get(proposal.hash, {})
            self.brought[proposal.hash] = {**before, **{h.hash: h for h in brought}}
        while len(self.pending) > PENDING_MAX or self._count_waiting() > HEADERS_WAITING_MAX:
            self.drop_pending(next(iter(self.pending)))

    def drop_pending(self, name: bytes) -> Mapping[bytes, Sealed[Header]]:
        """It waits no more. The headers that came with it."""
        del self.pending[name]
        return self.brought.pop(name, {})

    def _count_waiting(self) -> int:
        return sum(map(len, self.brought.values()))

    def add_offence(self, offence: Offence) -> None:
        """Keep evidence until a record lists it; the oldest makes room."""
        old = self.offences.get(offence.peer)
        if old is None or old.round < offence.round:
            self.offences[offence.peer] = offence
        if len(self.offences) > EVIDENCE_KEPT_MAX:
            del self.offences[next(iter(self.offences))]

    def add_wish(self, wish: Sealed[Membership]) -> None:
        """Remember the newest join or leave of a peer; of a bounded number that want to join."""
        peer, lots = wish.body.peer, self.lots
        if not self.is_newer(wish.body):
            return
        if not wish.body.joins and peer not in lots:
            self.wishes[peer] = wish  # it is in: of those there are not more than the chain says
            return
        lot, order = compute_lot(self.holder, wish.body.round, peer), self.order
        if peer in lots:
            del order[bisect_left(order, (lots[peer], peer))]
        elif len(lots) >= JOINS_KEPT_MAX:
            if lot > order[-1][0]:
                return
            _, last = order.pop()
            del lots[last], self.wishes[last]
        insort(order, (lot, peer))
        self.wishes[peer], lots[peer] = wish, lot

    def is_newer(self, wish: Membership) -> bool:
        """Does it say more than what is known of its author? Of one round the leave is the later.

        It has to be one of the two, everywhere; who wants in after all says so in the next round.
        """
        old = self.wishes.get(wish.peer)
        return old is None or (wish.round, not wish.joins) > (old.body.round, not old.body.joins)

    def newest_wishes(self, *, joins: bool) -> Iterator[Sealed[Membership]]:
        """Joins or leaves, sorted by peer as proposals list them."""
        for peer in sorted(self.wishes):
            if self.wishes[peer].body.joins == joins:
                yield self.wishes[peer]

    def forget_offences(self, round_: int) -> None:
        """Drop evidence of rounds before this: no record may list it any more."""
        self.offences = {p: o for p, o in self.offences.items() if o.round >= round_}

    def forget_before(self, round_: int, payload_round: int) -> None:
        """Drop headers and wishes of rounds before `round_`, payload marks before the other.

        Proposals that wait go with the headers, records of a chain that is walked back with the
        payloads: walking takes rounds, and what is found at its end is still to be applied.
        """
        for name in itertools.chain(*_take_older(self.names, round_)):
            self.headers.pop(name, None)
        _take_older(self.by_round, round_)
        _take_older(self.second, round_)
        _take_older(self.fingerprints, round_)
        if _take_older(self.payloads, payload_round):
            self.payload_changes += 1
        self.notices = {k: v for k, v in self.notices.items() if k[0] >= round_}
        self.repeated = {k for k in self.repeated if k[0] >= round_}
        self.awaited = {h: n for h, n in self.awaited.items() if n.body.round >= round_}
        self.wishes = {p: w for p, w in self.wishes.items() if w.body.round >= round_}
        self.lots = {p: lot for p, lot in self.lots.items() if p in self.wishes}
        self.order = [entry for entry in self.order if entry[1] in self.lots]
        self.pending = {
            h: p
            for h, p in self.pending.items()
            if p.body.round >= (payload_round if h in self.brought else round_)
        }
        self.brought = {h: b for h, b in self.brought.items() if h in self.pending}


def _take_older(table: dict[int, T], round_: int) -> list[T]:
    """Take what is of rounds before `round_` out of the table."""
    return [table.pop(old) for old in [r for r in table if r < round_]]
