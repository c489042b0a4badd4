"""Multiaddrs as text, without libp2p: /ip4/<host>/tcp/<port>/p2p/<peer id>, ip6 and dns too;
the same with /p2p-circuit/p2p/<peer id> behind it, by way of a relay; /dnsaddr/<host>, whose TXT
records list others."""

import ipaddress
import re
import socket
from typing import Final

from demo_node.mesh.peer_id import decode_peer_id
from demo_protocol.errors import ConfigError
from demo_protocol.limits import ADDRESS_BYTES_MAX

_HOSTS: Final = ("ip4", "ip6", "dns", "dns4", "dns6")
LIST_PREFIX: Final = "/dnsaddr/"
CIRCUIT: Final = "/p2p-circuit"

_FAR: Final = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses for documentation: routed, never answered."""


def split_address(address: str) -> tuple[str, int]:
    """Host and port of an address to listen on. Raises ConfigError."""
    try:
        _, family, host, transport, port = address.split("/")
        number = int(port)
        ipaddress.ip_address(host)
        if family not in ("ip4", "ip6") or transport != "tcp" or not 0 <= number < 1 << 16:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"mesh: {address!r} is no address to listen on; write /ip4/0.0.0.0/tcp/4001"
        ) from None
    return host, number


def hold_port(address: str) -> tuple[str, socket.socket]:
    """An address to listen on, its port chosen where it is 0, and a socket that keeps it for us.

    Until that is closed the system gives the port to no one who asks for any. Both libp2ps set
    SO_REUSEPORT: they may listen there meanwhile. For the same reason it is looked at before: two
    nodes on one port would share its connections at random (trap 27). Raises ConfigError where
    somebody listens there by now.
    """
    host, port = split_address(address)
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((host, port))
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError as error:
        held.close()
        raise ConfigError(
            f"mesh: cannot listen on port {port} of {host}: {error.strerror}; name another"
        ) from None
    return f"{address.rpartition('/')[0]}/{held.getsockname()[1]}", held


def decode_address(address: str) -> tuple[str, bytes]:
    """Where to dial and whose key to expect there. Raises ValueError.

    By way of a relay that is the relay's full address with `CIRCUIT`: see `split_circuit`.
    """
    if len(address) > ADDRESS_BYTES_MAX:
        raise ValueError("too long for an address")
    relay, circuit, name = address.rpartition(f"{CIRCUIT}/p2p/")
    if circuit:
        _, carrier = _decode_direct(relay)
        peer = _decode_name(name)
        if peer == carrier:
            raise ValueError(f"{address!r} leads to the relay itself")
        return f"{relay}{CIRCUIT}", peer
    return _decode_direct(address)


def split_circuit(where: str) -> tuple[str, bytes] | None:
    """Where to dial the relay of `decode_address`'s place, and its key; None: there is none."""
    return _decode_direct(where.removesuffix(CIRCUIT)) if where.endswith(CIRCUIT) else None


def _decode_direct(address: str) -> tuple[str, bytes]:
    parts = address.split("/")
    if len(parts) != 7 or parts[0] or parts[3] != "tcp" or parts[5] != "p2p":
        raise ValueError(f"{address!r} is not like /ip4/<host>/tcp/<port>/p2p/<peer id>")
    if parts[1] not in _HOSTS or not parts[2] or not parts[4].isdecimal():
        raise ValueError(f"{address!r} names no host and port")
    if not 0 < int(parts[4]) < 1 << 16:
        raise ValueError(f"{address!r} has no valid port")
    if parts[1] in ("ip4", "ip6") and not _is_number(parts[2]):
        raise ValueError(f"{parts[2]!r} is no IP address; a name goes after /dns4/")
    return "/".join(parts[:5]), _decode_name(parts[6])


def _decode_name(name: str) -> bytes:
    try:
        return decode_peer_id(name)
    except ValueError:
        raise ValueError(f"{name!r} is no peer id; copy the whole line") from None


def decode_list(address: str) -> tuple[str, str]:
    """Host of a /dnsaddr, and the peer id that it asks for, or none. Raises ValueError."""
    if len(address) > ADDRESS_BYTES_MAX:
        raise ValueError("too long for an address")
    found = re.fullmatch(r"/dnsaddr/([\w.-]+)(?:/p2p/(\w+))?", address)
    if found is None:
        raise ValueError(f"{address!r} is not like /dnsaddr/<host>")
    peer = found[2] or ""
    if peer:
        try:
            decode_peer_id(peer)
        except ValueError:
            raise ValueError(f"{peer!r} is no peer id; copy the whole line") from None
    return found[1], peer


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def expand_address(address: str) -> list[str]:
    """Addresses others can dial, best first: a wildcard host becomes this machine's own."""
    parts = address.split("/")
    if parts[2] == "0.0.0.0":
        hosts = [*_outward_host(socket.AF_INET), "127.0.0.1"]
    elif parts[2] == "::":
        hosts = [*_outward_host(socket.AF_INET6), "::1"]
    else:
        return [address]
    return ["/".join([*parts[:2], host, *parts[3:]]) for host in dict.fromkeys(hosts)]


def _outward_host(family: socket.AddressFamily) -> list[str]:
    """Our address on the route to the outside, if there is one. Sends nothing."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((_FAR[family], 9))
            return [str(probe.getsockname()[0])]
    except OSError:
        return []
