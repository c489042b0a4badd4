"""/metrics, /livez and /readyz over HTTP: read-only, on the loopback unless told otherwise."""

import asyncio
import contextlib
import errno
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from demo_node.views import READY, StatusView
from demo_protocol.errors import ConfigError

STOP_S: Final = 1.0
"""Requests under way get this long when the node ends."""


@contextlib.asynccontextmanager
async def http_server(
    address: tuple[str, int],
    *,
    named: bool,
    registry: CollectorRegistry,
    status: Callable[[], StatusView],
    remembered: int = 0,
) -> AsyncIterator[tuple[str, int]]:
    """Serve until the block ends; yields where. Raises ConfigError where that cannot be.

    `named` says that an operator chose `address`: in use, it is an error; otherwise any free
    port will do, best the `remembered` one, then that of `address`.
    """
    host, port = address
    middlewares = [_refuse_foreign_hosts] if _is_loopback(host) else []
    app = web.Application(middlewares=middlewares)
    app.add_routes(_routes(registry, status))
    runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=STOP_S)
    await runner.setup()
    try:
        await _bind(runner, host, [port] if named else [remembered or port, port, 0])
        yield host, int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def _bind(runner: web.AppRunner, host: str, ports: Sequence[int]) -> None:
    """Listen at the first of them that is free."""
    for port in ports:
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            await web.TCPSite(runner, host, port).start()
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                reason = error.strerror or str(error)
                raise ConfigError(f"--metrics-address {where}: {reason}") from None
    raise ConfigError(
        f"cannot serve metrics on {where}: the port is in use; name another with --metrics-address"
    )


def _routes(
    registry: CollectorRegistry, status: Callable[[], StatusView]
) -> list[web.AbstractRouteDef]:
    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        # All values of one moment; their text, which takes longer, is made beside the loop.
        body = await asyncio.to_thread(encode, _Collected(registry.collect()))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")  # to answer at all is the proof

    async def readyz(_: web.Request) -> web.Response:
        view = status()
        ready = view.state in READY
        checks = {"state": view.state.value, "detail": view.detail, "peers": view.peers}
        document = {"ready": ready, "checks": checks}
        return web.json_response(document, status=200 if ready else 503)

    return [
        web.get("/metrics", metrics),
        web.get("/livez", livez),
        web.get("/healthz", livez),
        web.get("/readyz", readyz),
    ]


class _Collected(Collector):
    """What a registry had at one moment, for an encoder to ask."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> list[Metric]:
        """All of it."""
        return self._metrics


@web.middleware
async def _refuse_foreign_hosts(
    request: web.Request,
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> web.StreamResponse:
    """A web page whose name was re-bound to 127.0.0.1 must not read this through a browser."""
    name = request.host.rsplit(":", 1)[0].strip("[]")
    if name != "localhost" and not _is_loopback(name):
        raise web.HTTPForbidden(text="ask by a loopback address\n")
    return await handler(request)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
