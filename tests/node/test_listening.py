"""Where a node listens, and that it is found there again."""

import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from demo_node.config import Config
from demo_node.listening import open_mesh, serve_metrics
from demo_node.sim.whole.silent_observer import SilentObserver
from demo_node.store.addresses import AddressBook
from demo_node.store.disk import FileDisk
from demo_protocol.errors import ConfigError
from tests.control.fake_node import status_view
from tests.mesh.hosts import free_port, on_uvloop, seed


class Listener(SilentObserver):
    """Keeps the events' sentences."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.url = ""

    def on_event(self, name: str, **fields: object) -> None:
        if name == "metrics.served":
            self.url = str(fields["url"])
            return
        assert name == "port.replaced"
        self.lines.append(str(fields["detail"]))


@contextlib.contextmanager
def taken(port: int) -> Iterator[None]:
    """Somebody else has the port."""
    with socket.create_server(("127.0.0.1", port)):
        yield


@contextlib.asynccontextmanager
async def start(
    folder: Path, port: int, *, named: bool = False, announce: tuple[str, ...] = ()
) -> AsyncIterator[tuple[int, list[str]]]:
    """A node's port, and what its operator is told."""
    listen = (f"/ip4/127.0.0.1/tcp/{port}",)
    keys = frozenset({"listen"} if named else ())
    config = Config(datadir=folder, listen=listen, announce=announce, named=keys)
    book, observer = AddressBook(FileDisk(), folder / "peers.json"), Listener()
    mesh = await open_mesh(seed(1), config, book, observer)
    try:
        yield int(mesh.listening()[0].split("/")[4]), observer.lines
    finally:
        await mesh.stop()
        book.save()


@on_uvloop
async def test_a_replaced_port_is_the_same_at_every_later_start(tmp_path: Path) -> None:
    port = free_port()
    with taken(port):
        async with start(tmp_path, port) as (first, lines):
            assert first != port
            (line,) = lines
            assert f"/tcp/{port} is in use" in line
            assert f"at port {first}, from now on" in line
        async with start(tmp_path, port) as (again, lines):
            assert (again, lines) == (first, [])
    async with start(tmp_path, port) as (later, lines):  # peers know it by that one
        assert (later, lines) == (first, [])


@on_uvloop
async def test_what_is_announced_is_not_taken_for_the_port_to_listen_on(tmp_path: Path) -> None:
    port, announce = free_port(), ("/dns4/node.example.org/tcp/4001",)
    with taken(port):
        async with start(tmp_path, port, announce=announce) as (first, _):
            assert first not in (port, 4001)
        async with start(tmp_path, port, announce=announce) as (again, _):
            assert again == first


@on_uvloop
async def test_a_remembered_port_in_use_makes_way_for_the_usual_one(tmp_path: Path) -> None:
    port = free_port()
    with taken(port):
        async with start(tmp_path, port) as (first, _):
            pass
    with taken(first):
        async with start(tmp_path, port) as (second, lines):
            assert (second, lines) == (port, [])


@on_uvloop
async def test_a_port_that_was_named_is_never_replaced(tmp_path: Path) -> None:
    port = free_port()
    with taken(port):
        async with start(tmp_path, port):
            pass
        with pytest.raises(ConfigError, match=f"port {port} .*in use; name another"):
            async with start(tmp_path, port, named=True):
                pass
    async with start(tmp_path, port, named=True) as (again, _):
        assert again == port


@pytest.mark.parametrize("kept", ["[1]", '"x"', '["nonsense"]', '["/ip4/1.2.3.4/udp/1"]'])
@on_uvloop
async def test_a_damaged_memory_of_the_port_counts_as_none(tmp_path: Path, kept: str) -> None:
    (tmp_path / "peers.json").write_text(f'{{"schema": 1, "listening": {kept}, "peers": []}}')
    port = free_port()
    async with start(tmp_path, port) as (found, lines):
        assert (found, lines) == (port, [])


@contextlib.asynccontextmanager
async def serve(
    folder: Path, port: int, *, named: bool = False
) -> AsyncIterator[tuple[int, list[str]]]:
    """The port of a node's metrics, and what its operator is told."""
    keys = frozenset({"metrics_address"} if named else ())
    config = Config(datadir=folder, metrics_address=f"127.0.0.1:{port}", named=keys)
    book, observer = AddressBook(FileDisk(), folder / "peers.json"), Listener()
    async with serve_metrics(config, book, observer, CollectorRegistry(), status_view):
        yield int(observer.url.split(":")[2].split("/")[0]), observer.lines
    assert book.has_new == bool(observer.lines), "only what is new is urgent"
    book.save()


@on_uvloop
async def test_a_replaced_port_of_metrics_is_the_same_at_every_later_start(tmp_path: Path) -> None:
    port = free_port()
    with taken(port):
        async with serve(tmp_path, port) as (first, lines):
            assert first != port
            (line,) = lines
            assert line.startswith(f"127.0.0.1:{port} is in use: metrics are at port {first}")
        async with serve(tmp_path, port) as (again, lines):
            assert (again, lines) == (first, [])
    async with serve(tmp_path, port) as (later, lines):  # a Prometheus knows it by that one
        assert (later, lines) == (first, [])
    with taken(first):
        async with serve(tmp_path, port) as (usual, lines):
            assert (usual, lines) == (port, [])


@on_uvloop
async def test_a_port_of_metrics_that_was_named_is_never_replaced(tmp_path: Path) -> None:
    port = free_port()
    with taken(port):
        async with serve(tmp_path, port) as (first, _):
            assert first != port
        with pytest.raises(ConfigError, match=f":{port}: the port is in use; name another"):
            async with serve(tmp_path, port, named=True):
                pass
    async with serve(tmp_path, port, named=True) as (again, lines):
        assert (again, lines) == (port, [])
    async with serve(tmp_path, 0, named=True) as (free, lines):
        assert (free in (0, first), lines) == (False, [])


@pytest.mark.parametrize("kept", ["0", "-1", "65536", "1.5", '"9464"', "null", "[1]", "true"])
@on_uvloop
async def test_a_damaged_memory_of_the_port_of_metrics_counts_as_none(
    tmp_path: Path, kept: str
) -> None:
    (tmp_path / "peers.json").write_text(f'{{"schema": 1, "metrics_port": {kept}}}')
    assert AddressBook(FileDisk(), tmp_path / "peers.json").metrics_port == 0
