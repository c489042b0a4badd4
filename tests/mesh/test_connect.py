import asyncio
import contextlib
import logging
import os
import socket
import struct
import time
import warnings

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.stream.net_stream import NetStream
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from libp2p.stream_muxer.yamux.yamux import TYPE_DATA, YAMUX_HEADER_FORMAT, YamuxStream

from demo_node.mesh import bounds
from demo_node.mesh.blob import PROTOCOL
from demo_node.mesh.libp2p import Libp2pMesh
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.ports import Blob, BlobRequest, Topic, Unreachable
from demo_protocol.errors import ConfigError
from tests.mesh.hosts import Host, free_port, guests, hosts, link, on_uvloop, seed
from tests.waiting import wait_until


@on_uvloop
async def test_peers_are_shown_once_with_an_address_others_can_dial() -> None:
    async with hosts(3) as (a, b, c):
        assert await b.mesh.connect(a.address) == a.mesh.peer
        (view,) = b.mesh.peers()
        assert (view.peer, view.address, view.outbound) == (a.mesh.peer, a.address, True)
        await wait_until(lambda: [p.address for p in a.mesh.peers()] == [b.address])
        (view,) = a.mesh.peers()
        assert (view.peer, view.outbound) == (b.mesh.peer, False)
        assert await c.mesh.connect(view.address) == b.mesh.peer  # an inbound peer's, passed on


@on_uvloop
async def test_connecting_twice_and_from_both_sides_is_one_peer() -> None:
    async with hosts(2) as (a, b):
        await asyncio.gather(
            a.mesh.connect(b.address), b.mesh.connect(a.address), a.mesh.connect(b.address)
        )
        await link((a, b))
        assert len(a.mesh.peers()) == len(b.mesh.peers()) == 1
        await a.mesh.publish(Topic.HEADERS, b"x")
        await wait_until(lambda: b.messages() == [b"x"])
        assert not a.mesh._dials


@on_uvloop
async def test_a_dial_does_not_wait_for_a_second_address() -> None:
    """Trap 9: the library's dialler would take 250 ms each."""
    async with hosts(4) as (a, *others):
        begin = time.perf_counter()
        for other in others:
            for _ in range(2):
                await a.mesh.connect(other.address)
        assert time.perf_counter() - begin < 0.75 or os.getloadavg()[0] > 4


@on_uvloop
async def test_a_failed_dial_says_why_and_does_not_block_the_next() -> None:
    """Trap 10: the library would refuse for 60 s."""
    port = free_port()
    async with hosts(1) as (a,):
        b = Libp2pMesh(seed(9), [f"/ip4/127.0.0.1/tcp/{port}"], guest=a.mesh._guest)
        address = f"/ip4/127.0.0.1/tcp/{port}/p2p/{encode_peer_id(b.peer)}"
        for _ in range(2):
            with pytest.raises(Unreachable) as raised:
                await a.mesh.connect(address)
            assert "\n" not in str(raised.value)
            assert f"/ip4/127.0.0.1/tcp/{port}: " in str(raised.value)
            assert "refused" in str(raised.value)
        await b.start()
        assert await a.mesh.connect(address) == b.peer
        await b.stop()


@on_uvloop
async def test_a_peer_that_moved_is_found_at_its_new_address() -> None:
    """Trap 28: of several addresses it remembers, the library dials one, not the one asked for."""
    async with hosts(1) as (a,):
        for _ in range(3):
            b = Libp2pMesh(seed(9), guest=a.mesh._guest)
            await b.start()
            assert await a.mesh.connect(b.addresses()[0]) == b.peer
            await wait_until(lambda b=b: b.peers())  # type: ignore[misc]
            await b.stop()
            await wait_until(lambda: not a.mesh.peers())


@on_uvloop
async def test_the_library_dials_nobody_by_itself() -> None:
    """Trap 29."""
    async with hosts(1) as (a,):
        port = free_port()
        b = Libp2pMesh(seed(9), [f"/ip4/127.0.0.1/tcp/{port}"], guest=a.mesh._guest)
        await b.start()
        await a.mesh.connect(b.addresses()[0])
        await b.stop()
        await wait_until(lambda: not a.mesh.peers())
        again = Libp2pMesh(seed(9), [f"/ip4/127.0.0.1/tcp/{port}"], guest=a.mesh._guest)
        await again.start()
        connector = a.mesh._swarm.auto_connector
        connector._disconnect_backoff = connector._base_cooldown = 0
        await a.mesh._guest.call(connector.maybe_connect)
        assert not a.mesh.peers()
        assert not again.peers()
        await again.stop()


@on_uvloop
async def test_addresses_that_cannot_be_dialled_are_refused_in_one_line() -> None:
    async with hosts(2) as (a, b):
        wrong = b.address.replace(encode_peer_id(b.mesh.peer), encode_peer_id(bytes(32)))
        for address, reason in [
            (a.address, "is this node itself"),
            ("/ip4/127.0.0.1/tcp/1", "is not like"),
            ("/ip4/999.0.0.1/tcp/1" + wrong[wrong.index("/p2p") :], "999"),
            ("/dns4/localhost/tcp/1" + wrong[wrong.index("/p2p") :], "was not looked up"),
            (wrong, f"another node answers there, {encode_peer_id(b.mesh.peer)}"),
        ]:
            with pytest.raises(Unreachable, match=reason) as raised:
                await a.mesh.connect(address)
            assert "\n" not in str(raised.value)
        assert not a.mesh.peers()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
@on_uvloop
async def test_a_port_of_another_service_is_called_that(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        writer.close()

    async with hosts(1) as (a,), await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Unreachable, match=f"tcp/{port}: .*may be no demo-node"):
            await a.mesh.connect(f"/ip4/127.0.0.1/tcp/{port}/p2p/{encode_peer_id(bytes(32))}")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html; charset=utf-8\r\n" + b"x" * 300,
        b"\x04\xff\xfe\xfd\n",  # framed as libp2p does, but no text
        b"\x06hello\n",
        b"\x00",
    ],
)
@on_uvloop
async def test_what_cannot_be_libp2p_is_called_something_else(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await reader.read()  # until the other side hangs up
        writer.close()

    async with hosts(1) as (a,), await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        where = f"/ip4/127.0.0.1/tcp/{server.sockets[0].getsockname()[1]}"
        with pytest.raises(Unreachable) as raised:
            await a.mesh.connect(f"{where}/p2p/{encode_peer_id(bytes(32))}")
        assert str(raised.value).startswith(
            f"{where}: something other than a demo-node answers there"
        )


@on_uvloop
async def test_a_host_that_accepts_and_says_nothing_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "CONNECT_S", 0.3)
        async with hosts(1) as (a,):
            where = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}"
            with pytest.raises(Unreachable, match="did not answer"):
                await a.mesh.connect(f"{where}/p2p/{encode_peer_id(bytes(32))}")
            assert not a.mesh._tcp.open


@on_uvloop
async def test_a_port_in_use_is_the_operators_to_change() -> None:
    """Trap 27: the library shares the port and tells nobody."""
    async with hosts(1) as (a,):
        port = int(a.address.split("/")[4])
        for listen in (f"/ip4/127.0.0.1/tcp/{port}", f"/ip4/0.0.0.0/tcp/{port}"):
            second = Libp2pMesh(seed(9), [listen], guest=a.mesh._guest)
            with pytest.raises(ConfigError, match=f"port {port} .*in use") as raised:
                await second.start()
            assert "\n" not in str(raised.value)
            await second.wait()


@pytest.mark.parametrize("listen", ["/ip4/203.0.113.1/tcp/0", "/ip4/127.0.0.1/udp/0", "4001"])
@on_uvloop
async def test_other_bad_addresses_to_listen_on_too(listen: str) -> None:
    mesh = Libp2pMesh(seed(9), [listen])
    with pytest.raises(ConfigError, match=r"^mesh: "):
        await mesh.start()


@on_uvloop
async def test_a_wildcard_host_is_shown_as_addresses_that_work() -> None:
    async with hosts(1) as (a,):
        b = Libp2pMesh(seed(9), ["/ip4/0.0.0.0/tcp/0"], guest=a.mesh._guest)
        await b.start()
        assert len(b.addresses()) >= 1
        assert not any("/0.0.0.0/" in address for address in b.addresses())
        assert b.addresses()[-1].startswith("/ip4/127.0.0.1/tcp/")
        for address in b.addresses():
            assert await a.mesh.connect(address) == b.peer
        await b.stop()


@on_uvloop
async def test_counters_grow_by_what_was_sent() -> None:
    async with hosts(2) as (a, b):
        await link((a, b))
        a.held[b""] = bytes(1_000_000)
        before = a.mesh.counters(), b.mesh.counters()
        await b.mesh.request(
            a.mesh.peer, BlobRequest(Blob.PAYLOAD), bytes_max=1_000_000, timeout_s=20
        )
        await wait_until(lambda: b.mesh.counters().bytes_in == a.mesh.counters().bytes_out)
        after = a.mesh.counters(), b.mesh.counters()
        sent = after[0].bytes_out - before[0].bytes_out
        received = after[1].bytes_in - before[1].bytes_in
        assert 1_000_000 < sent < 1_020_000  # frames of yamux and Noise: below 2 %
        assert 1_000_000 < received < 1_020_000
        assert after[1].bytes_out - before[1].bytes_out < 20_000


@on_uvloop
async def test_short_connections_do_not_use_up_the_inbound_limit() -> None:
    """Trap 26: the library keeps one token per connection until the host ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "CONNECTIONS_MAX", 4)
        patch.setattr(bounds, "INBOUND_GRACE_S", 0.5)  # the library tidies up for 0.2 s
        async with hosts(1) as (a,):
            limiter = a.mesh._swarm._inbound_limiter
            for i in range(6):
                b = Libp2pMesh(seed(10 + i), guest=a.mesh._guest)
                await b.start()
                await b.connect(a.address)
                await wait_until(lambda b=b: a.mesh.peers())  # type: ignore[misc]
                await b.stop()
                await wait_until(lambda: limiter.borrowed_tokens == 0)
            assert not a.mesh.peers()


@on_uvloop
async def test_garbage_on_the_port_does_no_harm() -> None:
    async with hosts(2) as (a, b):
        port = int(a.address.split("/")[4])
        for junk in (
            os.urandom(1000),
            b"\xff" * 100_000,
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x13/multistream/1.0.0\n" + os.urandom(500),
            b"\x13/multistream/1.0.0\n\x07/noise\n" + os.urandom(500),
            b"",
        ):
            for _ in range(5):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(junk)
                writer.close()
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        await link((a, b))
        await b.mesh.publish(Topic.HEADERS, b"x")
        await wait_until(lambda: a.messages() == [b"x"])
        for _, writer in idle:
            writer.close()


@on_uvloop
async def test_a_peer_that_opens_too_many_streams_is_dropped() -> None:
    """Trap 33: they would count against the streams of everybody."""
    async with hosts(2) as (a, evil):
        await link((a, evil))
        ended: list[str] = []

        async def open_streams() -> None:
            for _ in range(2 * bounds.STREAMS_PER_CONNECTION_MAX):
                await evil.mesh._host.new_stream(a.mesh._host.get_id(), [PROTOCOL_ID_V11])

        async def flood() -> None:
            try:
                await evil.mesh._guest.call(open_streams)
            except BaseLibp2pError as error:
                ended.append(type(error).__name__)

        await asyncio.gather(flood(), wait_until(lambda: not a.mesh.peers()))
        assert ended
        assert await evil.mesh.connect(a.address) == a.mesh.peer


@on_uvloop
async def test_a_peer_that_ignores_flow_control_is_dropped() -> None:
    """Trap 33: the library takes whatever comes, read or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "HEALTH_INTERVAL_S", 0.1)
        patch.setattr(bounds, "UNREAD_BYTES_MAX", 1 << 20)
        async with hosts(2) as (a, evil):
            await link((a, evil))

            async def flood() -> None:
                stream = await evil.mesh._host.new_stream(a.mesh._host.get_id(), [PROTOCOL])
                assert isinstance(stream, NetStream)
                assert isinstance(stream.muxed_stream, YamuxStream)
                await stream.write((1000).to_bytes(8))  # a request that is never read to its end
                yamux, number = stream.muxed_stream.conn, stream.muxed_stream.stream_id
                piece = bytes(60_000)
                head = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_DATA, 0, number, len(piece))
                with contextlib.suppress(BaseLibp2pError):
                    for _ in range(100):
                        await yamux._write_frame(head + piece)

            a.mesh._host.set_stream_handler(PROTOCOL, _never_read)
            await evil.mesh._guest.call(flood)
            await wait_until(lambda: not a.mesh.peers())


async def _never_read(stream: INetStream) -> None:
    await trio.sleep_forever()


@on_uvloop
async def test_a_stop_is_quick_clean_and_repeatable() -> None:
    """Warnings are errors here, unclosed sockets and abandoned runs included."""
    async with hosts(3) as made:
        await link((made[0], made[1]), (made[1], made[2]))
        made[0].held[b""] = bytes(5_000_000)
        call = asyncio.create_task(
            made[1].mesh.request(
                made[0].mesh.peer, BlobRequest(Blob.PAYLOAD), bytes_max=1 << 30, timeout_s=20
            )
        )
        await wait_until(lambda: made[0].asked)
        begin = time.perf_counter()
        await made[0].mesh.stop()
        await made[0].mesh.stop()
        assert time.perf_counter() - begin < 2
        assert not made[0].mesh._tcp.open
        await made[0].mesh.wait()
        with pytest.raises(Unreachable):
            await call
        await wait_until(lambda: len(made[1].mesh.peers()) == 1)


@on_uvloop
async def test_a_mesh_of_its_own_starts_and_ends_its_own_trio_run() -> None:
    with warnings.catch_warnings(record=True) as caught:
        for _ in range(2):
            mesh = Libp2pMesh(seed(1))
            await mesh.start()
            watch = asyncio.create_task(mesh.wait())
            await mesh.stop()
            await watch
            with pytest.raises(Unreachable):
                await mesh.connect(f"/ip4/127.0.0.1/tcp/1/p2p/{encode_peer_id(bytes(32))}")
    assert not caught


@on_uvloop
async def test_the_library_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with hosts(2) as (a, b):
        await link((a, b))
        await b.mesh.stop()
        await wait_until(lambda: not a.mesh.peers())
    assert not [r for r in caplog.records if r.levelno >= logging.INFO]


@on_uvloop
async def test_the_key_decides_the_identity() -> None:
    async with guests() as guest:
        first, again, other = (Libp2pMesh(seed(n), guest=guest) for n in (1, 1, 2))
        assert first.peer == again.peer != other.peer
        assert len(first.peer) == 32
        host = Host(first)
        assert host.mesh.peers() == []
