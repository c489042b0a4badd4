"""Gossip and signs of life: a stream with each peer, the same in both directions.

frame      4-byte length, 1 byte kind, the rest
PLACES     the addresses where its sender can be dialled, one a line; comes first
JOIN       the run that its sender takes part in
PING       nothing: sent when there was nothing else to send
TOPICS on  8 random bytes, which name the message, and the message

p2pd's own gossipsub would forward a message before anybody here has judged it. So messages flood:
who takes one for good sends it to FANOUT_MAX peers of the run, each of which hears it once.
"""

import asyncio
import contextlib
import hashlib
import os
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from demo_node.mesh import bounds
from demo_node.mesh.allowance import Patience, make_join_patience
from demo_node.mesh.hivemind.limits import ADDRESSES_MAX, PLACE_BYTES_MAX
from demo_node.mesh.hivemind.streams import Meter, Stream
from demo_node.ports import Offence, OnGossip, PeerChange, Topic, Use
from demo_protocol.errors import LocalFault

PLACES: Final = 1
JOIN: Final = 2
PING: Final = 3
TOPICS: Final = 16

LENGTH_BYTES: Final = 4
NAME_BYTES: Final = 8
FRAME_BYTES_MAX: Final = 1 + NAME_BYTES + max(bounds.TOPIC_BYTES_MAX.values())

FANOUT_MAX: Final = bounds.GOSSIP_DEGREE_HIGH
"""Peers that a message goes to, chosen anew each time where more are linked: of a hundred nodes
that forward to 12 at random, one hears nothing in 1 of 1600 messages."""

SEEN_MAX: Final = 1 << 15
"""Messages remembered to know duplicates; the oldest are forgotten first. 5 MB."""

SILENT_S: Final = 5.0
"""Without a byte for so long, pings included, a peer is frozen, and dropped."""

_TOPICS: Final = tuple(Topic)


class Link:
    """One stream with a peer."""

    def __init__(self, peer: bytes, address: str, stream: Stream, *, outbound: bool) -> None:
        self.peer = peer
        self.address = address
        self.outbound = outbound
        self.places: tuple[str, ...] = ()
        self.is_up = asyncio.get_running_loop().create_future()
        """Done when the peer has spoken; fails when it never does."""
        self.run_id = b""
        """The run that the peer takes part in, as it says."""
        self.stream = stream
        self._queue: deque[bytes] = deque()
        self._wake = asyncio.Event()

    def send(self, kind: int, content: bytes = b"") -> None:
        """Queue a frame; the oldest is dropped where a slow peer lets too many wait."""
        if len(self._queue) >= bounds.GOSSIP_QUEUE_MAX:
            self._queue.popleft()
        self._queue.append(_encode_frame(kind, content))
        self._wake.set()

    async def write(self) -> None:
        """Send what is queued, for ever; pings where that is nothing. Raises OSError."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(bounds.HEALTH_INTERVAL_S):
                    await self._wake.wait()
            self._wake.clear()
            frames = b"".join(self._queue) or _encode_frame(PING)
            self._queue.clear()
            async with asyncio.timeout(bounds.WRITE_STALL_S):
                await self.stream.write(frames)

    async def read(self) -> tuple[int, bytes]:
        """The next frame. Raises OSError, EOFError or ValueError."""
        size = int.from_bytes(await self.stream.read_exact(LENGTH_BYTES))
        if not 1 <= size <= FRAME_BYTES_MAX:
            raise ValueError(f"a frame of {size} bytes")
        frame = await self.stream.read_exact(size)
        return frame[0], frame[1:]


class Links:
    """All links, the messages on them, and who is connected by them."""

    def __init__(
        self,
        meter: Meter,
        places: Callable[[], Sequence[str]],
        drop: Callable[[bytes], None],
        blame: Callable[[bytes, Offence], None],
        fail: Callable[[Exception], None],
    ) -> None:
        """`places`: our own addresses. `drop`: end a peer's connection; it is silent."""
        self._meter = meter
        self._places = places
        self._drop = drop
        self._blame = blame
        self._fail = fail
        self._links: dict[bytes, list[Link]] = {}
        self._since_s: dict[bytes, float] = {}
        self._tasks: dict[Link, asyncio.Task[None]] = {}
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._joins = make_join_patience(0.0)
        self._joins_of: dict[bytes, Patience] = {}
        self._run_id = b""
        self._on_gossip: OnGossip | None = None
        self.changes = dict.fromkeys(PeerChange, 0)

    def connected(self) -> Iterator[tuple[Link, float]]:
        """One link of each peer, and for how many seconds the peer has been here."""
        now_s = asyncio.get_running_loop().time()
        for peer, since_s in self._since_s.items():
            up = [link for link in self._links[peer] if _is_up(link)]
            outbound = [link for link in up if link.outbound]
            yield (outbound or up)[0], now_s - since_s

    def is_connected(self, peer: bytes) -> bool:
        """Has it spoken, and not left?"""
        return peer in self._since_s

    def count_joined(self) -> int:
        """Peers that messages of our run go to."""
        return len(self._joined())

    def take(self, peer: bytes, address: str, fd: int, *, outbound: bool) -> Link:
        """Begin to speak over a stream; watch the link's `is_up`."""
        stream = Stream(fd, peer, self._meter, Use.GOSSIP)
        link = Link(peer, address, stream, outbound=outbound)
        links = self._links.setdefault(peer, [])
        is_full = len(self._links) > bounds.CONNECTIONS_MAX
        for old in links[: max(0, len(links) + 1 - bounds.CONNECTIONS_PER_PEER_MAX)]:
            self._tasks[old].cancel()
        links.append(link)
        self._meter.heard_s.setdefault(peer, asyncio.get_running_loop().time())
        task = self._tasks[link] = asyncio.create_task(self._live(link, is_full))
        task.add_done_callback(lambda _: self._leave(link))  # one cancelled at once never begins
        return link

    def join(self, run_id: bytes, on_gossip: OnGossip) -> None:
        """Take part in a run's gossip from now on."""
        self._run_id, self._on_gossip = run_id, on_gossip
        for link in self._tasks:
            link.send(JOIN, run_id)

    def publish(self, topic: Topic, message: bytes) -> None:
        """Send to peers of the run. Raises LocalFault over the size limit."""
        if self._on_gossip is None:
            raise LocalFault("no run was joined")
        bytes_max = bounds.TOPIC_BYTES_MAX[topic]
        if len(message) > bytes_max:
            raise LocalFault(f"{topic}: {len(message)} bytes, at most {bytes_max} are gossiped")
        kind = TOPICS + _TOPICS.index(topic)
        content = os.urandom(NAME_BYTES) + message
        self._remember(_name(kind, content))
        self._forward(kind, content, b"")

    async def watch(self) -> None:
        """Drop who is silent, for ever."""
        loop = asyncio.get_running_loop()
        last_s = loop.time()
        while True:
            await asyncio.sleep(bounds.HEALTH_INTERVAL_S)
            now_s = loop.time()
            if now_s - last_s > SILENT_S:  # we slept ourselves: what they sent is still to be read
                self._meter.heard_s = dict.fromkeys(self._meter.heard_s, now_s)
            last_s = now_s
            for peer, heard_s in list(self._meter.heard_s.items()):
                if now_s - heard_s > SILENT_S:
                    for link in self._links.get(peer, []):
                        self._tasks[link].cancel()
                    self._drop(peer)

    async def stop(self) -> None:
        """Leave everybody."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _live(self, link: Link, is_full: bool) -> None:
        link.send(PLACES, "\n".join(self._places()[:ADDRESSES_MAX]).encode())
        if self._run_id:
            link.send(JOIN, self._run_id)
        try:
            with contextlib.suppress(OSError, EOFError, ValueError):
                if not is_full:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(_ending(link.write()))
                        group.create_task(_ending(self._listen(link)))
        except* _Ended:
            pass

    async def _listen(self, link: Link) -> None:
        while True:
            kind, content = await link.read()
            if not _is_up(link):
                link.is_up.set_result(None)
                self._arrive(link.peer)
            if kind == PLACES:
                link.places = _decode_places(content)
            elif kind == JOIN:
                link.run_id = content
            elif kind >= TOPICS:
                self._hear(link, kind, content)

    def _hear(self, link: Link, kind: int, content: bytes) -> None:
        if self._on_gossip is None or link.run_id != self._run_id or len(content) < NAME_BYTES:
            return
        message = content[NAME_BYTES:]
        topic = _TOPICS[kind - TOPICS] if kind - TOPICS < len(_TOPICS) else None
        if topic is None or len(message) > bounds.TOPIC_BYTES_MAX[topic]:
            return
        name = _name(kind, content)
        if name in self._seen or (topic is Topic.MEMBERSHIP and not self._has_room(link.peer)):
            return
        self._remember(name)
        try:
            is_good = self._on_gossip(topic, link.peer, message)
        except Exception as error:  # our bug: it ends the mesh, and `wait` tells
            self._fail(error)
            return
        if is_good:
            self._forward(kind, content, link.peer)

    def _forward(self, kind: int, content: bytes, source: bytes) -> None:
        joined = [link for link in self._joined() if link.peer != source]
        for link in random.sample(joined, min(len(joined), FANOUT_MAX)):
            link.send(kind, content)

    def _joined(self) -> list[Link]:
        found = []
        for links in self._links.values():
            of_run = [link for link in links if _is_up(link) and link.run_id == self._run_id]
            found += of_run[:1] if self._run_id else []
        return found

    def _has_room(self, peer: bytes) -> bool:
        """Is a join not one too many, of this peer or of all? Before its signature is looked at."""
        now_s = asyncio.get_running_loop().time()
        if len(self._joins_of) > 2 * bounds.CONNECTIONS_MAX:
            self._joins_of = {p: kept for p, kept in self._joins_of.items() if p in self._links}
        theirs = self._joins_of.setdefault(peer, make_join_patience(now_s))
        if not theirs.take(now_s):
            if theirs.is_exhausted:
                self._blame(peer, Offence.FLOOD)
            return False
        return self._joins.take(now_s)

    def _remember(self, name: bytes) -> None:
        self._seen[name] = None
        if len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)

    def _arrive(self, peer: bytes) -> None:
        if peer not in self._since_s:
            self._since_s[peer] = asyncio.get_running_loop().time()
            self.changes[PeerChange.CONNECTED] += 1

    def _leave(self, link: Link) -> None:
        link.stream.close()
        del self._tasks[link]
        links = self._links[link.peer]
        links.remove(link)
        if not link.is_up.done():
            link.is_up.cancel()
        if not links:
            del self._links[link.peer]
            self._meter.heard_s.pop(link.peer, None)
        if not any(map(_is_up, links)) and self._since_s.pop(link.peer, None) is not None:
            self.changes[PeerChange.DISCONNECTED] += 1


class _Ended(Exception):
    """A stream has ended, so the other half of its link ends, too."""


async def _ending(half: "asyncio.Future[None] | object") -> None:
    try:
        await half  # type: ignore[misc]
    except (OSError, EOFError, ValueError):
        raise _Ended from None


def _name(kind: int, content: bytes) -> bytes:
    """Of a message, to know it again."""
    return hashlib.blake2b(bytes([kind]) + content, digest_size=16).digest()


def _encode_frame(kind: int, content: bytes = b"") -> bytes:
    return (1 + len(content)).to_bytes(LENGTH_BYTES) + bytes([kind]) + content


def _is_up(link: Link) -> bool:
    return link.is_up.done() and not link.is_up.cancelled()


def _decode_places(content: bytes) -> tuple[str, ...]:
    lines = content.decode(errors="replace").split("\n")[:ADDRESSES_MAX]
    return tuple(line for line in lines if 0 < len(line) <= PLACE_BYTES_MAX)
