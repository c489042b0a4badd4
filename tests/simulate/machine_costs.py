"""What a round costs one round machine: python -m tests.simulate.machine_costs [MEMBERS ...]

One round machine follows a run of so many members whose headers all come by gossip. Processor
time, not wall time. Signatures are the simulator's: what Ed25519 takes is told apart.
"""

import gc
import hashlib
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import click

from demo_node.sim.founding import found, plan_manifest
from demo_node.sim.keys import cheap_sign, cheap_verify, peer_name
from demo_node.store.key import NodeKey, verify
from demo_protocol.answers import encode_bundle, encode_chain_state
from demo_protocol.chain import make_bundle
from demo_protocol.effects import Apply
from demo_protocol.events import (
    Event,
    GossipReceived,
    PayloadsHeld,
    ProposalFetched,
    StateApplied,
    Tick,
)
from demo_protocol.identity import Kind
from demo_protocol.limits import CONTRIBUTIONS_MAX
from demo_protocol.manifest import Manifest, compute_run_id
from demo_protocol.messages import (
    Header,
    Proposal,
    Sealed,
    encode_announcement,
    seal_header,
    seal_proposal,
)
from demo_protocol.payload import typical_payload_bytes
from demo_protocol.presets import PRESETS
from demo_protocol.roster import ChainState, compute_rank, get_contributors
from demo_protocol.round import Round
from demo_protocol.schedule import round_start_ms
from demo_protocol.schema import compute_schema
from demo_protocol.view import View

ROUNDS: Final = 5
"""No record of these carries a root: a state's root is the trainer's work."""

SENDER: Final = peer_name(0)


def digest_after(record: bytes) -> bytes:
    """Made up; all agree."""
    return hashlib.sha256(record).digest()[:8]


@dataclass(slots=True)
class Follower:
    """A node that signs nothing, and the messages of all others."""

    members: int
    contributors: int
    manifest: Manifest = field(init=False)
    run_id: bytes = field(init=False)
    machine: Round = field(init=False)
    peers: dict[bytes, int] = field(init=False)
    spent_s: dict[str, float] = field(init=False, default_factory=dict)
    heard: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.manifest = plan_manifest(1, contributors=self.contributors)
        self.run_id = compute_run_id(self.manifest)
        root = found(self.run_id, self.members)
        view = View(
            manifest=self.manifest,
            me=peer_name(self.members),
            sign=cheap_sign(peer_name(self.members)),
            verify=cheap_verify,
            root=root,
            digest=digest_after(root.record),
        )
        self.machine = Round(view, observes=True)
        self.peers = {peer_name(number): number for number in range(self.members)}

    @property
    def head(self) -> ChainState:
        """What the chain says at the node's head."""
        return self.machine.view.head_state

    def play(self, round_: int) -> Sealed[Proposal]:
        """A round in which all that is due comes, and nothing is late."""
        above = self.head
        headers = [self._header(peer, round_, above) for peer in self._due(round_)]
        proposal = self._proposal(round_, above, headers)
        begin_ms = round_start_ms(self.manifest.schedule, round_)
        self._step("rest", Tick(begin_ms))
        for header in headers:
            message = GossipReceived(begin_ms + 6_000, Kind.HEADER, header.raw, SENDER)
            self._step("headers", message)
        held = tuple(h.body.payload_hash for h in headers)
        self._step("rest", PayloadsHeld(begin_ms + 6_500, round_, held))
        self._step("rest", Tick(begin_ms + 7_400))
        told = encode_announcement(proposal, self.run_id)
        self._step("record", GossipReceived(begin_ms + 7_600, Kind.PROPOSAL, told, SENDER))
        if told != proposal.raw:
            self._step("record", ProposalFetched(begin_ms + 7_800, proposal.raw, SENDER))
        self._step("rest", Tick(begin_ms + 9_100))
        assert self.head.round == round_, "the node did not follow"
        self.heard += len(headers)
        return proposal

    def _due(self, round_: int) -> list[bytes]:
        due = get_contributors(self.head, round_, self.manifest.agreement)
        return sorted(self.peers if due is None else due & self.peers.keys())[:CONTRIBUTIONS_MAX]

    def _header(self, peer: bytes, round_: int, above: ChainState) -> Sealed[Header]:
        k = self.manifest.learning.k
        header = Header(
            round=round_,
            peer=peer,
            base=above.record,
            digest=digest_after(above.record),
            vote=above.record,
            payload_hash=hashlib.sha256(peer + bytes([round_])).digest(),
            payload_bytes=typical_payload_bytes(self.machine.view.schema, k),
            k=k,
            samples=100,
            loss_micronats=2_000_000,
        )
        return seal_header(header, self.run_id, cheap_sign(peer))

    def _proposal(
        self, round_: int, above: ChainState, headers: list[Sealed[Header]]
    ) -> Sealed[Proposal]:
        agreement = self.manifest.agreement
        author = next(p for p in self.peers if compute_rank(above, p, round_, agreement) == 0)
        proposal = Proposal(
            round=round_,
            peer=author,
            parent=above.record,
            parent_digest=digest_after(above.record),
            contributions=tuple(sorted(h.hash for h in headers)),
            late=(),
            joins=(),
            leaves=(),
        )
        return seal_proposal(proposal, self.run_id, cheap_sign(author))

    def _step(self, what: str, event: Event) -> None:
        begin_s = time.process_time()
        effects = self.machine.step(event)
        self.spent_s[what] = self.spent_s.get(what, 0.0) + time.process_time() - begin_s
        for effect in effects:
            if isinstance(effect, Apply):
                applied = StateApplied(event.now_ms, effect.record, digest_after(effect.record))
                self._step("rest", applied)


def measure(members: int, contributors: int) -> str:
    """A row of the table in docs/scale.md."""
    timed = Follower(members, contributors)
    proposal = [timed.play(round_) for round_ in range(ROUNDS)][-1]
    record = timed.machine.view.chain[timed.head.record]
    encode_s = _time(lambda: encode_chain_state(timed.head), 3)
    weighed = Follower(members, contributors)
    weighed.play(0)
    gc.collect()
    tracemalloc.start()
    for round_ in range(1, ROUNDS):
        weighed.play(round_)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] / (ROUNDS - 1)
    tracemalloc.stop()
    spent = timed.spent_s
    per_round_ms = {what: spent[what] * 1_000 / ROUNDS for what in spent}
    cells = [
        f"{members:,}",
        str(contributors),
        f"{timed.heard // ROUNDS:,}",
        f"{spent['headers'] * 1e6 / timed.heard:.0f}",
        f"{per_round_ms['record']:.2f}",
        f"{per_round_ms['rest']:.2f}",
        f"{sum(per_round_ms.values()):.1f}",
        f"{len(proposal.raw):,}",
        f"{len(encode_bundle(make_bundle(record))):,}",
        f"{len(encode_chain_state(timed.head)):,}",
        f"{encode_s * 1e3:.1f}",
        f"{grown / 1e3:,.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _time(work: Callable[[], object], times: int) -> float:
    begin_s = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - begin_s) / times


def main(sizes: list[int], say: Callable[[str], object]) -> None:
    """The table, and what all rows have in common."""
    key = NodeKey(bytes(32))
    message, count = bytes(300), 500
    signature = key.sign(message)
    check_us = _time(lambda: verify(key.public, message, signature), count) * 1e6
    sign_us = _time(lambda: key.sign(message), count) * 1e6
    say(f"Ed25519: a signature checked {check_us:.0f} us, made {sign_us:.0f} us")
    for name, preset in PRESETS.items():
        size = typical_payload_bytes(compute_schema(preset.model), preset.learning.k)
        say(f"payload of {name}, k {preset.learning.k}: {size:,} bytes")
    say(
        "| members | C | headers | each, us | record, ms | rest, ms | sum, ms | proposal, B |"
        " record with headers, B | chain state, B | encoded in ms | kept per round, kB |"
    )
    for members in sizes:
        for contributors in (0, 32):
            say(measure(members, contributors))


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [10, 100, 1_000, 10_000], click.echo)
