"""Names in addresses: hosts into numbers, and /dnsaddr into the addresses that its records list.

Host names are looked up as this machine does it, /etc/hosts included. TXT records it does not know:
those come from dnspython. The resolver that multiaddr brings follows records without a bound.
"""

import asyncio
import socket
from typing import TYPE_CHECKING, Final

from demo_node.mesh.addresses import LIST_PREFIX, decode_address, decode_list
from demo_protocol.networks import is_for

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver

_FAMILIES: Final = {
    "dns": socket.AF_UNSPEC,
    "dns4": socket.AF_INET,
    "dns6": socket.AF_INET6,
}

PLACES_MAX: Final = 4
"""Numbers of one name that are dialled: one that had hundreds would be dialled for an hour."""

LISTED_MAX: Final = 64
"""Addresses taken from all records below one /dnsaddr: go-libp2p takes 100 of one peer."""

QUESTIONS_MAX: Final = 8
"""Names asked below one /dnsaddr: a list may name lists, in a circle too."""

LOOKUP_S: Final = 5.0
"""For one question: an operator who waits for the first peer would rather hear that it failed."""

_RECORD: Final = "dnsaddr="


class NameUnknown(Exception):
    """A name leads nowhere; the text is one line that says why."""


class Names:
    """Looks names up anew each time: who moved is at another address."""

    def __init__(self, resolver: "Resolver | None" = None) -> None:
        """`resolver` is asked for TXT records, instead of the servers in /etc/resolv.conf."""
        self._resolver = resolver

    async def find_places(self, address: str, seen_at: str | None) -> list[str]:
        """The address with numbers for its host, best first; itself where it has one.

        `seen_at` is where the peer is seen that told of the name: where that may not have us dial
        (`is_for`) is left out. None: the operator did, who may name any. Raises NameUnknown.
        """
        _, family, host, *rest = address.split("/")
        if family not in _FAMILIES:
            return [address]
        port = int(rest[1])
        numbers = await self.look_up(host, port, _FAMILIES[family])
        ends = "/".join(rest)
        places = [f"/{'ip6' if ':' in n else 'ip4'}/{n}/{ends}" for n in numbers]
        allowed = [p for p in places if seen_at is None or is_for(p, seen_at)]
        if not allowed:
            raise NameUnknown(
                f"/{family}/{host}: it leads to a private address, and was told by no neighbour"
            )
        return allowed[:PLACES_MAX]

    async def look_up(self, host: str, port: int, family: int) -> list[str]:
        """Numbers of a host, best first. Raises NameUnknown."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(LOOKUP_S):
                found = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        except TimeoutError:
            raise NameUnknown(f"{host}: no answer from DNS in {LOOKUP_S:.0f} s") from None
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or "no name"
            raise NameUnknown(f"{host}: no such host ({why})") from None
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    async def read_list(self, address: str) -> list[str]:
        """Full addresses of peers that the TXT records of a /dnsaddr list. Raises NameUnknown.

        What a record says that is none of ours (other transports, keys of another kind) is left
        out, as the specification of dnsaddr asks.
        """
        lists, found, asked = [decode_list(address)], dict[str, None](), 0
        while lists and asked < QUESTIONS_MAX and len(found) < LISTED_MAX:
            asked += 1
            host, wanted = lists.pop(0)
            for record in await self._ask(host, is_first=asked == 1):
                if record.startswith(LIST_PREFIX):
                    lists += _find_list(record, wanted)
                elif _is_address(record) and record.endswith(wanted and f"/p2p/{wanted}"):
                    found[record] = None
        if not found:
            raise NameUnknown(f"{address}: its TXT records name no peer that can be dialled")
        return list(found)[:LISTED_MAX]

    async def _ask(self, host: str, *, is_first: bool) -> list[str]:
        """What the records of one name list. A list within a list may be missing."""
        import dns.asyncbackend  # 0.1 s, for those who name a /dnsaddr
        import dns.asyncresolver
        import dns.exception

        try:
            resolver = self._resolver or dns.asyncresolver.Resolver()
            answer = await resolver.resolve(
                f"_dnsaddr.{host}",
                "TXT",
                lifetime=LOOKUP_S,
                backend=dns.asyncbackend.get_backend("asyncio"),
            )
        except (dns.exception.DNSException, OSError) as error:
            if not is_first:
                return []
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise NameUnknown(f"{LIST_PREFIX}{host}: no TXT records at _dnsaddr ({why})") from None
        texts = [b"".join(record.strings).decode(errors="replace") for record in answer]
        return [text.removeprefix(_RECORD) for text in texts if text.startswith(_RECORD)]


def _find_list(record: str, wanted: str) -> list[tuple[str, str]]:
    """Host and peer of a list within a list, unless it is of another peer than is wanted."""
    try:
        host, peer = decode_list(record)
    except ValueError:
        return []
    return [(host, wanted or peer)] if not wanted or peer in ("", wanted) else []


def _is_address(record: str) -> bool:
    try:
        decode_address(record)
    except ValueError:
        return False
    return True
