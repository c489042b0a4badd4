"""Where this node listens: at the address that was named, else where it was found last time."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry

from demo_node.config import Config, split_host_port
from demo_node.mesh.addresses import split_address
from demo_node.observe.http import http_server
from demo_node.observer import RoundObserver
from demo_node.ports import OpenMesh
from demo_node.store.addresses import AddressBook
from demo_node.views import StatusView
from demo_protocol.errors import ConfigError

KBIT_BYTES: Final = 125


async def open_mesh(
    seed: bytes, config: Config, book: AddressBook, observer: RoundObserver, swarm_key: bytes = b""
) -> OpenMesh:
    """A mesh that listens, of the kind that was chosen; `swarm_key` is that of a private swarm.

    Raises ConfigError where a port that was named is in use.

    A port that was not named falls back to a free one, and the book remembers that: peers know the
    node by it, and volunteers paste it, so that it should not change at each start.
    """

    async def listen(addresses: Sequence[str]) -> OpenMesh:
        if config.mesh == "hivemind":
            return await _listen_hivemind(seed, addresses, config, observer)
        return await _listen_libp2p(seed, addresses, config, observer, swarm_key)

    if "listen" in config.named:
        return await listen(config.listen)
    for addresses in (_checked(book.listening), config.listen):
        if addresses:
            with contextlib.suppress(ConfigError):
                return await listen(addresses)
    mesh = await listen([_with_port(address, 0) for address in config.listen])
    port = int(mesh.listening()[0].split("/")[4])
    if len(config.listen) == 1:
        book.listening = (_with_port(config.listen[0], port),)
    observer.on_event(
        "port.replaced",
        detail=f"{config.listen[0]} is in use: peers reach this node at"
        f" port {port}, from now on; --listen chooses another",
    )
    return mesh


async def _listen_libp2p(
    seed: bytes,
    addresses: Sequence[str],
    config: Config,
    observer: RoundObserver,
    swarm_key: bytes,
) -> OpenMesh:
    from demo_node.mesh.libp2p import Libp2pMesh  # a second of imports, if this is chosen

    def on_stranger(host: str, why: str) -> None:
        observer.on_event("stranger.refused", host=host, reason=f"it {why}")

    mesh = Libp2pMesh(
        seed,
        addresses,
        announce=config.announce,
        upload_bytes_per_s=config.upload_kbit_s * KBIT_BYTES,
        download_bytes_per_s=config.download_kbit_s * KBIT_BYTES,
        swarm_key=swarm_key,
        on_stranger=on_stranger,
        on_event=observer.on_event,
        kad=config.kad,
        is_relay=config.relay,
    )
    await mesh.start()
    return mesh


async def _listen_hivemind(
    seed: bytes, addresses: Sequence[str], config: Config, observer: RoundObserver
) -> OpenMesh:
    """Peers that were named carry what does not reach us, if we turn out not to be reached."""
    if config.download_kbit_s or config.quiet_download_kbit_s:
        raise ConfigError(
            "--download-kbit-s needs --mesh libp2p: what p2pd receives cannot be capped"
        )
    from demo_node.mesh.hivemind.backend import HivemindMesh

    mesh = HivemindMesh(
        seed,
        addresses,
        announce=config.announce,
        upload_bytes_per_s=config.upload_kbit_s * KBIT_BYTES,
        relays=config.peers,
        is_relay=config.relay,
        on_event=observer.on_event,
    )
    await mesh.start()
    return mesh


@contextlib.asynccontextmanager
async def serve_metrics(
    config: Config,
    book: AddressBook,
    observer: RoundObserver,
    registry: CollectorRegistry,
    status: Callable[[], StatusView],
) -> AsyncIterator[None]:
    """Serve /metrics and the like until the block ends. Raises ConfigError as `open_mesh`.

    A port that was not named is remembered in the same way: a Prometheus has it in its targets.
    """
    usual = config.metrics_address
    host, usual_port = split_host_port(usual)
    server = http_server(
        (host, usual_port),
        named="metrics_address" in config.named,
        registry=registry,
        status=status,
        remembered=book.metrics_port,
    )
    async with server as (_, port):
        if port not in (usual_port, book.metrics_port) and usual_port:
            observer.on_event(
                "port.replaced",
                detail=f"{usual} is in use: metrics are at port {port}, from now on;"
                " --metrics-address chooses another",
            )
            book.metrics_port = port
        observer.on_event("metrics.served", url=f"http://{host}:{port}/metrics")
        yield


def _checked(addresses: Iterable[str]) -> tuple[str, ...]:
    """What can be listened on; the file may have been damaged."""
    found = []
    for address in addresses:
        try:
            split_address(address)
        except ConfigError:
            return ()
        found.append(address)
    return tuple(found)


def _with_port(address: str, port: int) -> str:
    return f"{address.rpartition('/')[0]}/{port}"
