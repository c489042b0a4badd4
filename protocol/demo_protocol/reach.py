"""Can others dial this node? What peers say who tried (REACH), and what is to be made of it.

A peer that is asked dials whoever asks at the host it sees it at, and at nothing else. What it says
of that is its word alone: no address is believed by many because one said so, and none of it
decides anything in the run.
"""

import ipaddress
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from demo_protocol.networks import compute_network, compute_scope, is_for

_VERSIONS: Final = {"ip4": 4, "ip6": 6}


class Reachability(StrEnum):
    """Whether others can begin a connection to this node."""

    UNKNOWN = "unknown"  # nobody has tried yet
    PUBLIC = "public"  # they can
    PRIVATE = "private"  # it has only connections that it began itself
    RELAYED = "relayed"  # as private, but relays bring others to it


@dataclass(frozen=True, slots=True)
class DialBack:
    """One attempt: the address, without a key, and whether the right key answered there."""

    address: str
    reached: bool


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a peer says of its attempt. `seen_at`: where we see that peer."""

    peer: bytes
    seen_at: str
    found: DialBack


@dataclass(frozen=True, slots=True)
class Judgement:
    """What follows from all opinions. `reached` of `asked` networks came through.

    `addresses` are those at which others dial us, the best of each version of the protocol.
    """

    reach: Reachability
    addresses: tuple[str, ...] = ()
    reached: int = 0
    asked: int = 0


def find_version(address: str, port: int) -> int | None:
    """Of the internet protocol in an address as it ought to be spelled; None for any other."""
    match address.split("/"):
        case ["", ("ip4" | "ip6") as family, host, "tcp", told] if told == str(port):
            try:
                ip = ipaddress.ip_address(host)
            except ValueError:
                return None
            usable = not (ip.is_unspecified or ip.is_multicast) and str(ip) == host
            return ip.version if usable and ip.version == _VERSIONS[family] else None
    return None


def judge(opinions: Iterable[Opinion]) -> Judgement:
    """By majority of networks, of those peers that are furthest away: the internet's, if any are.

    A neighbour at home reaches what nobody else does. The two versions of the protocol are apart:
    many a home is reached by the newer one alone.
    """
    fitting = [o for o in opinions if is_for(o.found.address, o.seen_at)]
    widest = max((compute_scope(o.seen_at) for o in fitting), default=None)
    counted: dict[str, dict[str, Opinion]] = {"ip4": {}, "ip6": {}}
    for opinion in fitting:
        if compute_scope(opinion.seen_at) == widest:
            votes = counted[opinion.found.address.split("/")[1]]
            votes[compute_network(opinion.seen_at, opinion.peer)] = opinion  # the latest
    judged = [_judge_version([o.found for o in votes.values()]) for votes in counted.values()]
    judged = [one for one in judged if one.asked] or [Judgement(Reachability.UNKNOWN)]
    public = [one for one in judged if one.reach is Reachability.PUBLIC]
    shown = public or judged
    return Judgement(
        shown[0].reach,
        tuple(address for one in public for address in one.addresses),
        sum(one.reached for one in shown),
        sum(one.asked for one in shown),
    )


def _judge_version(found: list[DialBack]) -> Judgement:
    """Of one version of the protocol, an attempt for each network."""
    places = Counter(one.address for one in found if one.reached)
    reached = places.total()
    if 2 * reached <= len(found):
        return Judgement(Reachability.PRIVATE, (), reached, len(found))
    best = min(places, key=lambda address: (-places[address], address))
    return Judgement(Reachability.PUBLIC, (best,), reached, len(found))
