"""Every sort of frame that a peer can send but payloads: sound ones, and a node that reads them."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.kad_dht.pb import kademlia_pb2
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils import encode_delim
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from demo_node.mesh import gossip, kad_frames
from demo_node.mesh.blob_frames import (
    HEAD_BYTES,
    LENGTH_BYTES,
    Garbage,
    decode_head,
    decode_request,
    decode_request_length,
    encode_head,
    encode_request,
)
from demo_node.mesh.negotiation import LineCommunicator
from demo_node.ports import Blob, BlobRequest
from demo_node.sim.keys import peer_name
from demo_protocol import answers, sets
from demo_protocol.chain import make_bundle
from demo_protocol.errors import Reject
from demo_protocol.events import GossipReceived, HeadersFetched, RecordsFetched
from demo_protocol.identity import Kind
from demo_protocol.limits import HEADERS_PER_ROUND_MAX, JOINS_KEPT_MAX, PENDING_MAX
from demo_protocol.manifest import decode_manifest, encode_manifest
from demo_protocol.receive import blames_sender, on_gossip, on_headers
from demo_protocol.recording import on_records
from demo_protocol.schedule import round_start_ms
from demo_protocol.view import View
from tests.builders import MANIFEST, RUN_ID, Tree, header, view, wish

HOLDER: Final = peer_name(77)
ROUND: Final = 4


@dataclass(frozen=True, slots=True)
class Sort:
    """One sort of frame: who reads it, and sound ones to damage. `kind` where it is signed."""

    read: Callable[[bytes], object]
    sound: tuple[bytes, ...]
    kind: Kind | None = None


@dataclass
class Node:
    """A node that hears frames."""

    tree: Tree
    records: list[bytes]
    believed: View = field(init=False)

    def __post_init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """As after a start."""
        self.believed = view(root=self.tree.state(self.records[1]))

    def hear(self, kind: Kind, raw: bytes) -> None:
        """By gossip. Who sent what is refused can always be told guilty or not."""
        now_ms = round_start_ms(MANIFEST.schedule, ROUND) + 2_000
        event = GossipReceived(now_ms, kind, raw, HOLDER)
        try:
            on_gossip(self.believed, event)
        except Reject:
            blames_sender(self.believed, event)
            raise
        finally:
            self.check_bounds()

    def take_headers(self, raw: bytes) -> None:
        """As the answer of somebody who was asked."""
        now_ms = round_start_ms(MANIFEST.schedule, ROUND) + 2_000
        on_headers(self.believed, HeadersFetched(now_ms, sets.decode_headers(raw), HOLDER))
        self.check_bounds()

    def take_records(self, raw: bytes) -> None:
        """The same."""
        bundles = answers.decode_records(raw)
        answers.decode_links(bundles, RUN_ID, self.records[-1])
        now_ms = round_start_ms(MANIFEST.schedule, 50)
        on_records(self.believed, RecordsFetched(now_ms, bundles, HOLDER))
        self.check_bounds()

    def check_bounds(self) -> None:
        """What it remembers of others."""
        pool = self.believed.pool
        assert len(pool.wishes) <= JOINS_KEPT_MAX + 1
        assert len(pool.pending) <= PENDING_MAX
        known = len(self.believed.head_state.known)
        assert all(len(h) <= HEADERS_PER_ROUND_MAX + known for h in pool.by_round.values())


class Said:
    """What a peer says in a negotiation, and then its end."""

    def __init__(self, said: bytes) -> None:
        self._left = said

    async def read(self, n: int | None = None) -> bytes:
        """The next bytes."""
        said, self._left = self._left[:n], self._left[n or len(self._left) :]
        return said


def finish(talk: Coroutine[Any, Any, object]) -> None:
    """Run what never waits."""
    try:
        talk.send(None)
    except StopIteration:
        return
    talk.close()
    raise AssertionError("it waited")


def read_line(raw: bytes) -> None:
    """As at the beginning of every connection and stream."""
    finish(LineCommunicator(Said(raw)).read())  # type: ignore[arg-type]


def read_rpc(raw: bytes) -> None:
    """A frame of gossipsub; each message in it is looked at as pubsub does."""
    for message in rpc_pb2.RPC.FromString(raw).publish[:8]:
        gossip._is_signed(message)
        ID(message.from_id).to_base58()


def make_rpc() -> bytes:
    """With a message that is signed, and some control."""
    key = create_new_key_pair(bytes(32))
    message = rpc_pb2.Message(
        from_id=ID.from_pubkey(key.public_key).to_bytes(),
        seqno=bytes(8),
        data=header().raw,
        topicIDs=["demo"],
        key=key.public_key.serialize(),
    )
    unsigned = message.SerializeToString()
    message.signature = key.private_key.sign(b"libp2p-pubsub:" + unsigned)
    control = rpc_pb2.ControlMessage(
        ihave=[rpc_pb2.ControlIHave(topicID="demo", messageIDs=[b"12", b"34"])],
        graft=[rpc_pb2.ControlGraft(topicID="demo")],
    )
    sub = rpc_pb2.RPC.SubOpts(subscribe=True, topicid="demo")
    return rpc_pb2.RPC(publish=[message], control=control, subscriptions=[sub]).SerializeToString()


def read_dht(raw: bytes) -> None:
    """A message of the DHT, as question and as answer, of somebody on the internet."""
    heard: dict[bytes, list[str]] = {}
    for asked in (kademlia_pb2.Message.FIND_NODE, kademlia_pb2.Message.GET_PROVIDERS):
        try:
            shown = kad_frames.take_reply(raw, asked, "/ip4/8.8.8.8/tcp/1", heard.__setitem__)
        except Garbage:
            continue
        assert len(shown) <= len(raw) + kad_frames.FRAME_BYTES_MAX
    assert len(heard) <= 2 * kad_frames.PEERS_MAX
    assert not [a for known in heard.values() for a in known if "/192.168." in a]
    kad_frames.take_request(raw, ID(bytes(38)).to_bytes(), "/ip4/8.8.8.8/tcp/1")


def make_dht() -> tuple[bytes, ...]:
    """Questions and answers; one that no honest peer has."""
    kinds = kademlia_pb2.Message
    name = ID.from_pubkey(create_new_key_pair(bytes(32)).public_key).to_bytes()
    places = ("/ip4/8.8.4.4/tcp/4001", "/ip4/192.168.1.9/tcp/631", "/dns4/a.example/tcp/1")
    where = [Multiaddr(place).to_bytes() for place in places]
    peers = [kinds.Peer(id=name, addrs=where) for _ in range(3)]
    key = kad_frames.make_key(RUN_ID)
    return tuple(
        kinds(type=kind, key=key, closerPeers=peers, providerPeers=peers).SerializeToString()
        for kind in (kinds.FIND_NODE, kinds.GET_PROVIDERS, kinds.ADD_PROVIDER, kinds.PUT_VALUE)
    )


def make_sorts(node: Node) -> dict[str, Sort]:
    """All that is read of what a peer sends."""
    tree, records = node.tree, node.records
    headers = tuple(header(n, ROUND, k=k).raw for n in range(6) for k in (0, 2))
    proposals = tuple(tree.propose(records[-1], ROUND, [n, 3]).raw for n in range(3))
    wishes = tuple(wish(n, ROUND, joins=j).raw for n in range(9) for j in (True, False))
    encoded = [answers.encode_bundle(make_bundle(tree.chain[r])) for r in records[1:]]
    standing = answers.HeadAnswer(
        head=records[-1], round=4, snapshot_record=records[1], height=4, syncing=False,
        snapshot_root=bytes(32),
    )  # fmt: skip
    known = sets.Summary(2, (bytes(16), bytes(16)), bytes(16))
    differing = sets.Difference(records[-1], 4, (bytes(32),), tuple(sorted(records))[:2])
    request = BlobRequest(Blob.PAYLOAD, bytes(32), 7)
    return {
        "header": Sort(lambda raw: node.hear(Kind.HEADER, raw), headers, Kind.HEADER),
        "proposal": Sort(lambda raw: node.hear(Kind.PROPOSAL, raw), proposals, Kind.PROPOSAL),
        "membership": Sort(lambda raw: node.hear(Kind.MEMBERSHIP, raw), wishes, Kind.MEMBERSHIP),
        "gossip rpc": Sort(read_rpc, (make_rpc(),)),
        "dht": Sort(read_dht, make_dht()),
        "negotiation": Sort(read_line, tuple(map(encode_delim, (b"/multistream/1.0.0", b"na")))),
        "request": Sort(decode_request, (encode_request(request)[LENGTH_BYTES:],)),
        "request length": Sort(decode_request_length, (encode_request(request)[:LENGTH_BYTES],)),
        "reply": Sort(
            lambda raw: decode_head(raw[:HEAD_BYTES].ljust(HEAD_BYTES, b"\0"), request, 1 << 20),
            (encode_head(b"12"), encode_head(None)),
        ),
        "headers": Sort(node.take_headers, (sets.encode_headers(headers[:4]),)),
        "records": Sort(node.take_records, (answers.encode_records(encoded),)),
        "head": Sort(answers.decode_head, (answers.encode_head(standing),)),
        "peers": Sort(
            answers.decode_peers, (answers.encode_peers(["/ip4/8.8.8.8/tcp/1/p2p/12D3"] * 3),)
        ),
        "time": Sort(answers.decode_time, (answers.encode_time(1_800_000_000_000),)),
        "chain state": Sort(
            answers.decode_chain_state,
            (answers.encode_chain_state(tree.state(records[-1])),),
        ),
        "sets asked": Sort(sets.decode_summary, (sets.encode_summary(known),)),
        "sets": Sort(sets.decode_difference, (sets.encode_difference(differing),)),
        "names": Sort(sets.decode_header_names, (sets.encode_header_names(records[:3]),)),
        "manifest": Sort(decode_manifest, (encode_manifest(MANIFEST),)),
    }
