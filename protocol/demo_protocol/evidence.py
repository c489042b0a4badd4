"""Evidence that a peer signed twice for one round, and when a record may list it (rule 26).

No honest peer does that, whatever happened to it (rule 10): so the two messages are all the proof
that anybody needs, at any time.
"""

from dataclasses import dataclass

from demo_protocol.errors import Reject
from demo_protocol.identity import Kind, Verify
from demo_protocol.messages import (
    Evidence,
    Header,
    Notice,
    Sealed,
    check_signature,
    decode_header,
    decode_notice,
)
from demo_protocol.roster import ChainState

Signed = Sealed[Header] | Sealed[Notice]


@dataclass(frozen=True, slots=True)
class Offence:
    """What `peer` signed in `round`: two different messages of one kind, by ascending hash."""

    peer: bytes
    round: int
    first: Signed
    second: Signed

    @property
    def evidence(self) -> Evidence:
        """As a proposal lists it."""
        return Evidence(self.first.kind, self.first.raw, self.second.raw)


def make_offence(one: Signed, other: Signed) -> Offence:
    """Two different messages of one kind, peer and round: the caller has compared them."""
    first, second = sorted((one, other), key=lambda sealed: sealed.hash)
    return Offence(one.body.peer, one.body.round, first, second)


def open_evidence(evidence: Evidence, run_id: bytes) -> Offence:
    """What it shows, its signatures not checked yet. Raises Reject where it shows nothing."""
    decode = decode_header if evidence.kind is Kind.HEADER else decode_notice
    first, second = decode(evidence.first, run_id), decode(evidence.second, run_id)
    if (first.body.peer, first.body.round) != (second.body.peer, second.body.round):
        raise Reject("evidence of two peers, or two rounds")
    if first.hash >= second.hash:
        raise Reject("evidence is two different messages, the lower hash first")
    return Offence(first.body.peer, first.body.round, first, second)


def check_offence(offence: Offence, verify: Verify) -> None:
    """Raise Reject unless the peer has signed both."""
    check_signature(offence.first, verify)
    check_signature(offence.second, verify)


def is_offence_usable(
    offence: Offence, parent: ChainState, round_: int, forget_rounds: int
) -> bool:
    """May a record of `round_` on `parent` remove its author for it?

    Strangers have nothing to be removed from, and who is removed is not removed again. So one
    offence counts once on a chain: the removal lasts for `forget_rounds` from the record with it,
    which is no older than the offence, and by then the offence is too old.
    """
    known = parent.known.get(offence.peer)
    is_recent = round_ - forget_rounds < offence.round <= round_
    return known is not None and known.removed_until <= round_ and is_recent
