"""The libp2p host of a node: one key, TCP + Noise + yamux and nothing else."""

import logging
from collections.abc import Sequence

import trio
from libp2p import new_host
from libp2p.abc import IHost, INetStream, IRawConnection, ISecureConn
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_noise_key_pair
from libp2p.custom_types import StreamHandlerFn
from libp2p.io.exceptions import IOException
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.swarm import Swarm
from libp2p.rcmgr import ResourceLimits, ResourceManager
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from demo_node.mesh import bounds
from demo_node.mesh.addresses import expand_address, hold_port
from demo_node.mesh.negotiation import replace_reading
from demo_node.mesh.transport import MeteredStream, MeteredTCP
from demo_node.mesh.yamux import YamuxOnly, blame, watch_stall
from demo_node.ports import Offence
from demo_protocol.errors import ConfigError


class WatchedNoise(Noise):
    """Noise that says who sent what is none: there is an address to hold it against, no key yet."""

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        """Take a handshake. One that broke off is nobody's fault."""
        try:
            return await super().secure_inbound(conn)
        except IOException:
            raise
        except Exception:
            stream = getattr(conn, "stream", None)
            if isinstance(stream, MeteredStream):
                stream.blame_host(Offence.GARBAGE)
            raise


class NoAutoConnector(AutoConnector):
    """Dials nobody. The library's dials whom it has heard of, after every disconnect (trap 29)."""

    async def maybe_connect(self) -> None:
        """Do nothing: whom to dial is our caller's."""


def build_host(seed: bytes, tcp: MeteredTCP, announce: Sequence[str] = ()) -> IHost:
    """A host that listens nowhere yet, with the identity of an Ed25519 seed.

    `announce`: the addresses it tells peers, instead of those it listens on.
    """
    announced = [Multiaddr(address) for address in announce]
    _silence()
    replace_reading()
    key = create_new_key_pair(seed)
    noise = WatchedNoise(key, noise_privkey=create_new_noise_key_pair().private_key)
    host = new_host(
        key_pair=key,
        sec_opt={NOISE: noise},  # the default also offers secio and plaintext (trap 8)
        transports=[tcp],  # no QUIC (trap 7)
        resource_manager=ResourceManager(
            limits=ResourceLimits(
                max_connections=bounds.CONNECTIONS_MAX, max_streams=bounds.STREAMS_MAX
            ),
            enable_metrics=False,
            enable_memory_limits=False,  # the machine's memory is full of tensors; that is fine
            enable_circuit_breaker=False,
            enable_graceful_degradation=False,
        ),
        connection_config=ConnectionConfig(
            max_connections=bounds.CONNECTIONS_MAX,
            high_watermark=bounds.CONNECTIONS_MAX,
            low_watermark=0,
            min_connections=0,  # all of them may be inbound
            max_connections_per_peer=bounds.CONNECTIONS_PER_PEER_MAX,
            inbound_upgrade_timeout=bounds.HANDSHAKE_S,
            inbound_stream_protocol_negotiation_timeout=bounds.NEGOTIATION_S,
        ),
        addrs_factory=lambda listening: announced or _expand(listening),
        disable_identify_address_discovery=True,
    )
    swarm = get_swarm(host)
    swarm.upgrader.muxer_multistream = YamuxOnly()
    swarm.set_stream_handler(_contain(swarm.common_stream_handler))
    swarm.auto_connector = NoAutoConnector(swarm)
    swarm.retry_config = RetryConfig(max_retries=0)  # dialling again is our caller's
    return host


def get_swarm(host: IHost) -> Swarm:
    """The host's network, as the class it is."""
    swarm = host.get_network()
    assert isinstance(swarm, Swarm)
    return swarm


async def listen(host: IHost, addresses: Sequence[str]) -> None:
    """Begin to accept connections. Raises ConfigError where the operator must choose another."""
    for address in addresses:
        hold_port(address)[1].close()  # to see that it is free: the library swallows errors
    if addresses and not await host.get_network().listen(*map(Multiaddr, addresses)):
        raise ConfigError(f"mesh: cannot listen on {', '.join(addresses)}")


async def close_listeners(host: IHost) -> None:
    """Stop to accept connections. The library does not, when it is cancelled."""
    with trio.CancelScope(shield=True), trio.move_on_after(bounds.RESET_S):
        for listener in list(get_swarm(host).listeners.values()):
            await listener.close()


def _contain(handle: StreamHandlerFn) -> StreamHandlerFn:
    """End a stream whose handler raises: the library would end the host (trap 25).

    Such an error is the library's, about something a peer sent. What our callbacks raise does not
    come by here: it goes to the `fail` of `Gossip` and `BlobProtocol`, and ends the mesh.
    """

    async def contained(stream: INetStream) -> None:
        begin_s, find_stall = trio.current_time(), watch_stall(stream)
        try:
            await handle(stream)
        except Exception:
            await stream.reset()  # raises nothing
        lasted_s = trio.current_time() - begin_s
        is_stuck = stream.get_protocol() is None and lasted_s >= bounds.NEGOTIATION_S
        if is_stuck and (offence := find_stall()):  # it chose no protocol
            blame(stream.muxed_conn, offence)

    return contained


def _silence() -> None:
    """Turn off the library's log: it has lines for peers' mistakes and at shutdown (trap 17)."""
    for name in ("libp2p", *logging.root.manager.loggerDict):
        if name.partition(".")[0] == "libp2p":  # some set a level of their own
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _expand(addresses: list[Multiaddr]) -> list[Multiaddr]:
    return [Multiaddr(text) for a in addresses for text in expand_address(str(a))]
