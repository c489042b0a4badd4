import asyncio
import json

import aiohttp
import pytest

from demo_node.observe.http import http_server
from demo_node.observe.meter import Meter
from demo_node.views import NodeState
from demo_protocol.errors import ConfigError
from tests.control.fake_node import status_view


async def get(port: int, path: str, host: str = "") -> tuple[int, str, str]:
    headers = {"Host": host} if host else {}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}", headers=headers) as reply,
    ):
        return reply.status, reply.headers["Content-Type"], await reply.text()


def test_a_node_tells_its_health() -> None:
    view = status_view()

    async def run() -> None:
        nonlocal view
        registry = Meter().registry
        async with http_server(
            ("127.0.0.1", 0), named=True, registry=registry, status=lambda: view
        ) as (_, port):
            assert (await get(port, "/livez"))[0] == 200
            assert (await get(port, "/readyz"))[0] == 200
            for level in (NodeState.PAUSED, NodeState.FINISHED):
                view = status_view(state=level)
                assert (await get(port, "/readyz"))[0] == 200, "it serves others"
            view = status_view(state=NodeState.SYNCING, detail="43 %")
            status, _, body = await get(port, "/readyz")
            assert status == 503
            assert json.loads(body)["checks"]["detail"] == "43 %"
            status, kind, body = await get(port, "/metrics")
            assert status == 200
            assert kind.startswith("text/plain")
            assert "demo_rounds_total" in body

    asyncio.run(run())


def test_a_page_under_another_name_is_refused() -> None:
    async def run() -> None:
        async with http_server(
            ("127.0.0.1", 0), named=True, registry=Meter().registry, status=status_view
        ) as (_, port):
            assert (await get(port, "/metrics", "evil.example"))[0] == 403
            assert (await get(port, "/metrics", f"localhost:{port}"))[0] == 200

    asyncio.run(run())


def test_a_port_in_use_falls_back_unless_it_was_named() -> None:
    async def run() -> None:
        registry = Meter().registry
        async with http_server(
            ("127.0.0.1", 0), named=True, registry=registry, status=status_view
        ) as taken:
            async with http_server(
                taken, named=False, registry=registry, status=status_view
            ) as other:
                assert other[1] != taken[1]
            with pytest.raises(ConfigError) as caught:
                async with http_server(taken, named=True, registry=registry, status=status_view):
                    pass
            assert str(caught.value) == (
                f"cannot serve metrics on 127.0.0.1:{taken[1]}: the port is in use;"
                " name another with --metrics-address"
            )

    asyncio.run(run())
