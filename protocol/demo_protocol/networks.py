"""Which peers count as different ones where a majority is spoken of (rules 20 and 22), and which
addresses are whose business.

Keys cost nothing, addresses of many networks do. A peer on a loopback or private address counts
as a network of its own: those are of tests, and of one household.
"""

import ipaddress
from typing import Final

NETWORKS_WANTED: Final = 3
"""So many networks make a majority that is worth the name (PROTOCOL.md, "Digest and eclipse")."""

_THIS_MACHINE, _THIS_SITE, _EVERYWHERE = range(3)
"""Where an address leads to what it is meant to."""

_PREFIX_BITS: Final = {4: 16, 6: 32}


def compute_network(address: str, peer: bytes) -> str:
    """The network that `peer` is in: /16 of its IPv4 address, /32 of its IPv6 address.

    `address` is the multiaddr of a connection that stands, so its host answers there. What is no
    public address (loopback, private, a name) is told apart by the peer's key, names excepted:
    one person may own as many as there are. Who is reached by way of a relay counts for the
    relay's network: keys behind one cost no more than others, and it may be their owner's.
    """
    if address.startswith("/dns"):
        return "dns"
    ip = _find_ip(address)
    if ip is None or not ip.is_global:
        return f"peer/{peer.hex()}"
    return str(ipaddress.ip_network((ip, _PREFIX_BITS[ip.version]), strict=False))


def is_for(address: str, seen_at: str) -> bool:
    """Is `address` for a peer that is seen at the other one: to be told to it, or learned from it?

    Loopback addresses are for this machine, private ones for private networks. Somebody on the
    internet who was told them would know who lives here, and who tells them would have us dial our
    neighbours. A host's name is for everybody; so is what is no address of the internet at all.
    Who is seen by way of a relay may be anywhere, however near the relay is.
    """
    seen = _EVERYWHERE if is_relayed(seen_at) else compute_scope(seen_at)
    return compute_scope(address) >= seen


def is_relayed(address: str) -> bool:
    """Does it lead by way of a relay? Its host is the relay's, and says nothing of the peer's."""
    return "/p2p-circuit" in address


def compute_scope(address: str) -> int:
    """From how far away an address leads to its host: this machine, this site, everywhere."""
    ip = _find_ip(address)
    if ip is None or ip.is_global:
        return _EVERYWHERE
    return _THIS_MACHINE if ip.is_loopback or ip.is_unspecified else _THIS_SITE


def _find_ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The host of a multiaddr, if it is a number."""
    try:
        ip = ipaddress.ip_address([*address.split("/"), "", "", ""][2].split("%")[0])
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip
