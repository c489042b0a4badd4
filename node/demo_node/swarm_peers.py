"""The peers of a run, for its operator: what the chain says of them, and what was heard of them."""

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Final

from demo_node.ports import PeerView
from demo_node.views import (
    ContributorView,
    DigestVerdict,
    Standing,
    SwarmPeersView,
    SwarmPeerView,
)
from demo_protocol.manifest import Agreement
from demo_protocol.messages import Header, Sealed
from demo_protocol.roster import ChainState, Member, is_member
from demo_protocol.view import View

SHOWN_MAX: Final = 300
"""Peers in one answer: making it takes the event loop some milliseconds."""

Arrivals = Mapping[tuple[int, bytes], int]
"""When the header of (round, peer) came, Unix ms."""


def is_in_run(view: View, peer: bytes) -> bool:
    """Is it a member at our head?"""
    state = view.head_state
    member = state.known.get(peer)
    return member is not None and is_member(member, state, view.manifest.agreement)


def show_contributors(state: ChainState, agreement: Agreement) -> list[ContributorView]:
    """What every peer has contributed up to the record of `state`, most samples first."""
    samples = _sum_samples(state)
    views = [
        _show_contributor(member, state, agreement, samples) for member in state.known.values()
    ]
    return sorted(views, key=lambda view: (-view.samples, view.peer))


def find_contributor(state: ChainState, peer: bytes, agreement: Agreement) -> ContributorView:
    """What one peer has contributed: nothing, where the chain does not know it."""
    if peer in state.known:
        return _show_contributor(state.known[peer], state, agreement, _sum_samples(state))
    return show_stranger(peer)


def show_stranger(peer: bytes) -> ContributorView:
    """A peer that no chain knows."""
    return ContributorView(
        peer=peer,
        standing=Standing.UNKNOWN,
        rounds=0,
        samples=0,
        share=0.0,
        first_round=-1,
        last_round=-1,
    )


def _show_contributor(
    member: Member, state: ChainState, agreement: Agreement, samples_total: int
) -> ContributorView:
    return ContributorView(
        peer=member.peer,
        standing=_find_standing(member, state, agreement),
        rounds=member.contributed,
        samples=member.samples_total,
        share=member.samples_total / samples_total if samples_total else 0.0,
        first_round=member.first_round,
        last_round=member.last_round,
    )


def _sum_samples(state: ChainState) -> int:
    return sum(member.samples_total for member in state.known.values())


def show_swarm(
    view: View, arrivals: Arrivals, connected: Sequence[PeerView], now_ms: int
) -> SwarmPeersView:
    """All that is known of the run's peers: ours first, then those with the newest headers."""
    links = {link.peer: link for link in connected}
    newest = _find_newest(view)
    state = view.head_state
    known = {view.me} | links.keys() | newest.keys() | state.known.keys()

    def order(peer: bytes) -> tuple[bool, int, int, bytes]:
        header, member = newest.get(peer), state.known.get(peer)
        return (
            peer != view.me,
            -header.body.round if header else 1,
            -member.last_round if member else 1,
            peer,
        )

    samples = _sum_samples(state)
    peers = tuple(
        _show_peer(view, peer, newest.get(peer), arrivals, links.get(peer), samples)
        for peer in heapq.nsmallest(SHOWN_MAX, known, key=order)
    )
    return SwarmPeersView(peers=peers, known=len(known), now_ms=now_ms)


def _find_newest(view: View) -> dict[bytes, Sealed[Header]]:
    """The newest header of every peer, of rounds that are not forgotten."""
    newest: dict[bytes, Sealed[Header]] = {}
    for _, headers in sorted(view.pool.by_round.items()):
        newest.update(headers)
    return newest


def _show_peer(
    view: View,
    peer: bytes,
    sealed: Sealed[Header] | None,
    arrivals: Arrivals,
    link: PeerView | None,
    samples_total: int,
) -> SwarmPeerView:
    state, header = view.head_state, sealed.body if sealed else None
    member = state.known.get(peer)
    standing = Standing.UNKNOWN
    if member is not None:
        standing = _find_standing(member, state, view.manifest.agreement)
    return SwarmPeerView(
        peer=peer,
        standing=standing,
        connected=link is not None,
        rtt_ms=link.rtt_ms if link else 0,
        heard_round=header.round if header else -1,
        heard_ms=arrivals.get((header.round, peer), 0) if header else 0,
        k=header.k if header else 0,
        samples=header.samples if header else 0,
        loss=header.loss_micronats / 1e6 if header and header.samples else math.nan,
        held=view.pool.is_held(header) if header else False,
        digest=_judge_digest(view, header),
        rounds=member.contributed if member else 0,
        share=member.samples_total / samples_total if member and samples_total else 0.0,
    )


def _judge_digest(view: View, header: Header | None) -> DigestVerdict:
    if header is None or header.base not in view.digests:
        return DigestVerdict.UNKNOWN
    return DigestVerdict.DIFFERENT if view.is_accused(header) else DigestVerdict.EQUAL


def _find_standing(member: Member, state: ChainState, agreement: Agreement) -> Standing:
    if member.left:
        return Standing.LEFT
    if is_member(member, state, agreement):
        return Standing.MEMBER
    if member.never_drawn:
        return Standing.UNKNOWN  # it follows, and takes no part
    return Standing.EXPIRED if member.admitted_by else Standing.CANDIDATE
