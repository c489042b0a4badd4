"""Main function of the process beside the node: p2pd, hivemind's DHT, and nothing of the round.

    python -m demo_node.mesh.hivemind.child <file descriptor of its end of the channel>

What the node asks, as messages {"id": number, "op": ...}:
start       seed, listen, announce, relays, is_relay     once, first
join        run                                          take part in the DHT of a run
connect     peer, addresses, limit_s
disconnect  peer
open        peer, protocol, limit_s                      the answer carries the stream
ping
The answer is {"id": the same}, with "error" where it failed. What it tells without being asked:
up          addresses, pid                               p2pd runs, for the first time or again
down        reason                                       p2pd died, or hung; another is started
stream      peer, protocol, address                      a peer opened a stream, which it carries
members     found: {peer: addresses}                     of the run, as the DHT has them
Peers are hexadecimal public keys.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import uvloop

from demo_node.mesh.hivemind import standin

standin.prepare_imports()  # before the first of ours that imports hivemind

from demo_node.mesh.hivemind.channel import Channel, Message  # noqa: E402
from demo_node.mesh.hivemind.limits import (  # noqa: E402
    ANNOUNCE_FIRST_S,
    ANNOUNCE_S,
    HUNG_S,
    LOOK_S,
    RESTART_MAX_S,
    RESTART_MIN_S,
)
from demo_node.mesh.hivemind.membership import Membership  # noqa: E402
from demo_node.mesh.hivemind.p2pd import (  # noqa: E402
    P2pd,
    P2pdError,
    P2pdSettings,
    die_with_parent,
    start_p2pd,
)
from demo_node.mesh.hivemind.relay import start_relay  # noqa: E402
from demo_node.mesh.peer_id import (  # noqa: E402
    decode_peer_id,
    decode_peer_id_bytes,
    encode_peer_id_bytes,
)
from demo_protocol.networks import is_for  # noqa: E402

EAGER_TURNS: Final = 10
"""Looks into the DHT at the first pace."""

RESERVE_S: Final = 20.0
"""How often a reservation is renewed: it ends with its connection, and costs one small stream."""

RESERVE_CONNECT_S: Final = 10.0

CARRIERS_MAX: Final = 4
"""Addresses by way of others in a member's record; half of what it holds."""

A_NEIGHBOUR: Final = "/ip4/192.168.0.1"


MEMBERS_AT_ONCE: Final = 4
"""Members in one message: their addresses, be they of control characters, fit into its bound."""


class Child:
    """Answers the node, and keeps a p2pd alive."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ended = asyncio.Event()
        self._settings: P2pdSettings | None = None
        self._p2pd: P2pd | None = None
        self._run_id = b""
        self._membership: Membership | None = None
        self._announced: list[str] = []
        self._carriers: dict[str, None] = {}
        """Peers' addresses by which we can be reached, too."""
        self._met: set[bytes] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._channel: Channel

    async def run(self, sock: socket.socket) -> None:
        """Until the node is gone."""
        self._channel = Channel(sock, self._take, self._ended.set)
        await self._ended.wait()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _take(self, message: Message, fd: int) -> None:
        self._spawn(self._answer(message))

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: Message) -> None:
        answer: dict[str, object] = {"id": message["id"]}
        fd = -1
        try:
            operations: dict[str, Callable[[Message], Awaitable[int]]] = {
                "start": self._start,
                "join": self._join,
                "connect": self._connect,
                "disconnect": self._disconnect,
                "open": self._open,
                "ping": self._ping,
            }
            fd = await operations[message["op"]](message)
        except (P2pdError, ValueError) as error:
            answer["error"] = str(error) or type(error).__name__
        self._channel.send(answer, fd)

    async def _start(self, message: Message) -> int:
        self._settings = P2pdSettings(
            seed=bytes.fromhex(message["seed"]),
            listen=tuple(message["listen"]),
            announce=tuple(message["announce"]),
            is_relay=bool(message["is_relay"]),
        )
        p2pd = await self._begin()  # the first failure is told: the operator may have to mend it
        self._spawn(self._keep_alive(p2pd))
        for relay in message["relays"]:
            self._spawn(self._keep_reserved(relay))
        return -1

    async def _join(self, message: Message) -> int:
        self._run_id = bytes.fromhex(message["run"])
        self._spawn(self._take_part())
        return -1

    async def _connect(self, message: Message) -> int:
        peer_id = encode_peer_id_bytes(bytes.fromhex(message["peer"]))
        await self._running().connect(peer_id, message["addresses"], message["limit_s"])
        return -1

    async def _disconnect(self, message: Message) -> int:
        await self._running().disconnect(encode_peer_id_bytes(bytes.fromhex(message["peer"])))
        return -1

    async def _open(self, message: Message) -> int:
        peer = bytes.fromhex(message["peer"])
        sock = await self._running().open(
            encode_peer_id_bytes(peer), message["protocol"], message["limit_s"]
        )
        self._met.add(peer)
        return sock.detach()

    async def _ping(self, message: Message) -> int:
        return -1

    def _running(self) -> P2pd:
        if self._p2pd is None:
            raise P2pdError("p2pd is being started again")
        return self._p2pd

    async def _begin(self) -> P2pd:
        assert self._settings is not None
        start = start_relay if self._settings.is_relay else start_p2pd
        p2pd = await start(self._settings, self._folder)
        try:
            await p2pd.serve(self._on_stream)
            self._announced = await p2pd.identify()
        except BaseException:
            await p2pd.close()
            raise
        self._p2pd = p2pd
        self._channel.send({"event": "up", "addresses": self._announced, "pid": p2pd.pid})
        return p2pd

    async def _keep_alive(self, p2pd: P2pd) -> None:
        """Whenever p2pd is dead or hangs: another one, with the same key at the same address."""
        loop = asyncio.get_running_loop()
        pause_s = RESTART_MIN_S
        try:
            while True:
                begin_s = loop.time()
                reason = await self._watch(p2pd)
                self._p2pd = None
                self._channel.send({"event": "down", "reason": reason})
                await p2pd.close()
                if loop.time() - begin_s > RESTART_MAX_S:
                    pause_s = RESTART_MIN_S
                p2pd, pause_s = await self._begin_again(pause_s)
        finally:
            self._p2pd = None
            await p2pd.close()

    async def _begin_again(self, pause_s: float) -> tuple[P2pd, float]:
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RESTART_MAX_S)
            try:
                return await self._begin(), pause_s
            except P2pdError as error:
                self._channel.send({"event": "down", "reason": str(error)})

    async def _watch(self, p2pd: P2pd) -> str:
        """Return when it is of no use any more, and why (trap 20: hivemind would not tell)."""
        dying = asyncio.create_task(p2pd.wait())
        answered_s = asyncio.get_running_loop().time()
        try:
            while True:
                await asyncio.wait([dying], timeout=LOOK_S)
                if dying.done():
                    return f"p2pd died: {dying.result()}"
                with contextlib.suppress(P2pdError):
                    self._announced = await p2pd.identify()
                    answered_s = asyncio.get_running_loop().time()
                if asyncio.get_running_loop().time() - answered_s > HUNG_S:
                    return f"p2pd did not answer for {HUNG_S:.0f} s"
        finally:
            dying.cancel()

    def _on_stream(self, peer_id: bytes, address: str, protocol: str, sock: socket.socket) -> None:
        try:
            peer = decode_peer_id_bytes(peer_id)
        except ValueError:  # no key of ours: it can connect, but not take part
            sock.close()
            return
        self._met.add(peer)
        told = {"event": "stream", "peer": peer.hex(), "protocol": protocol, "address": address}
        self._channel.send(told, sock.detach())

    async def _keep_reserved(self, relay: str) -> None:
        """Whoever cannot dial us may do so by way of this peer, as long as it is willing."""
        where, _, name = relay.rpartition("/p2p/")
        peer_id = encode_peer_id_bytes(decode_peer_id(name))
        while True:
            granted = False
            with contextlib.suppress(P2pdError):
                p2pd = self._running()
                await p2pd.connect(peer_id, [where], RESERVE_CONNECT_S)
                granted = await p2pd.reserve(peer_id)
            if granted:
                self._carriers[relay] = None
            else:
                self._carriers.pop(relay, None)
            await asyncio.sleep(RESERVE_S)

    async def _take_part(self) -> None:
        """Be in the DHT, and tell who else is."""
        turn = 0
        p2pd: P2pd | None = None
        try:
            while True:
                if self._p2pd is not p2pd:
                    await self._leave()
                    p2pd, turn = self._p2pd, 0
                if p2pd is not None:
                    # hivemind raises anything when p2pd dies under it; the next turn begins anew.
                    with contextlib.suppress(Exception):
                        await self._look_around(p2pd)
                turn += 1
                eager = turn < EAGER_TURNS
                await asyncio.sleep(ANNOUNCE_FIRST_S if eager else ANNOUNCE_S)
        finally:
            await self._leave()

    async def _look_around(self, p2pd: P2pd) -> None:
        if self._membership is None:
            assert self._settings is not None
            seed = self._settings.seed
            self._membership = await Membership.create(p2pd.address, self._run_id, seed)
        met, self._met = self._met, set()
        for peer in met:
            await self._membership.meet(encode_peer_id_bytes(peer))
        carried = [f"{relay}/p2p-circuit" for relay in self._carriers]
        await self._membership.announce([*carried[:CARRIERS_MAX], *_list_public(self._announced)])
        found = list((await self._membership.find()).items())
        for at in range(0, len(found), MEMBERS_AT_ONCE):
            some = {peer.hex(): told for peer, told in found[at : at + MEMBERS_AT_ONCE]}
            self._channel.send({"event": "members", "found": some})

    async def _leave(self) -> None:
        if self._membership is not None:
            await self._membership.close()
            self._membership = None


def _list_public(addresses: Sequence[str]) -> list[str]:
    """What others may be told: private addresses only where there is no public one."""
    for seen_at in ("", A_NEIGHBOUR):
        if found := [address for address in addresses if is_for(address, seen_at)]:
            return found
    return list(addresses)


async def _main(fd: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with tempfile.TemporaryDirectory(prefix="p2pd-") as folder:  # 0700
        await Child(Path(folder)).run(socket.socket(fileno=fd))


if __name__ == "__main__":
    die_with_parent()
    os.umask(0o077)
    uvloop.run(_main(int(sys.argv[1])))
