"""What a node has heard and not yet forgotten: headers, payloads held, proposals that wait."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from demo_protocol.limits import JOINS_MAX, PENDING_MAX
from demo_protocol.messages import Header, Membership, Proposal, Sealed


@dataclass(slots=True)
class Pool:
    """Headers by hash and by (round, peer); the first of a peer and round is the one used."""

    headers: dict[bytes, Sealed[Header]] = field(default_factory=dict)
    by_round: dict[int, dict[bytes, Sealed[Header]]] = field(default_factory=dict)
    payload_rounds: dict[bytes, int] = field(default_factory=dict)
    proposals: dict[tuple[int, bytes], bytes] = field(default_factory=dict)
    pending: dict[bytes, Sealed[Proposal]] = field(default_factory=dict)
    wishes: dict[bytes, Sealed[Membership]] = field(default_factory=dict)

    def add_header(self, header: Sealed[Header]) -> None:
        """Remember a header whose signature holds."""
        self.headers[header.hash] = header
        self.by_round.setdefault(header.body.round, {}).setdefault(header.body.peer, header)

    def of_round(self, round_: int) -> Iterable[Sealed[Header]]:
        """The first header of every peer in `round_`."""
        return self.by_round.get(round_, {}).values()

    def is_held(self, header: Header) -> bool:
        """Is everything here that applying it needs? A heartbeat needs nothing."""
        return header.k == 0 or header.payload_hash in self.payload_rounds

    def add_payload(self, payload_hash: bytes, round_: int) -> None:
        """A payload is here, kept as one of `round_`."""
        known = self.payload_rounds.get(payload_hash, round_)
        self.payload_rounds[payload_hash] = max(known, round_)

    def add_pending(self, proposal: Sealed[Proposal]) -> None:
        """A proposal whose parent or headers are missing; the oldest makes room."""
        self.pending[proposal.hash] = proposal
        if len(self.pending) > PENDING_MAX:
            del self.pending[next(iter(self.pending))]

    def add_wish(self, wish: Sealed[Membership]) -> None:
        """Remember the newest join or leave of a peer, of a bounded number of peers."""
        old = self.wishes.get(wish.body.peer)
        if old is not None and old.body.round > wish.body.round:
            return
        if old is None and len(self.wishes) >= 4 * JOINS_MAX:
            del self.wishes[next(iter(self.wishes))]
        self.wishes[wish.body.peer] = wish

    def newest_wishes(self, *, joins: bool) -> Iterator[Sealed[Membership]]:
        """Joins or leaves, sorted by peer as proposals list them."""
        for peer in sorted(self.wishes):
            if self.wishes[peer].body.joins == joins:
                yield self.wishes[peer]

    def forget_before(self, round_: int, payload_round: int) -> None:
        """Drop headers and wishes of rounds before `round_`, payload marks before the other."""
        self.by_round = {r: peers for r, peers in self.by_round.items() if r >= round_}
        self.headers = {h: s for h, s in self.headers.items() if s.body.round >= round_}
        self.proposals = {k: v for k, v in self.proposals.items() if k[0] >= round_}
        self.wishes = {p: w for p, w in self.wishes.items() if w.body.round >= round_}
        self.payload_rounds = {h: r for h, r in self.payload_rounds.items() if r >= payload_round}
        self.pending = {h: p for h, p in self.pending.items() if p.body.round >= payload_round}
