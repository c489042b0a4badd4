"""Who may come in by a socket: counted by where it comes from, before it has cost anything.

Keys cost nothing, addresses do. A household, a lab, a provider's rack is a /24 of IPv4 or a /56 of
IPv6: what comes from there shares a part of the room. Loopback and private addresses have a part
several times as large, for behind them may be everybody: a proxy and a container's bridge show all
the world at one address. No clock, no I/O.
"""

import ipaddress
from collections import Counter
from collections.abc import Callable
from typing import Final

from demo_node.mesh import bounds
from demo_node.ports import Refusal

_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address

_NETWORK_BITS: Final = {4: 24, 6: 56}
_HOUSEHOLD_BITS: Final = {4: 32, 6: 64}


def find_network(host: str) -> str:
    """The /24 or /56 of an address, which counts as one."""
    return _cut(host, _NETWORK_BITS)


def find_household(host: str) -> str:
    """The /32 or /64 of an address: what one router has, or one machine."""
    return _cut(host, _HOUSEHOLD_BITS)


def is_shared(host: str) -> bool:
    """Is it a loopback or private address, behind which may be everybody?"""
    ip = _read(host)
    return ip is None or not ip.is_global


def _cut(host: str, bits: dict[int, int]) -> str:
    ip = _read(host)
    return host if ip is None else str(ipaddress.ip_network((ip, bits[ip.version]), strict=False))


def _read(host: str) -> _Ip | None:
    try:
        ip = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip


class Entry:
    """One socket that was let in. It holds its place until `leave`."""

    def __init__(self, gate: "Gate", network: str) -> None:
        self._gate = gate
        self._network = network
        self._is_inside = True
        self._is_shaking = True

    def welcome(self) -> None:
        """The handshake is over: we know whose key it is. Twice is fine."""
        if self._is_shaking:
            self._is_shaking = False
            self._gate.shaking.subtract([self._network])

    def leave(self) -> None:
        """The socket is gone. Twice is fine."""
        self.welcome()
        if self._is_inside:
            self._is_inside = False
            self._gate.inside.subtract([self._network])


class Gate:
    """Counts what came in: all of it, and that of each network."""

    def __init__(self, is_banned: Callable[[str], bool] = lambda host: False) -> None:
        """`is_banned` is asked for every address that knocks."""
        self._is_banned = is_banned
        self.inside = Counter[str]()
        self.shaking = Counter[str]()
        self.refused = Counter[Refusal]()

    def admit(self, host: str) -> Entry | None:
        """A place for a socket from this address; None, and counted, where there is none."""
        network, is_near = find_network(host), is_shared(host)
        refusal = self._find_refusal(host, network, is_near)
        if refusal is not None:
            self.refused[refusal] += 1
            return None
        self.inside = +self.inside  # networks of which nobody is left are forgotten
        self.shaking = +self.shaking
        self.inside[network] += 1
        self.shaking[network] += 1
        return Entry(self, network)

    def _find_refusal(self, host: str, network: str, is_near: bool) -> Refusal | None:
        if self._is_banned(host):
            return Refusal.BANNED
        most = bounds.INBOUND_PER_SHARED_NETWORK_MAX if is_near else bounds.INBOUND_PER_NETWORK_MAX
        if self.inside[network] >= most:
            return Refusal.NETWORK
        if self.inside.total() >= bounds.INBOUND_MAX:
            return Refusal.FULL
        most = (
            bounds.HANDSHAKES_PER_SHARED_NETWORK_MAX
            if is_near
            else bounds.HANDSHAKES_PER_NETWORK_MAX
        )
        if self.shaking[network] >= most or self.shaking.total() >= bounds.HANDSHAKES_MAX:
            return Refusal.HANDSHAKES
        return None
