"""Where p2pd is to listen, when that is not to be had."""

import asyncio
import socket

import pytest

from demo_node.mesh.addresses import hold_port, split_address
from demo_node.mesh.hivemind.backend import HivemindMesh
from demo_protocol.errors import ConfigError
from tests.mesh.hosts import seed


def test_who_cannot_listen_everywhere_keeps_nothing() -> None:
    address, held = hold_port("/ip4/127.0.0.1/tcp/0")
    held.close()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        other = f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"
        mesh = HivemindMesh(seed(1), [address, other])
        with pytest.raises(ConfigError, match="cannot listen"):
            asyncio.run(mesh.start())
    with socket.socket() as another:
        another.bind(split_address(address))
