"""Nodes of a run found by kad-dht, which nodes of all runs keep together. Trio code.

The library's own, with bounds (`kad_host.py`) and without its service: what that repeats every ten
minutes is done here, as often as the node wants to know. What it finds is hearsay.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import cast

import libp2p.kad_dht.kad_dht
import libp2p.kad_dht.peer_routing
import libp2p.kad_dht.provider_store
import libp2p.kad_dht.routing_table
import trio
from libp2p.abc import IHost
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.kad_dht.peer_routing import PeerRouting
from libp2p.kad_dht.provider_store import ProviderStore
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.records.validator import NamespacedValidator, Validator

from demo_node.mesh import bounds
from demo_node.mesh.kad_counters import KadCounters
from demo_node.mesh.kad_frames import make_key, read_address
from demo_node.mesh.kad_host import KadHost, Links, Query
from demo_node.mesh.peer_id import decode_peer_id_bytes
from demo_protocol.networks import compute_network

# The library looks these up by name. Signed lists of addresses it would refuse where a clock was
# set back (trap 42), and they cost two signatures each; the times and sizes are a whole planet's.
_CHANGED = {
    "maybe_consume_signed_record": lambda message, host, peer_id=None: True,
    "env_to_send_in_RPC": lambda host: (b"", False),
    "PROVIDER_RECORD_EXPIRATION_INTERVAL": bounds.KAD_RECORD_S,
    "MAXIMUM_BUCKETS": bounds.KAD_BUCKETS_MAX,
}
for _module in (
    libp2p.kad_dht.kad_dht,
    libp2p.kad_dht.peer_routing,
    libp2p.kad_dht.provider_store,
    libp2p.kad_dht.routing_table,
):
    for _name in _CHANGED.keys() & vars(_module).keys():
        setattr(_module, _name, _CHANGED[_name])


class NoValues(Validator):
    """Only who is in a run is of use: values are refused, whatever they say."""

    def validate(self, key: str, value: bytes) -> None:
        """Raise ValueError."""
        raise ValueError("there are no values")

    def select(self, key: str, values: list[bytes]) -> int:
        """Never asked."""
        return 0


class Providers(ProviderStore):
    """What peers say of themselves, with room for few of each network."""

    def __init__(self, host: KadHost, routing: PeerRouting, find_address: Callable[[ID], str]):
        super().__init__(cast(IHost, host), routing)
        self._find_address = find_address
        self._networks: dict[str, str] = {}

    def add_provider(self, key: bytes, provider: PeerInfo) -> None:
        """Keep a record, or not, where there is no room for it. Raises nothing."""
        self.cleanup_expired()
        name = str(provider.peer_id)
        is_known = name in self.providers.get(key, ())
        if is_known or provider.peer_id == self.local_peer_id or self._has_room(key, provider):
            self._networks[name] = self._find_network(provider.peer_id)
            super().add_provider(key, provider)
        if len(self._networks) > 2 * bounds.KAD_RECORDS_MAX:
            kept = {peer for records in self.providers.values() for peer in records}
            self._networks = {peer: n for peer, n in self._networks.items() if peer in kept}

    def _has_room(self, key: bytes, provider: PeerInfo) -> bool:
        network = self._find_network(provider.peer_id)
        here = sum(self._networks.get(p) == network for p in self.providers.get(key, ()))
        everywhere = Counter(self._networks.get(p) for ps in self.providers.values() for p in ps)
        return (
            self.size() < bounds.KAD_RECORDS_MAX
            and len(self.get_provided_keys(provider.peer_id)) < bounds.KAD_KEYS_PER_PEER_MAX
            and here < bounds.KAD_RECORDS_PER_NETWORK_AND_KEY_MAX
            and everywhere[network] < bounds.KAD_RECORDS_PER_NETWORK_MAX
        )

    def _find_network(self, peer_id: ID) -> str:
        """By where it is seen: what it says of where it is may be anything."""
        return compute_network(self._find_address(peer_id), peer_id.to_bytes())


class Asking(ProviderStore):
    """Asks others who is in a run, and keeps nothing.

    The library would take what they say for its own, and where it knows somebody ask nobody.
    """

    def __init__(self, host: KadHost, routing: PeerRouting) -> None:
        super().__init__(cast(IHost, host), routing)
        self.heard: dict[str, ID] = {}

    def add_provider(self, key: bytes, provider: PeerInfo) -> None:
        """Somebody says that this peer is in the run."""
        for address in read_provider(provider):
            if provider.peer_id != self.local_peer_id and len(self.heard) < bounds.KAD_FOUND_MAX:
                self.heard[address] = provider.peer_id


@dataclass(slots=True)
class Kad:
    """A node of the DHT. `is_ours`: is a connected peer known to be in our run?"""

    host: IHost
    links: Links
    is_ours: Callable[[ID], bool]
    counters: KadCounters = field(default_factory=KadCounters)
    dht: KadDHT = field(init=False)
    around: KadHost = field(init=False)
    _asking: Asking = field(init=False)
    _turn: trio.Lock = field(default_factory=trio.Lock)

    def __post_init__(self) -> None:
        self.around = KadHost(self.host, self.links)
        self.dht = KadDHT(
            cast(IHost, self.around),
            DHTMode.SERVER,
            validator=NamespacedValidator({"demo": NoValues()}, strict_validation=True),
            validator_changed=True,
            strict_validation=True,
        )
        routing = self.dht.peer_routing
        self.dht.provider_store = Providers(self.around, routing, self.links.find_address)
        self._asking = Asking(self.around, routing)

    def count(self) -> KadCounters:
        """As it is now."""
        self.counters.table = self.dht.get_routing_table_size()
        self.counters.records = self.dht.provider_store.size()
        return self.counters

    async def find(self, run_id: bytes) -> list[str]:
        """Full addresses of nodes that are said to be in a run, at most KAD_FOUND_MAX."""
        key, heard = make_key(run_id), self._asking.heard
        heard.clear()
        for info in self.dht.provider_store.get_providers(key):
            self._asking.add_provider(key, info)

        async def ask() -> None:
            # Of all who know some: who answers first would decide for the others.
            await self._asking.find_providers(key, count=bounds.KAD_ASKED_MAX * 20)

        await self._question(ask)
        self.counters.found += len(heard)
        return list(heard)

    async def provide(self, run_id: bytes) -> None:
        """Say that this node is in a run, to those nearest to its key; look around before."""

        async def tell() -> None:
            await self.dht.provider_store.provide(make_key(run_id))

        await self._question(self.dht.peer_routing.refresh_routing_table)
        await self._question(tell)

    async def _question(self, ask: Callable[[], Awaitable[None]]) -> None:
        async with self._turn:
            query = self.around.query = Query()
            self.counters.queries += 1
            try:
                with trio.move_on_after(bounds.KAD_QUERY_S):
                    await ask()
            finally:
                self.around.query = None
                self.counters.dialled += len(query.dialled)
                with trio.CancelScope(shield=True), trio.move_on_after(bounds.RESET_S):
                    await self._part(query)

    async def _part(self, query: Query) -> None:
        """Remember who answered, and hang up on whom we dialled for that alone.

        Nodes of other runs have nothing else for us, and would take the places of ours.
        """
        for peer_id in query.answered:
            await self.dht.add_peer(peer_id)
        for peer_id in query.dialled - set(self._asking.heard.values()):
            if not self.is_ours(peer_id):
                await self.links.swarm.close_peer(peer_id)


def read_provider(provider: PeerInfo) -> Iterator[str]:
    """Full addresses of a provider; what cannot be dialled is left out."""
    for address in provider.addrs:
        try:
            yield read_address(
                address.to_bytes(), decode_peer_id_bytes(provider.peer_id.to_bytes())
            )
        except ValueError:
            continue
