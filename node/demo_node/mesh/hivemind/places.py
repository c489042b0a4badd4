"""Addresses: those of this node that p2pd listens on, of connected peers, and of whom to dial."""

import re
from collections.abc import Sequence

from demo_node.mesh.addresses import decode_address, split_circuit
from demo_node.mesh.hivemind.limits import ADDRESSES_MAX, PLACE_BYTES_MAX
from demo_node.mesh.hivemind.links import Link
from demo_node.mesh.peer_id import encode_peer_id
from demo_protocol.networks import is_for


def find_address(link: Link) -> str:
    """Where the peer can be dialled, as far as is known.

    For one that dialled us that is the host we see, with a port that it says it listens on.
    """
    seen = link.address.removesuffix(f"/p2p/{encode_peer_id(link.peer)}")
    if not link.outbound and "/p2p-circuit" not in seen:
        host = seen.split("/")[:3]
        told = sorted((p.split("/") for p in link.places), key=lambda place: place[:3] != host)
        ports = [t[4] for t in told if t[3:4] == ["tcp"] and t[4:5] and t[4].isdecimal()]
        if ports:
            seen = "/".join([*host, "tcp", ports[0]])
    return f"{seen}/p2p/{encode_peer_id(link.peer)}"


def is_relay_address(text: str) -> bool:
    """A full multiaddr of a peer itself: /dnsaddr is none, nor what leads there by a relay."""
    try:
        where, _ = decode_address(text)
    except ValueError:
        return False
    return split_circuit(where) is None


def choose_places(told: Sequence[str], met: Sequence[str]) -> list[str]:
    """Of a member's addresses those that are its to tell: none of our own network's by strangers.

    Whoever we are connected to shows how far our network reaches.
    """
    good = [t for t in told[:ADDRESSES_MAX] if len(t) <= PLACE_BYTES_MAX and _is_place(t)]
    return [place for place in good if all(is_for(place, other) for other in met)]


def _is_place(text: str) -> bool:
    """An address that p2pd may be told to dial, by way of a relay or not."""
    direct = r"/(ip4|ip6|dns|dns4|dns6)/[\w.:-]+/tcp/\d{1,5}"
    return bool(re.fullmatch(rf"{direct}(/p2p/\w{{40,64}}/p2p-circuit)?", text))
