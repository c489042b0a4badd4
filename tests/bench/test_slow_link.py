"""A way that takes its time."""

import asyncio

from demo_node.bench.slow_link import HOST, PIECE_BYTES, slow_link

DELAY_S = 0.1


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(PIECE_BYTES):
        writer.write(piece)
    writer.close()


def test_what_goes_through_comes_in_order_and_no_sooner_than_the_delay_each_way() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(echo, HOST, 0)
        port = server.sockets[0].getsockname()[1]
        async with slow_link(port, DELAY_S) as way:
            reader, writer = await asyncio.open_connection(HOST, way)
            begin_s = loop.time()
            sent = bytes(range(256)) * (4 * PIECE_BYTES // 256)
            writer.write(sent)
            assert await reader.readexactly(len(sent)) == sent
            took_s = loop.time() - begin_s
            writer.close()
            assert await reader.read() == b""  # the end comes through, too
        server.close()
        return took_s

    assert asyncio.run(main()) >= 2 * DELAY_S


def test_it_ends_while_connections_are_open() -> None:
    async def main() -> bytes:
        server = await asyncio.start_server(echo, HOST, 0)
        async with slow_link(server.sockets[0].getsockname()[1], DELAY_S) as way:
            reader, writer = await asyncio.open_connection(HOST, way)
            writer.write(b"x")
            assert await reader.read(1) == b"x"
        left = await reader.read()
        writer.close()
        server.close()
        return left

    assert asyncio.run(main()) == b""
