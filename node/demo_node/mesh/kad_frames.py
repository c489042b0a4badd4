"""What is taken and told of kad-dht's messages: kept to what finding a run's nodes needs, as bytes.

    key          b"/demo/" and the run id, 32 bytes; in FIND_NODE also a peer id or 32 random bytes
    FIND_NODE, GET_PROVIDERS   asked and answered
    ADD_PROVIDER               only of whoever sends it; the answer repeats the key

Values are refused altogether, signed records and whatever else there is are left out. Addresses are
held to what PEERS' are held to (rule 22): of a peer that is seen on the internet, none that is
private. Source: libp2p's kad-dht specification.
"""

from collections.abc import Callable, Iterable
from typing import Final

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from google.protobuf.message import DecodeError
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from demo_node.mesh.addresses import decode_address
from demo_node.mesh.blob_frames import Garbage
from demo_node.mesh.peer_id import decode_peer_id_bytes, encode_peer_id
from demo_node.ports import Offence
from demo_protocol.limits import HASH_BYTES
from demo_protocol.networks import is_for

FRAME_BYTES_MAX: Final = 16 << 10
"""Of a message: 40 peers with 4 addresses each are 6 KB."""

PEERS_MAX: Final = 20
"""Of each sort in one message, the library's bucket; what is beyond is not looked at."""

ADDRESSES_MAX: Final = 4
"""Of one peer."""

ADDRESS_BYTES_MAX: Final = 128
"""As bytes; with 16 of an address and 2 of a port, what is longer is a long name."""

_PREFIX: Final = b"/demo/"
_ASKED: Final = frozenset({Message.FIND_NODE, Message.GET_PROVIDERS, Message.ADD_PROVIDER})
_TARGETS: Final = frozenset({HASH_BYTES, 38})
"""Lengths of what FIND_NODE looks for: random bytes; our keys and peer ids have one length."""

Heard = Callable[[bytes, list[str]], None]
"""Is told a peer's key and where it is said to be."""


def make_key(run_id: bytes) -> bytes:
    """Under which the nodes of a run are found."""
    return _PREFIX + run_id


def is_key(key: bytes) -> bool:
    """Is it the key of some run?"""
    return len(key) == len(_PREFIX) + HASH_BYTES and key.startswith(_PREFIX)


def take_request(raw: bytes, sender: bytes, seen_at: str) -> bytes:
    """A request of the peer with the id `sender`, without what is none of its business.

    `seen_at`: where that peer is seen. Raises Garbage.
    """
    message = _parse(raw)
    if message.type not in _ASKED:
        raise Garbage("asked the DHT for what it does not do", Offence.GARBAGE)
    kept = _begin(message)
    if message.type == Message.ADD_PROVIDER:
        own = [peer for peer in message.providerPeers[:PEERS_MAX] if peer.id == sender]
        _keep(own[:1], kept.providerPeers, seen_at)
    return kept.SerializeToString()


def take_reply(raw: bytes, asked: int, seen_at: str, heard: Heard) -> bytes:
    """An answer to a question of the type `asked`. `heard` is told all addresses in it.

    `seen_at`: where the peer is seen that gave it. Raises Garbage.
    """
    message = _parse(raw)
    if message.type != asked:
        raise Garbage("answered what it was not asked", Offence.GARBAGE)
    kept = _begin(message)
    if asked != Message.ADD_PROVIDER:
        _keep(message.closerPeers, kept.closerPeers, seen_at, heard)
        _keep(message.providerPeers, kept.providerPeers, seen_at, heard)
    return kept.SerializeToString()


def tell(raw: bytes, seen_at: str) -> bytes:
    """A message of our own library for a peer that is seen there: it is told what is for it."""
    message = Message.FromString(raw)
    kept = Message(type=message.type, key=message.key)
    for found, room in (
        (message.closerPeers, kept.closerPeers),
        (message.providerPeers, kept.providerPeers),
    ):
        _keep(found, room, seen_at)
    return kept.SerializeToString()


def read_type(raw: bytes) -> int:
    """The type of one of our own messages."""
    return int(Message.FromString(raw).type)


def read_address(raw: bytes, peer: bytes) -> str:
    """A multiaddr with its peer's id, as text. Raises ValueError where it is none of ours."""
    if len(raw) > ADDRESS_BYTES_MAX:
        raise ValueError("too long for an address")
    try:
        where = str(Multiaddr(raw))
    except Exception:  # of any kind: each protocol in it is read by code of its own
        raise ValueError("no multiaddr") from None
    address = f"{where}/p2p/{encode_peer_id(peer)}"
    decode_address(address)
    return address


def _parse(raw: bytes) -> Message:
    if len(raw) > FRAME_BYTES_MAX:
        raise Garbage("sent an oversize message of the DHT", Offence.GARBAGE)
    try:
        return Message.FromString(raw)
    except DecodeError:
        raise Garbage("sent no message of the DHT", Offence.GARBAGE) from None


def _begin(message: Message) -> Message:
    """The same, with its type and key only. Raises Garbage for a key that is no run's."""
    key = message.key
    is_target = message.type == Message.FIND_NODE and len(key) in _TARGETS
    is_answer = message.type == Message.FIND_NODE and not key
    if not (is_key(key) or is_target or is_answer):
        raise Garbage("asked the DHT for a key of no run", Offence.GARBAGE)
    return Message(type=message.type, key=key)


def _keep(
    found: Iterable[Message.Peer],
    room: RepeatedCompositeFieldContainer[Message.Peer],
    seen_at: str,
    heard: Heard = lambda peer, addresses: None,
) -> None:
    """Those of `found` that can take part, with the addresses that are for `seen_at`."""
    for peer in list(found)[:PEERS_MAX]:
        try:
            key = decode_peer_id_bytes(peer.id)
        except ValueError:
            continue
        addresses = {}
        for raw in peer.addrs[:ADDRESSES_MAX]:
            try:
                address = read_address(raw, key)
            except ValueError:
                continue
            if is_for(address, seen_at):
                addresses[address] = raw
        room.append(Message.Peer(id=peer.id, addrs=addresses.values(), connection=peer.connection))
        heard(key, list(addresses))
