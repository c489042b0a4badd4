"""Dials peers back that ask for it (REACH), at the address where they are seen and seldom.

So that nobody has us dial a third party, or look through the ports of a machine that it shares with
others: what is told is only whether the very key that asks answered there.
"""

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Final

from demo_node.ports import Busy, Unreachable
from demo_protocol.answers import decode_port, encode_dial_back
from demo_protocol.errors import Reject
from demo_protocol.networks import is_relayed
from demo_protocol.reach import DialBack

HOST_PAUSE_S: Final = 30.0
"""From one dial to a host until the next one. Who asks does so about every ten minutes."""

PAUSE_S: Final = 0.5
AT_ONCE_MAX: Final = 4
"""For all hosts together: at most 120 dials a minute, and four that nobody has answered yet."""

SUBNET_BITS: Final = 64
"""Of an IPv6 address: below it, one machine has as many as it wants."""

Dial = Callable[[bytes, int], Awaitable[DialBack | None]]
"""`Libp2pMesh.dial_back`: (peer, port) -> what came of it, None where it is not connected."""


class DialsBack:
    """Answers REACH. A question that comes too soon is not held: others can be asked."""

    def __init__(
        self, dial: Dial, find_address: Callable[[bytes], str], now_s: Callable[[], float]
    ) -> None:
        """`find_address`: where a peer is seen, empty for none. `now_s` never goes back."""
        self._dial = dial
        self._find_address = find_address
        self._now_s = now_s
        self._dialled_s: dict[str, float] = {}
        """When each host was dialled last, the longest ago first; of the last HOST_PAUSE_S."""
        self._dialling = 0

    async def answer(self, peer: bytes, key: bytes) -> bytes | None:
        """The reply to a request for REACH; None where it is not one, or comes too soon again.

        Raises Busy where other hosts have their turn.
        """
        try:
            port = decode_port(key)
        except Reject:
            return None
        host = _find_host(self._find_address(peer))
        if not host or self._was_dialled(host):
            return None
        if not self._has_room():
            raise Busy("other hosts are dialled back")
        self._dialled_s[host] = self._now_s()
        self._dialling += 1
        try:
            found = await self._dial(peer, port)
        except Unreachable:
            return None
        finally:
            self._dialling -= 1
        return None if found is None else encode_dial_back(found)

    def _was_dialled(self, host: str) -> bool:
        now_s = self._now_s()
        while self._dialled_s:
            oldest = next(iter(self._dialled_s))
            if now_s - self._dialled_s[oldest] < HOST_PAUSE_S:
                break
            del self._dialled_s[oldest]
        return host in self._dialled_s

    def _has_room(self) -> bool:
        now_s = self._now_s()
        newest_s = next(reversed(self._dialled_s.values()), now_s - PAUSE_S)
        return self._dialling < AT_ONCE_MAX and now_s - newest_s >= PAUSE_S


def _find_host(address: str) -> str:
    """What counts as one host: an IPv4 address, a subnet of IPv6; empty where there is neither.

    By way of a relay nobody sees the peer's host.
    """
    if is_relayed(address):
        return ""
    try:
        ip = ipaddress.ip_address([*address.split("/"), "", "", ""][2].split("%")[0])
    except ValueError:
        return ""
    if ip.version == 4:
        return str(ip)
    return str(ipaddress.ip_network((ip, SUBNET_BITS), strict=False))
