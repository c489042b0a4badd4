"""What peers answer when asked: parts of the chain, where a joiner may start, addresses.

Every decoder raises Reject on bytes no honest peer would send.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from demo_protocol.errors import Reject
from demo_protocol.events import Bundle
from demo_protocol.identity import compute_key
from demo_protocol.limits import (
    ADDRESS_BYTES_MAX,
    ADDRESSES_MAX,
    CONTRIBUTIONS_MAX,
    HASH_BYTES,
    PEER_BYTES,
    PORT_BYTES,
    REACH_REPLY_BYTES_MAX,
    RECORDS_PER_REPLY_MAX,
)
from demo_protocol.messages import Proposal, Sealed, decode_proposal
from demo_protocol.pb import wire_pb2
from demo_protocol.reach import DialBack, find_version
from demo_protocol.roster import SAMPLES_HISTORY, ChainState, Member

AnyMessage = TypeVar("AnyMessage", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadAnswer:
    """Where a peer stands, and a snapshot it can give (empty record: none).

    One that is `syncing` knows no better than whoever asks: others are to be asked. `final` is
    the record that it will not leave (rule 19), empty for none; `snapshot_root` that of the state
    at `snapshot_record` (rule 21). It has payloads of the rounds since `payloads_from`.
    """

    head: bytes
    round: int
    snapshot_record: bytes
    height: int
    syncing: bool
    final: bytes = b""
    snapshot_root: bytes = b""
    payloads_from: int = 0


def encode_bundle(bundle: Bundle) -> bytes:
    """One record with its headers, as the chain log keeps it."""
    return wire_pb2.RecordBundle(
        proposal=bundle.proposal, headers=bundle.headers
    ).SerializeToString()


def decode_bundle(raw: bytes) -> Bundle:
    """Inverse of `encode_bundle`."""
    return _bundle(_parse(wire_pb2.RecordBundle(), raw))


def encode_records(bundles: Iterable[bytes]) -> bytes:
    """Encoded bundles, oldest first, as one answer."""
    records = wire_pb2.Records()
    for raw in bundles:
        records.records.add().ParseFromString(raw)
    return records.SerializeToString()


def decode_records(raw: bytes) -> tuple[Bundle, ...]:
    """Bundles of an answer, oldest first."""
    message = _parse(wire_pb2.Records(), raw)
    if len(message.records) > RECORDS_PER_REPLY_MAX:
        raise Reject("more records than an answer may hold")
    return tuple(_bundle(record) for record in message.records)


@dataclass(frozen=True, slots=True)
class Link:
    """A record of an answer, its parent and its round, and what it says of its parent's state.

    `root` is empty where it carries none (rule 21).
    """

    record: bytes
    parent: bytes
    round: int
    digest: bytes = b""
    root: bytes = b""


def decode_links(
    bundles: Sequence[Bundle],
    run_id: bytes,
    record: bytes,
    decode_proposal: Callable[[bytes, bytes], Sealed[Proposal]] = decode_proposal,
) -> list[Link]:
    """`record` and its ancestors, newest first, as an answer that was asked for it holds them.

    Raises Reject where it holds anything else: whoever follows such an answer to the parent of
    what it holds, and so on, would never come to an end.
    """
    links = []
    named, below_round = record, None
    for bundle in reversed(bundles):
        proposal = decode_proposal(bundle.proposal, run_id)
        body = proposal.body
        if proposal.hash != named or (below_round is not None and body.round >= below_round):
            raise Reject("an answer that is not a chain")
        links.append(
            Link(proposal.hash, body.parent, body.round, body.parent_digest, body.state_root)
        )
        named, below_round = body.parent, body.round
    return links


def encode_head(answer: HeadAnswer) -> bytes:
    """Answer to HEAD."""
    return wire_pb2.Head(
        head=answer.head,
        round=max(answer.round, 0),
        snapshot_record=answer.snapshot_record,
        height=answer.height,
        syncing=answer.syncing,
        final=answer.final,
        snapshot_root=answer.snapshot_root,
        payloads_from=max(answer.payloads_from, 0),
    ).SerializeToString()


def decode_head(raw: bytes) -> HeadAnswer:
    """Inverse of `encode_head`."""
    message = _parse(wire_pb2.Head(), raw)
    lengths = {len(message.snapshot_record), len(message.snapshot_root)}
    if len(message.head) != HASH_BYTES or lengths not in ({0}, {HASH_BYTES}):
        raise Reject("a head answer with hashes of the wrong length")
    if len(message.final) not in (0, HASH_BYTES):
        raise Reject("a head answer with hashes of the wrong length")
    return HeadAnswer(
        head=message.head,
        round=message.round,
        snapshot_record=message.snapshot_record,
        height=message.height,
        syncing=message.syncing,
        final=message.final,
        snapshot_root=message.snapshot_root,
        payloads_from=message.payloads_from,
    )


def encode_time(now_ms: int) -> bytes:
    """Answer to TIME: this machine's raw clock."""
    return wire_pb2.Time(now_ms=now_ms).SerializeToString()


def decode_time(raw: bytes) -> int:
    """Inverse of `encode_time`: Unix milliseconds."""
    return _parse(wire_pb2.Time(), raw).now_ms


def encode_peers(addresses: Iterable[str]) -> bytes:
    """Answer to PEERS."""
    return wire_pb2.Peers(addresses=list(addresses)[:ADDRESSES_MAX]).SerializeToString()


def decode_peers(raw: bytes) -> tuple[str, ...]:
    """Multiaddrs of an answer. They are only text: dialling them is the mesh's risk to judge."""
    message = _parse(wire_pb2.Peers(), raw)
    if len(message.addresses) > ADDRESSES_MAX:
        raise Reject("more addresses than an answer may hold")
    if any(len(address) > ADDRESS_BYTES_MAX for address in message.addresses):
        raise Reject("an address of impossible length")
    return tuple(message.addresses)


def encode_port(port: int) -> bytes:
    """The key of a request for REACH."""
    return port.to_bytes(PORT_BYTES)


def decode_port(key: bytes) -> int:
    """Inverse of `encode_port`. Raises Reject."""
    port = int.from_bytes(key)
    if len(key) != PORT_BYTES or not port:
        raise Reject("no port to dial back")
    return port


def encode_dial_back(found: DialBack) -> bytes:
    """Answer to REACH."""
    return wire_pb2.DialBack(address=found.address, reached=found.reached).SerializeToString()


def decode_dial_back(raw: bytes, port: int) -> DialBack:
    """Inverse of `encode_dial_back`, where `port` was asked for. Raises Reject."""
    if len(raw) > REACH_REPLY_BYTES_MAX:
        raise Reject("too long for an address")
    message = _parse(wire_pb2.DialBack(), raw)
    if find_version(message.address, port) is None:
        raise Reject("not the port that was asked for, or no number for a host")
    return DialBack(message.address, message.reached)


def encode_chain_state(state: ChainState) -> bytes:
    """The chain's state at a record, for a snapshot."""
    message = wire_pb2.ChainState(
        record=state.record,
        parent=state.parent,
        round=state.round,
        height=state.height,
        cursor=state.cursor,
        turns=state.turns,
    )
    for _, member in sorted(state.known.items()):
        message.members.add(
            peer=member.peer,
            admitted_by=member.admitted_by,
            since_round=member.since_round,
            credited_round=member.credited_round,
            included=member.included,
            left=member.left,
            samples=member.samples,
            member_round=member.member_round,
            contributed=member.contributed,
            samples_total=member.samples_total,
            first_round=member.first_round,
            last_round=member.last_round,
            removed_until=member.removed_until,
            credited_turns=member.credited_turns,
            never_drawn=member.never_drawn,
        )
    for round_, peer in sorted(state.credits):
        message.credits.add(round=round_, peer=peer)
    for round_, peers in sorted(state.due.items()):
        message.due.add(round=round_, peers=sorted(peers))
    return message.SerializeToString()


def decode_chain_state(raw: bytes) -> ChainState:
    """Inverse of `encode_chain_state`."""
    message = _parse(wire_pb2.ChainState(), raw)
    known = [_member(m) for m in message.members]
    if len(message.record) != HASH_BYTES or len({m.peer for m in known}) != len(known):
        raise Reject("a chain state without its record, or with a peer twice")
    if any(len(c.peer) != PEER_BYTES for c in message.credits):
        raise Reject("a credit without its peer")
    if any(len(peer) != PEER_BYTES for due in message.due for peer in due.peers):
        raise Reject("a turn without its peer")
    return ChainState(
        record=message.record,
        parent=message.parent,
        round=message.round,
        height=message.height,
        cursor=message.cursor,
        known={m.peer: m for m in known},
        credits=frozenset((c.round, c.peer) for c in message.credits),
        turns=message.turns,
        due={due.round: frozenset(due.peers) for due in message.due},
    )


def _member(message: wire_pb2.ChainState.Member) -> Member:
    if len(message.peer) != PEER_BYTES or len(message.admitted_by) not in (0, HASH_BYTES):
        raise Reject("a member without its key")
    if len(message.samples) > SAMPLES_HISTORY:
        raise Reject("a member with too long a history")
    return Member(
        peer=message.peer,
        key=compute_key(message.admitted_by, message.peer),
        admitted_by=message.admitted_by,
        since_round=message.since_round,
        credited_round=message.credited_round,
        included=message.included,
        left=message.left,
        samples=tuple(message.samples),
        member_round=message.member_round,
        contributed=message.contributed,
        samples_total=message.samples_total,
        first_round=message.first_round,
        last_round=message.last_round,
        removed_until=message.removed_until,
        credited_turns=message.credited_turns,
        never_drawn=message.never_drawn,
    )


def _bundle(message: wire_pb2.RecordBundle) -> Bundle:
    if len(message.headers) > CONTRIBUTIONS_MAX:
        raise Reject("a record with more headers than a proposal may list")
    return Bundle(message.proposal, tuple(message.headers))


def _parse(message: AnyMessage, raw: bytes) -> AnyMessage:
    try:
        message.ParseFromString(raw)
    except DecodeError:
        raise Reject("not a protobuf message of this kind") from None
    return message
