"""A way to a port on this machine that takes its time: TCP in, TCP out, each piece held so long."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

PIECE_BYTES: Final = 64 << 10

HOST: Final = "127.0.0.1"


@contextlib.asynccontextmanager
async def slow_link(port: int, delay_s: float) -> AsyncIterator[int]:
    """A port whose connections end at `port`; what goes through takes `delay_s`, each way."""
    connections: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_carry_both(reader, writer, port, delay_s))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(accept, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _carry_both(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, delay_s: float
) -> None:
    with contextlib.closing(writer):
        far_reader, far_writer = await asyncio.open_connection(HOST, port)
        await asyncio.gather(
            _carry(reader, far_writer, delay_s), _carry(far_reader, writer, delay_s)
        )


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter, delay_s: float) -> None:
    """Hand on what comes, in its order, until either end closes."""
    loop = asyncio.get_running_loop()
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def take() -> None:
        while True:
            piece = b""  # as at the end, where it broke off
            with contextlib.suppress(OSError):
                piece = await source.read(PIECE_BYTES)
            under_way.put_nowait((loop.time() + delay_s, piece))
            if not piece:
                return

    async def give() -> None:
        while True:
            due_s, piece = await under_way.get()
            await asyncio.sleep(due_s - loop.time())
            if not piece:
                return
            sink.write(piece)

    with contextlib.closing(sink):
        await asyncio.gather(take(), give())
