"""Messages reaching a view: over gossip, as pulled headers, as pulled records."""

import copy
from dataclasses import replace

from demo_node.sim.keys import cheap_sign, peer_name
from demo_protocol.chain import make_bundle
from demo_protocol.effects import Effect
from demo_protocol.events import Bundle, GossipReceived, HeadersFetched, RecordsFetched
from demo_protocol.forkchoice import Votes
from demo_protocol.messages import Header, Membership, Proposal, Sealed, seal_header
from demo_protocol.receive import on_gossip, on_headers
from demo_protocol.recording import on_records
from demo_protocol.schedule import round_start_ms
from demo_protocol.view import View
from tests.builders import MANIFEST, RUN_ID, Tree

SENDER = peer_name(77)


def time_of(round_: int, ms: int = 2_000) -> int:
    return round_start_ms(MANIFEST.schedule, round_) + ms


def gossip(
    believed: View,
    sealed: Sealed[Header] | Sealed[Proposal] | Sealed[Membership],
    round_: int | None = None,
) -> list[Effect]:
    now_ms = time_of(sealed.body.round if round_ is None else round_)
    return on_gossip(believed, GossipReceived(now_ms, sealed.kind, sealed.raw, SENDER))


def counted(votes: Votes, peer: bytes) -> tuple[int, bytes] | None:
    """(round of the header, record) of the newest vote of a peer that counts."""
    return None if peer in votes.equivocators else votes.newest.get(peer)


def bundle(tree: Tree, record: bytes) -> Bundle:
    return make_bundle(tree.chain[record])


def give(believed: View, *bundles: Bundle, round_: int = 50) -> list[Effect]:
    return on_records(believed, RecordsFetched(time_of(round_), bundles, SENDER))


def fetched(believed: View, *headers: Sealed[Header], round_: int = 50) -> list[Effect]:
    raws = tuple(h.raw for h in headers)
    return on_headers(believed, HeadersFetched(time_of(round_), raws, SENDER))


def snapshot(believed: View) -> object:
    """Everything a view knows, to compare with later."""
    parts = (believed.pool, believed.votes, believed.digests, believed.pulled, believed.chain)
    return copy.deepcopy([*parts[:4], parts[4].records, parts[4].children])


def forged(sealed: Sealed[Header]) -> Sealed[Header]:
    """Signed by somebody else than its author."""
    return seal_header(sealed.body, RUN_ID, cheap_sign(peer_name(99)))


def wrong_length(sealed: Sealed[Header]) -> Sealed[Header]:
    body = replace(sealed.body, payload_bytes=sealed.body.payload_bytes // 2)
    return seal_header(body, RUN_ID, cheap_sign(body.peer))
