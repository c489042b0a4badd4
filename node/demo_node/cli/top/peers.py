"""The table of peers: those first that an operator should look at; columns as far as there is room.

The order does not follow every header that comes in, so that rows stand still.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rich.text import Text

from demo_node.cli.top.reading import Reading
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.views import DigestVerdict, Standing, StatusView, SwarmPeerView

SHORT_LETTERS: Final = 10
"""Of a peer id, from its end: all begin alike. `demo-node peers` shows ids in full."""

GAP: Final = 2
NOTHING: Final = "-"

STANDINGS: Final = (
    Standing.MEMBER,
    Standing.CANDIDATE,
    Standing.EXPIRED,
    Standing.UNKNOWN,
    Standing.LEFT,
)

Cell = tuple[str, str]
"""Text and its style."""


@dataclass(frozen=True, slots=True)
class _Column:
    """`rank`: what has the highest goes first where there is no room."""

    name: str
    rank: int
    make: Callable[[SwarmPeerView, StatusView], Cell]
    justify: Literal["left", "right"] = "right"


def sort_peers(reading: Reading) -> list[SwarmPeerView]:
    """Other digests first, then this node, members, candidates and the rest; silent ones last."""
    newest = max((peer.heard_round for peer in reading.swarm.peers), default=-1)

    def order(peer: SwarmPeerView) -> tuple[bool, bool, int, int, bytes]:
        return (
            peer.digest is not DigestVerdict.DIFFERENT,
            peer.peer != reading.status.peer,
            STANDINGS.index(peer.standing),
            max(0, newest - 1 - peer.heard_round),
            peer.peer,
        )

    return sorted(reading.swarm.peers, key=order)


def draw_peers(reading: Reading, width: int, height: int | None) -> list[Text]:
    """A header and one line per peer, at most `height` lines; then a line counts the others."""
    peers = sort_peers(reading)
    if not peers:
        return [Text("no peer is known yet", "dim")]
    unlisted = reading.swarm.known - len(peers)
    room = len(peers)
    if height is not None:
        has_rest = unlisted > 0 or 1 + len(peers) > height
        room = min(room, max(0, height - 1 - has_rest))
    lines = _draw_table(peers[:room], reading.status, width)
    rest = peers[room:]
    if rest or unlisted:
        lines.append(Text(_format_rest(rest, unlisted), "dim"))
    return lines


def _format_rest(rest: Sequence[SwarmPeerView], unlisted: int) -> str:
    counts = Counter(peer.standing for peer in rest)
    kinds = [f"{counts[standing]} {standing.value}" for standing in STANDINGS if counts[standing]]
    if unlisted:
        kinds.append(f"{unlisted} not heard of lately")
    return f"and {len(rest) + unlisted} more: {', '.join(kinds)}"


def _draw_table(peers: Sequence[SwarmPeerView], status: StatusView, width: int) -> list[Text]:
    columns = list(_COLUMNS)
    while True:
        table = [[column.make(peer, status) for column in columns] for peer in peers]
        widths = [
            max([len(column.name), *(len(row[index][0]) for row in table)])
            for index, column in enumerate(columns)
        ]
        if sum(widths) + GAP * (len(widths) - 1) <= width or len(columns) == 1:
            break
        columns.remove(max(columns, key=lambda column: column.rank))
    header = [(column.name, "bold") for column in columns]
    return [_draw_row(row, columns, widths) for row in (header, *table)]


def _draw_row(row: Sequence[Cell], columns: Sequence[_Column], widths: Sequence[int]) -> Text:
    line = Text(no_wrap=True)
    for index, ((text, style), column, width) in enumerate(zip(row, columns, widths, strict=True)):
        line.append(" " * GAP if index else "")
        pad = " " * (width - len(text))
        line.append(pad if column.justify == "right" else "")
        line.append(text, style)
        line.append(pad if column.justify == "left" else "")
    return line


def shorten_peer_id(peer: bytes) -> str:
    """The end of a peer id."""
    return "…" + encode_peer_id(peer)[-SHORT_LETTERS:]


def _make_short_id(peer: SwarmPeerView, status: StatusView) -> Cell:
    return shorten_peer_id(peer.peer), "bold" if peer.peer == status.peer else ""


def _make_id(peer: SwarmPeerView, status: StatusView) -> Cell:
    return encode_peer_id(peer.peer), "dim"


def _make_standing(peer: SwarmPeerView, status: StatusView) -> Cell:
    style = "" if peer.standing is Standing.MEMBER else "yellow"
    return peer.standing.value, style


def _make_link(peer: SwarmPeerView, status: StatusView) -> Cell:
    if peer.peer == status.peer:
        return "you", "bold"
    if not peer.connected:
        return NOTHING, "dim"
    return f"{peer.rtt_ms} ms" if peer.rtt_ms else "linked", ""


def _make_round(peer: SwarmPeerView, status: StatusView) -> Cell:
    if peer.heard_round < 0:
        return "not heard", "yellow" if peer.standing is Standing.MEMBER else "dim"
    is_behind = status.round - peer.heard_round > 1
    return f"{peer.heard_round:,}", "yellow" if is_behind else ""


def _make_came(peer: SwarmPeerView, status: StatusView) -> Cell:
    """How long after the round's start its header came; late after the contribute phase."""
    if not peer.heard_ms or not status.round_ms:
        return NOTHING, "dim"
    after_ms = peer.heard_ms - status.genesis_ms - peer.heard_round * status.round_ms
    due_ms = status.round_ms * (status.train_bps + status.contribute_bps) // 10_000
    return f"{after_ms / 1000:+.2f} s", "yellow" if after_ms > due_ms else ""


def _make_samples(peer: SwarmPeerView, status: StatusView) -> Cell:
    return (f"{peer.samples:,}", "") if peer.heard_round >= 0 else (NOTHING, "dim")


def _make_loss(peer: SwarmPeerView, status: StatusView) -> Cell:
    return (NOTHING, "dim") if math.isnan(peer.loss) else (f"{peer.loss:.3f}", "")


def _make_payload(peer: SwarmPeerView, status: StatusView) -> Cell:
    if peer.heard_round < 0:
        return NOTHING, "dim"
    if not peer.k:
        return "heartbeat", "dim"
    return ("held", "") if peer.held else ("missing", "yellow")


def _make_digest(peer: SwarmPeerView, status: StatusView) -> Cell:
    match peer.digest:
        case DigestVerdict.DIFFERENT:
            return "DIFFERENT", "bold red"
        case DigestVerdict.EQUAL:
            return "equal", "green"
        case DigestVerdict.UNKNOWN:
            return NOTHING, "dim"


def _make_rounds(peer: SwarmPeerView, status: StatusView) -> Cell:
    return f"{peer.rounds:,}", ""


def _make_share(peer: SwarmPeerView, status: StatusView) -> Cell:
    return f"{peer.share:.1%}", ""


_COLUMNS: Final = (
    _Column("peer", 0, _make_short_id, "left"),
    _Column("peer id", 11, _make_id, "left"),
    _Column("standing", 2, _make_standing, "left"),
    _Column("link", 3, _make_link),
    _Column("round", 4, _make_round),
    _Column("came", 6, _make_came),
    _Column("samples", 9, _make_samples),
    _Column("loss", 7, _make_loss),
    _Column("payload", 8, _make_payload, "left"),
    _Column("digest", 1, _make_digest, "left"),
    _Column("rounds", 10, _make_rounds),
    _Column("share", 5, _make_share),
)
