"""The wires between a swarm's nodes: each connection goes through here, to be slowed or cut.

In front of every node stands a relay, at an address that is the only one its peers learn (what the
node announces). Who dials is asked of the kernel. To the node that is dialled the connection comes
from the dialler's own relay, so that no node ever sees an address that leads around the wires.

A cut works as on the internet: bytes are not lost but held, as TCP repeats them, and arrive after
the heal unless an end has given up; a connection that begins hangs. Linux only.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Final

from demo_node.sim.links import Cut

CHUNK_BYTES: Final = 64 << 10
"""Read at once."""

CHUNKS_MAX: Final = 64
"""On the way in one direction of a connection; its sender waits beyond that."""

Place = tuple[str, int]
"""Host and port."""

Connection = tuple[Place, Place]
"""From where to where."""

FindDiallers = Callable[[Collection[Connection]], dict[Connection, int]]
"""Whose connections these are, as far as they are nodes'. It takes long, and runs in a thread."""


def relay_host(node: int) -> str:
    """Where a node's relay listens, and from where its connections come to others."""
    return f"127.0.{1 + node // 250}.{1 + node % 250}"


@dataclass(slots=True)
class Wires:
    """All relays of a swarm. Latency and jitter are in seconds, one way."""

    find_diallers: FindDiallers
    latency_s: float = 0.0
    jitter_s: float = 0.0
    cuts: list[Cut] = field(default_factory=list)
    held: int = 0
    """Pieces of data, and connections about to begin, that a cut has held up."""
    _healed: asyncio.Event = field(default_factory=asyncio.Event)
    _unknown: list[Connection] = field(default_factory=list)
    _known: dict[Connection, int | None] = field(default_factory=dict)
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _servers: list[asyncio.Server] = field(default_factory=list)
    _connections: set[asyncio.Task[None]] = field(default_factory=set)

    async def lead_to(self, node: int, port: int, behind: Place) -> None:
        """Begin to accept connections to a node, which listens `behind`. Raises OSError."""

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._relay(node, behind, reader, writer))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

        server = await asyncio.start_server(accept, relay_host(node), port, limit=CHUNK_BYTES)
        self._servers.append(server)

    async def close(self) -> None:
        """End every connection and stop to accept."""
        for server in self._servers:
            server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def add_cut(self, cut: Cut) -> None:
        """From now on nothing gets through there."""
        self.cuts.append(cut)

    def heal(self, cut: Cut | None = None) -> None:
        """One cut, or every one, is over; one that is over already is fine."""
        self.cuts = [c for c in self.cuts if cut is not None and c is not cut]
        self._healed.set()
        self._healed = asyncio.Event()

    def is_open(self, sender: int, receiver: int) -> bool:
        """Does anything get through in this direction?"""
        return not any(cut.blocks(sender, receiver) for cut in self.cuts)

    async def _relay(
        self,
        target: int,
        behind: Place,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """One connection, from its beginning to its end."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(_closed_at_last(writer))
            dialler = await self._identify(
                (writer.get_extra_info("peername")[:2], writer.get_extra_info("sockname")[:2])
            )
            if dialler is None:
                return  # it has gone already, or is no node of ours
            await self._pass(dialler, target)
            await self._pass(target, dialler)
            try:
                other_reader, other_writer = await asyncio.open_connection(
                    *behind, local_addr=(relay_host(dialler), 0), limit=CHUNK_BYTES
                )
            except OSError:
                return  # nobody is there: the node is down
            stack.enter_context(_closed_at_last(other_writer))
            there = asyncio.create_task(self._carry(reader, other_writer, dialler, target))
            back = asyncio.create_task(self._carry(other_reader, writer, target, dialler))
            try:
                await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
            finally:
                there.cancel()
                back.cancel()
                await asyncio.gather(there, back, return_exceptions=True)

    async def _identify(self, connection: Connection) -> int | None:
        """Whose it is. All that came while others were looked for are looked for at once."""
        self._unknown.append(connection)
        async with self._looking:
            if connection not in self._known:
                asked, self._unknown = self._unknown, []
                found = await asyncio.to_thread(self.find_diallers, asked)
                self._known.update({one: found.get(one) for one in asked})
            return self._known.pop(connection, None)

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        sender: int,
        receiver: int,
    ) -> None:
        """One direction, until the receiver has everything that its sender sent before its end."""
        loop = asyncio.get_running_loop()
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_MAX)

        async def take() -> None:
            while True:
                try:
                    data = await reader.read(CHUNK_BYTES)
                except ConnectionError:
                    data = b""
                delay_s = self.latency_s + random.uniform(0, self.jitter_s)
                await on_the_way.put((loop.time() + delay_s, data))
                if not data:
                    return

        async def give() -> None:
            while True:
                due_s, data = await on_the_way.get()
                if due_s > loop.time():
                    await asyncio.sleep(due_s - loop.time())
                await self._pass(sender, receiver)
                if not data:
                    return
                try:
                    writer.write(data)
                    await writer.drain()
                except ConnectionError:
                    return

        taking = asyncio.create_task(take())
        try:
            await give()
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)

    async def _pass(self, sender: int, receiver: int) -> None:
        """Wait until something can get through."""
        if self.is_open(sender, receiver):
            return
        self.held += 1
        while not self.is_open(sender, receiver):
            await self._healed.wait()


@contextlib.contextmanager
def _closed_at_last(writer: asyncio.StreamWriter) -> Iterator[None]:
    """Close it once what was written is out; at once when we are cancelled."""
    try:
        yield
    except asyncio.CancelledError:
        if not writer.transport.is_closing():
            writer.transport.abort()
        raise
    finally:
        writer.close()
