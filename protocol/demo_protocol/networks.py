"""Which peers count as different ones where a majority is spoken of (rules 20 and 22).

Keys cost nothing, addresses of many networks do. A peer on a loopback or private address counts
as a network of its own: those are of tests, and of one household.
"""

import ipaddress
from typing import Final

NETWORKS_WANTED: Final = 3
"""So many networks make a majority that is worth the name (PROTOCOL.md, "Digest and eclipse")."""

_PREFIX_BITS: Final = {4: 16, 6: 32}


def compute_network(address: str, peer: bytes) -> str:
    """The network that `peer` is in: /16 of its IPv4 address, /32 of its IPv6 address.

    `address` is the multiaddr of a connection that stands, so its host answers there. What is no
    public address (loopback, private, a name) is told apart by the peer's key, names excepted:
    one person may own as many as there are.
    """
    family, host = (*address.split("/")[1:3], "", "")[:2]
    if family.startswith("dns"):
        return "dns"
    try:
        ip = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return f"peer/{peer.hex()}"
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if not ip.is_global:
        return f"peer/{peer.hex()}"
    return str(ipaddress.ip_network((ip, _PREFIX_BITS[ip.version]), strict=False))
