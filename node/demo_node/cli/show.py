"""What the node says, as a JSON document or as text for a person."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from demo_node.mesh.peer_id import encode_peer_id
from demo_node.ports import BanView, PeerView
from demo_node.views import (
    ClockView,
    ContributorView,
    EventCount,
    HealthView,
    NodeState,
    PhaseView,
    ReachView,
    RoundView,
    SendingView,
    StatusView,
)
from demo_protocol.common_time import PEERS_MIN
from demo_protocol.reach import Reachability

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SHOWN_MS: Final = 5
"""A correction that is not 0.00 s."""

SCHEMA: Final = 1
"""Version of every JSON document. Keys are added; none changes its meaning or goes away."""


def describe_status(view: StatusView, health: HealthView) -> dict[str, Any]:
    """The document of `status --json`."""
    return {"schema": SCHEMA, **describe_view(view), "health": describe_view(health)}


def describe_peers(views: Iterable[PeerView], bans: Iterable[BanView] = ()) -> dict[str, Any]:
    """The document of `peers --json`."""
    peers = [{"peer_id": encode_peer_id(view.peer), **describe_view(view)} for view in views]
    banned = [{"peer_id": _name(ban), **describe_view(ban)} for ban in bans]
    return {"schema": SCHEMA, "peers": peers, "banned": banned}


def _name(ban: BanView) -> str:
    """The peer id; empty where an address is banned."""
    return encode_peer_id(ban.peer) if ban.peer else ""


def describe_rounds(views: Iterable[RoundView]) -> dict[str, Any]:
    """The document of `rounds --json`."""
    return {"schema": SCHEMA, "rounds": [describe_view(view) for view in views]}


def describe_view(view: "DataclassInstance") -> dict[str, Any]:
    """A view as JSON has it: hashes in hex, no NaN."""
    return {field.name: _to_json(getattr(view, field.name)) for field in fields(view)}


def _to_json(value: object) -> object:
    match value:
        case (
            ClockView()
            | ContributorView()
            | EventCount()
            | PhaseView()
            | ReachView()
            | SendingView()
        ):
            return describe_view(value)
        case bytes():
            return value.hex()
        case float():
            return None if math.isnan(value) else value  # JSON has no NaN
        case tuple() | list():
            return [_to_json(item) for item in value]
        case _:
            return value


def format_status(view: StatusView, warnings: str = "") -> str:
    """Some lines that say where the node stands; `warnings` of late in one of them."""
    lines = [("node", f"{view.peer_id}, pid {view.pid}, trainer {view.trainer_pid or 'not up'}")]
    state = f"{view.state.value}: {view.detail}" if view.detail else view.state.value
    lines.append(("state", state))
    if warnings:
        lines.append(("warnings", warnings))
    if view.round_ms:
        lines += [
            ("run", f"{view.run_name} ({view.run_id.hex()})"),
            ("round", _format_round_now(view)),
            ("head", _format_head(view)),
            ("final", _format_final(view)),
            ("parameters", f"{view.parameters:,}, digest {view.digest.hex()}"),
            (
                "swarm",
                f"{count(view.members, 'member')}, {count(view.candidates, 'candidate')}",
            ),
            ("clock", format_clock(view.clock)),
            ("training", _format_training(view)),
            ("held-out", _format_heldout(view)),
            ("sending", format_sending(view.sending)),
            ("contributed", _format_contribution(view)),
        ]
    if view.rival_peers:
        lines.insert(2, ("conflict", format_conflict(view)))
    lines.append(("peers", f"{view.peers} connected"))
    lines.append(("reachable", format_reach(view.reach)))
    lines.append(
        ("traffic", f"{format_bytes(view.bytes_in)} in, {format_bytes(view.bytes_out)} out")
    )
    lines += [("address", address) for address in view.addresses]
    if view.snapshot_path:
        lines.append(("snapshot", view.snapshot_path))
    if view.invitation:
        lines.append(("to join", view.invitation))
    return "\n".join(f"{name:<11} {text}" for name, text in lines)


def _format_round_now(view: StatusView) -> str:
    seconds = f"{view.round_ms / 1000:g} s"
    if view.state is NodeState.FINISHED:
        return f"all {view.rounds_total} are over ({seconds} each)"
    of = f" of {view.rounds_total}" if view.rounds_total else ""
    if view.round < 0:
        return f"not begun ({seconds} each)"
    return f"{view.round}{of} by the clock ({seconds} each), phase {view.phase.value}"


def _format_head(view: StatusView) -> str:
    if not view.height:
        return "no record yet"
    return f"record {_short(view.head)} of round {view.head_round}, number {view.height}"


def _format_final(view: StatusView) -> str:
    if not view.final_height:
        return "nothing yet"
    return (
        f"record {_short(view.final_record)} of round {view.final_round},"
        f" {view.height - view.final_height} before the head"
    )


def format_sending(view: SendingView) -> str:
    """How much is sent of each chunk, and why not more."""
    if not view.k:
        return "nothing yet"
    chosen = f"k {view.k} of {view.k_max}{', metered' if view.metered else ''}"
    copies = count(view.copies, "copy", "copies")
    need = f"{copies} of {format_bytes(view.payload_bytes)}"
    if view.passed_on_bytes:
        need += f" and {format_bytes(view.passed_on_bytes)} of others"
    window_s = view.window_ms / 1000
    if view.fixed:
        return f"{chosen}, as this node was told: {need} in {window_s:.1f} s"
    carried = format_bytes(view.uplink_bits_per_s / 8 * window_s)
    uplink = f"{view.uplink_bits_per_s / 1e6:.3g} Mbit/s"
    known = f"uplink {uplink}" if view.measured else f"uplink not measured yet, taken for {uplink},"
    return f"{chosen}: {known} carries {carried} in the {window_s:.1f} s window, {need} go out"


def format_conflict(view: StatusView) -> str:
    """That as many stand on a chain without our final record, and how to go there."""
    return (
        f"{count(view.rival_peers, 'peer')} on another chain, {view.own_peers} on this one; to go"
        f" there: demo-node adopt {view.rival_record.hex()[:16]}"
    )


def format_reach(view: ReachView) -> str:
    """Whether others can dial this node, and what to do where they cannot."""
    tried = f"{view.reached} of {count(view.asked, 'network')} that tried"
    match view.state:
        case Reachability.UNKNOWN:
            return "nobody has tried yet"
        case Reachability.PUBLIC:
            return f"public: {tried} came through, at {', '.join(view.addresses)}"
        case Reachability.RELAYED:
            return (
                f"relayed: others cannot dial this node ({tried}), but"
                f" {' and '.join(view.addresses)} bring members to it; to need no relay, forward"
                f" TCP port {view.port} of your router to it"
            )
        case Reachability.PRIVATE:
            part = (
                f"it still takes part through the {count(view.holders, 'peer')} that it dialled"
                if view.holders
                else "name a peer with --peers that it can dial"
            )
            return (
                f"private: others cannot dial this node ({tried}): forward TCP port {view.port} of"
                f" your router to it; {part}"
            )


def format_clock(clock: ClockView) -> str:
    """Whether peers vouch for this machine's clock, and what they make of it."""
    peers = count(clock.peers, "peer")
    corrected = f"corrected by {clock.correction_ms / 1000:+.2f} s"
    is_corrected = abs(clock.correction_ms) >= SHOWN_MS
    if not clock.verified:
        before = f", {corrected} before" if is_corrected else ""
        return f"unverified ({peers}; at least {PEERS_MIN} are needed){before}"
    return (
        f"{corrected if is_corrected else 'right'}, within {clock.error_ms} ms of most of {peers}"
    )


def _format_training(view: StatusView) -> str:
    tokens = f"{view.tokens_total:,} tokens in {view.train_ms_total / 1000:.1f} s"
    return tokens if math.isnan(view.loss) else f"loss {view.loss:.3f} nats per byte; {tokens}"


def _format_heldout(view: StatusView) -> str:
    if math.isnan(view.heldout_loss):
        return "no loss yet"
    return f"loss {view.heldout_loss:.3f} nats per byte after round {view.heldout_round}"


def _format_contribution(view: StatusView) -> str:
    mine = view.contribution
    if mine.first_round < 0:
        return "nothing that counted yet"
    return (
        f"{mine.rounds:,} {'round' if mine.rounds == 1 else 'rounds'}, {mine.samples:,} samples,"
        f" {mine.share:.1%} of all, since {format_since(mine, view)}"
    )


def format_since(view: ContributorView, status: StatusView) -> str:
    """The first round a peer contributed to, and when that was; it must have one."""
    since_ms = compute_since_ms(view, status)
    when = "" if since_ms is None else f" ({to_time(since_ms):%Y-%m-%d %H:%M} UTC)"
    return f"round {view.first_round}{when}"


def compute_since_ms(view: ContributorView, status: StatusView) -> int | None:
    """Start of the first round contributed to, Unix milliseconds; None where there is none."""
    if view.first_round < 0 or not status.round_ms:
        return None
    return status.genesis_ms + view.first_round * status.round_ms


def to_time(unix_ms: int) -> datetime:
    """Unix milliseconds as a time in UTC."""
    return datetime.fromtimestamp(unix_ms // 1000, UTC)


def format_peers(views: Sequence[PeerView], bans: Sequence[BanView] = ()) -> str:
    """One line per connected peer, then one for each that is kept out."""
    parts = [_format_connected(views)]
    if bans:
        rows = [
            (_name(ban) or ban.address, format_duration(ban.left_s), ban.offence.value)
            for ban in bans
        ]
        parts.append(format_table(("banned", "for", "because"), rows))
    return "\n\n".join(parts)


def _format_connected(views: Sequence[PeerView]) -> str:
    if not views:
        return "no peer is connected"
    rows = [
        (
            encode_peer_id(view.peer),
            ("we dialled" if view.outbound else "dialled us")
            + (", another run" if view.elsewhere else ""),
            f"{view.rtt_ms} ms" if view.rtt_ms else "-",
            format_duration(view.connected_s),
            str(view.score),
            view.address,
        )
        for view in views
    ]
    return format_table(("peer", "who", "round trip", "since", "score", "address"), rows)


def format_rounds(views: Sequence[RoundView]) -> str:
    """One line per round."""
    if not views:
        return "no round has been completed yet"
    header = ("round", "outcome", "record", "from", "ours", "loss", "latency", "trained", "payload")
    return format_table(header, [_format_round(view) for view in views])


def _format_round(view: RoundView) -> tuple[str, ...]:
    applied = bool(view.record)
    return (
        str(view.round),
        view.outcome.value,
        _short(view.record) if applied else "-",
        str(view.participants) if applied else "-",
        "yes" if view.included else "no" if view.due else "-",
        "-" if math.isnan(view.loss) else f"{view.loss:.3f}",
        f"{view.latency_ms / 1000:.2f} s" if applied else "-",
        f"{view.train_ms / 1000:.2f} s",
        format_bytes(view.payload_bytes),
    )


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as what stands in them."""
    table = [tuple(header), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )


def count(number: int, noun: str, nouns: str = "") -> str:
    """1 peer, 2 peers."""
    return f"{number} {noun}" if number == 1 else f"{number} {nouns or noun + 's'}"


def format_duration(seconds: float) -> str:
    """A while for people: 14 s, 3 min, 2 h 5 min, 3 d 4 h."""
    minutes = int(seconds) // 60
    if minutes < 1:
        return f"{max(0, int(seconds))} s"
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def format_bytes(size: float) -> str:
    """A number of bytes for people: 1.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _short(hash_: bytes) -> str:
    return hash_.hex()[:12]
