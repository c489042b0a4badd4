"""Peers on the same LAN find each other by multicast DNS, without an address of anybody.

As libp2p's mDNS discovery says, in the form for private networks: services are named after a hash
of the run, so that only who knows the run finds its nodes. The library's own code blocks the thread
that it runs in, and tells any neighbour any address.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final

import ifaddr
import zeroconf
from zeroconf import ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from demo_node.mesh.addresses import decode_address, split_address
from demo_protocol.networks import is_for

TOLD_MAX: Final = 4
"""Addresses told of this node, and taken of another: one has a cable and a radio."""

TEXT_BYTES_MAX: Final = 1024
"""Of what a service says of itself; ours say at most 4 addresses of 90 bytes."""

ASKING_MAX: Final = 8
"""Services asked for their addresses at once; of others we shall hear again."""

ASK_MS: Final = 3000

LOOK_S: Final = 30.0
"""How often to look whether this machine has moved to another network."""

_HOME: Final = "/ip4/192.168.0.1"
_PREFIX: Final = b"dnsaddr="


def compute_service(run_id: bytes, swarm_key: bytes = b"") -> str:
    """The service type of a run: nobody learns the run from it, who knows the run can tell.

    In a private swarm only its own nodes can.
    """
    digest = hashlib.sha256(b"demo-node mdns 1" + run_id + swarm_key).hexdigest()
    return f"_p2p-{digest[:10]}._udp.local."  # 15 characters are the most that DNS-SD allows


class Neighbours:
    """Announces this node on its private networks, and hears of others there."""

    def __init__(
        self, listening: Callable[[], Sequence[str]], peer_id: str, hear: Callable[[str], None]
    ) -> None:
        """`listening`: where connections are accepted; `hear` is told addresses of others."""
        self._listening = listening
        self._peer_id = peer_id
        self._hear = hear
        self._asking: set[asyncio.Task[None]] = set()
        self._own = ""

    async def run(self, service: str) -> None:
        """Announce and listen until cancelled, on the private networks that there are by then.

        Where there is none, or none that multicasts, nobody is told and nothing raised.
        """
        while True:
            if hosts := self._find_hosts():
                with suppress(OSError, zeroconf.Error):
                    await self._serve(service, hosts)
            await asyncio.sleep(LOOK_S)

    def _find_hosts(self) -> dict[str, int]:
        return find_private_hosts(self._listening(), _list_interfaces())

    async def _serve(self, service: str, hosts: dict[str, int]) -> None:
        link = AsyncZeroconf(interfaces=sorted(hosts), ip_version=zeroconf.IPVersion.V4Only)
        try:
            await self._live(link, service, hosts)
        finally:
            for task in self._asking:
                task.cancel()
            await asyncio.shield(link.async_close())

    async def _live(self, link: AsyncZeroconf, service: str, hosts: dict[str, int]) -> None:
        name = os.urandom(16).hex()
        self._own = f"{name}.{service}"
        told = [f"/ip4/{h}/tcp/{port}/p2p/{self._peer_id}" for h, port in hosts.items()]
        info = AsyncServiceInfo(
            service,
            self._own,
            port=next(iter(hosts.values())),
            properties=encode_text(told[:TOLD_MAX]),
            server=f"{name}.local.",  # not the machine's own name: that is nobody's business
            parsed_addresses=list(hosts)[:TOLD_MAX],
        )
        browser = AsyncServiceBrowser(link.zeroconf, service, handlers=[self._on_change])
        try:
            await link.async_register_service(info)
            while self._find_hosts() == hosts:  # noqa: ASYNC110  no system tells of it
                await asyncio.sleep(LOOK_S)
        finally:
            await asyncio.shield(browser.async_cancel())

    def _on_change(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        """Called by the library with these names."""
        is_news = state_change is not ServiceStateChange.Removed
        if is_news and name != self._own and len(self._asking) < ASKING_MAX:
            task = asyncio.create_task(self._ask(zeroconf, service_type, name))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _ask(self, link: Zeroconf, service_type: str, name: str) -> None:
        with suppress(OSError, zeroconf.Error):
            info = AsyncServiceInfo(service_type, name)
            if await info.async_request(link, ASK_MS) and info.text:
                for address in decode_text(info.text):
                    self._hear(address)


def encode_text(addresses: Iterable[str]) -> bytes:
    """A TXT record: strings with their lengths, one for each address."""
    texts = [_PREFIX + address.encode() for address in addresses]
    return b"".join(bytes([len(text)]) + text for text in texts)


def decode_text(raw: bytes) -> list[str]:
    """The addresses in a TXT record that a neighbour may have us dial: private ones, with numbers.

    Whatever else it says is left out; nothing is raised.
    """
    found: list[str] = []
    for text in _split(raw[:TEXT_BYTES_MAX]):
        address = text.removeprefix(_PREFIX).decode("ascii", "replace")
        if text.startswith(_PREFIX) and _is_private(address) and len(found) < TOLD_MAX:
            found.append(address)
    return found


def find_private_hosts(listening: Iterable[str], own: Iterable[str]) -> dict[str, int]:
    """Private IPv4 addresses of this machine at which peers are listened for, with the port."""
    hosts: dict[str, int] = {}
    for address in listening:
        host, port = split_address(address)
        candidates = own if host == "0.0.0.0" else [each for each in own if each == host]
        for each in candidates:
            if _is_home(f"/ip4/{each}"):
                hosts.setdefault(each, port)
    return hosts


def _list_interfaces() -> list[str]:
    """IPv4 addresses of this machine; none where the system does not tell."""
    try:
        adapters = list(ifaddr.get_adapters())
    except (OSError, AssertionError):  # no netlink in a sandbox, an interface without a netmask
        return []
    return [str(ip.ip) for adapter in adapters for ip in adapter.ips if ip.is_IPv4]


def _split(raw: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        end = at + 1 + raw[at]
        yield raw[at + 1 : end]
        at = end


def _is_private(address: str) -> bool:
    try:
        decode_address(address)
    except ValueError:
        return False
    return _is_home(address)


def _is_home(address: str) -> bool:
    """Is it of a private network: neither of this machine, nor of the internet, nor a name?"""
    return is_for(address, _HOME) and not is_for(address, "")
