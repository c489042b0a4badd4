"""The Go program p2pd, and what it is asked over its socket. Part of the process beside the node.

We start it ourselves, and not by hivemind's `P2P.create`: whether it lives is then seen from its
process (trap 20), it dies with us, speaks for our key, and its socket is in a folder of our own.
The protocol and its messages are hivemind's (`proto/p2pd.proto`).
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from hivemind.proto import crypto_pb2
from hivemind.proto import p2pd_pb2 as pb
from hivemind.utils.multiaddr import Multiaddr as UnixAddress
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from demo_node.mesh.hivemind.limits import PROTOCOLS

# hivemind's own Multiaddr writes ids in the middle of an address, as relays' have them, in a way
# that Go refuses; multiaddr's leaves out the first slash of a unix socket. Each does what it can.

START_S: Final = 30.0
"""To its first answer; 0.1 s on a quiet machine."""

ASK_S: Final = 5.0
"""For an answer that needs no peer."""

ANSWER_BYTES_MAX: Final = 1 << 20
"""Of one answer; the longest lists some hundred peers."""

CONNECTIONS_LOW, CONNECTIONS_HIGH = 224, 256
"""Where there are more than the latter, it drops those that nobody has used for long."""


HOP: Final = "/libp2p/circuit/relay/0.2.0/hop"
RESERVE: Final = b"\x02\x08\x00"
"""HopMessage{type: RESERVE} with its length before it (libp2p specs, relay/circuit-v2.md)."""

LIMIT, STATUS, DATA = 4, 5, 2
"""Fields of the answer, and of its limit: bytes that a circuit carries each way."""

OK: Final = 100
"""The status of one that grants it."""

CARRIED_BYTES_MIN: Final = 1 << 30
"""Relays that carry less end a circuit within one payload (`relay.py`)."""

OnStream = Callable[[bytes, str, str, socket.socket], None]
"""(binary id of the peer, its address, protocol, the stream)"""


class P2pdError(ConnectionError):
    """It answered with an error, or not at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class P2pdSettings:
    """What it is started with. `is_relay`: whether it carries others' bytes."""

    seed: bytes
    listen: tuple[str, ...]
    announce: tuple[str, ...]
    is_relay: bool


class P2pd:
    """One process, from its start to its death."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self._process = process
        self._folder = folder
        self.last_line = ""
        """Of what it wrote: why it ended, when it ends."""
        self._reading = asyncio.create_task(self._read_output())
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._opening: set[asyncio.Task[None]] = set()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process is there; it may hang all the same: `identify` tells."""
        return self._process.returncode is None

    @property
    def address(self) -> str:
        """Of its socket, as hivemind wants it."""
        return f"/unix{self._folder}/p2pd.sock"

    async def wait(self) -> str:
        """Return when it is dead; says how it ended."""
        code = await self._process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}, {self.last_line}"

    async def close(self) -> None:
        """End it, and everything that belongs to it."""
        for task in (self._accepting, *self._opening):
            if task is not None:
                task.cancel()
        if self._listener is not None:
            self._listener.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        self._reading.cancel()

    async def identify(self) -> list[str]:
        """The addresses that it believes to have. Raises P2pdError where it hangs."""
        answer = await self._ask(pb.Request(type=pb.Request.IDENTIFY), ASK_S)
        return [str(Multiaddr(raw)) for raw in answer.identify.addrs]

    async def connect(self, peer_id: bytes, addresses: Sequence[str], timeout_s: float) -> None:
        """Be connected to a peer, dialling it where it is not. Raises P2pdError."""
        request = pb.Request(
            type=pb.Request.CONNECT,
            connect=pb.ConnectRequest(
                peer=peer_id,
                addrs=[Multiaddr(address).to_bytes() for address in addresses],
                timeout=max(1, int(timeout_s)),
            ),
        )
        await self._ask(request, timeout_s + ASK_S)

    async def disconnect(self, peer_id: bytes) -> None:
        """Drop all connections of a peer. Raises P2pdError."""
        request = pb.DisconnectRequest(peer=peer_id)
        await self._ask(pb.Request(type=pb.Request.DISCONNECT, disconnect=request), ASK_S)

    async def open(self, peer_id: bytes, protocol: str, timeout_s: float) -> socket.socket:
        """A stream to a peer that is connected. Raises P2pdError."""
        request = pb.StreamOpenRequest(
            peer=peer_id, proto=[protocol], timeout=max(1, int(timeout_s))
        )
        sock, _ = await self._call(
            pb.Request(type=pb.Request.STREAM_OPEN, streamOpen=request), timeout_s + ASK_S
        )
        return sock

    async def reserve(self, peer_id: bytes) -> bool:
        """Have a connected peer carry to us what others send by it. Raises P2pdError.

        For an hour, or until it is disconnected. p2pd would ask only after three minutes, unless
        it knows four peers to choose from, and only if it believes that nobody can dial it, which
        on a private network it never does. False where it is refused, or is for next to nothing.
        """
        sock = await self.open(peer_id, HOP, ASK_S)
        with sock:
            try:
                async with asyncio.timeout(ASK_S):
                    await asyncio.get_running_loop().sock_sendall(sock, RESERVE)
                    status, carried = decode_reservation(await _read_message(sock))
            except (OSError, EOFError, ValueError) as error:
                raise P2pdError(f"no answer about a reservation: {error}") from None
        return status == OK and not 0 < carried < CARRIED_BYTES_MIN

    async def serve(self, on_stream: OnStream) -> None:
        """From now on streams of peers come to `on_stream`. Raises P2pdError."""
        place = self._folder / "streams.sock"
        place.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._listener.bind(str(place))
        self._listener.listen(128)
        self._accepting = asyncio.create_task(self._accept(self._listener, on_stream))
        request = pb.StreamHandlerRequest(
            addr=UnixAddress(f"/unix{place}").to_bytes(), proto=list(PROTOCOLS), balanced=False
        )
        await self._ask(pb.Request(type=pb.Request.STREAM_HANDLER, streamHandler=request), ASK_S)

    async def _accept(self, listener: socket.socket, on_stream: OnStream) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            sock.setblocking(False)
            task = asyncio.create_task(self._begin(sock, on_stream))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _begin(self, sock: socket.socket, on_stream: OnStream) -> None:
        """Read what p2pd says of a stream, and nothing of the stream itself."""
        try:
            async with asyncio.timeout(ASK_S):
                info = pb.StreamInfo.FromString(await _read_message(sock))
            on_stream(info.peer, str(Multiaddr(info.addr)), info.proto, sock)
        except (OSError, EOFError, ValueError):
            sock.close()
        except asyncio.CancelledError:
            sock.close()
            raise

    async def _ask(self, request: pb.Request, timeout_s: float) -> pb.Response:
        sock, answer = await self._call(request, timeout_s)
        sock.close()
        return answer

    async def _call(
        self, request: pb.Request, timeout_s: float
    ) -> tuple[socket.socket, pb.Response]:
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            async with asyncio.timeout(timeout_s):
                await loop.sock_connect(sock, str(self._folder / "p2pd.sock"))
                raw = request.SerializeToString()
                await loop.sock_sendall(sock, _encode_varint(len(raw)) + raw)
                answer = pb.Response.FromString(await _read_message(sock))
        except TimeoutError:
            sock.close()
            raise P2pdError("p2pd does not answer") from None
        except (OSError, EOFError, ValueError) as error:
            sock.close()
            raise P2pdError(f"p2pd is gone: {error}") from None
        except asyncio.CancelledError:
            sock.close()
            raise
        if answer.type != pb.Response.OK:
            sock.close()
            raise P2pdError(answer.error.msg)
        return sock, answer

    async def _read_output(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.last_line = line.decode(errors="replace").strip()


async def start_p2pd(settings: P2pdSettings, folder: Path) -> P2pd:
    """Start it and wait for its first answer. Raises P2pdError where it ends at once."""
    identity = folder / "identity"
    identity.unlink(missing_ok=True)
    identity.touch(mode=0o600)
    identity.write_bytes(_encode_key(settings.seed))
    (folder / "p2pd.sock").unlink(missing_ok=True)
    process = await asyncio.create_subprocess_exec(
        str(files("hivemind.hivemind_cli") / "p2pd"),
        *_make_arguments(settings, folder, identity),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"GOLOG_LOG_LEVEL": "error", **os.environ},
        preexec_fn=die_with_parent,
    )
    p2pd = P2pd(process, folder)
    try:
        async with asyncio.timeout(START_S):
            while True:
                with contextlib.suppress(P2pdError):
                    await p2pd.identify()
                    return p2pd
                if not p2pd.is_alive:
                    raise P2pdError(p2pd.last_line or "p2pd ended at once")
                await asyncio.sleep(0.02)
    except TimeoutError:
        await p2pd.close()
        raise P2pdError(f"p2pd did not answer within {START_S:.0f} s") from None
    except BaseException:
        await p2pd.close()
        raise
    finally:
        identity.unlink()


def _make_arguments(settings: P2pdSettings, folder: Path, identity: Path) -> list[str]:
    arguments = {
        "listen": f"/unix{folder}/p2pd.sock",
        "id": identity,
        "hostAddrs": ",".join(settings.listen),
        "connManager": 1,
        "connLo": CONNECTIONS_LOW,
        "connHi": CONNECTIONS_HIGH,
        "autonat": 1,  # tells others whether they can be dialled
        "relay": 1,
        "relayService": int(settings.is_relay),
        "natPortMap": 0,  # routers are changed only by who owns them
        "tls": 0,  # Noise only, as the other mesh
    }
    if settings.announce:
        arguments["announceAddrs"] = ",".join(settings.announce)
    if settings.is_relay:
        arguments["forceReachabilityPublic"] = 1  # else it waits until it knows that itself
    return [f"-{name}={value}" for name, value in arguments.items()]


def die_with_parent() -> None:
    """Be killed when the process that started this one dies, whatever kills it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _encode_key(seed: bytes) -> bytes:
    """The node's key as libp2p keeps keys: seed and public key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    key = crypto_pb2.PrivateKey(key_type=crypto_pb2.Ed25519, data=seed + public)
    return bytes(key.SerializeToString())


def decode_reservation(raw: bytes) -> tuple[int, int]:
    """Status, and bytes that a circuit carries each way, 0 for any number. Raises ValueError.

    By hand, for hivemind has no such message, and py-libp2p cannot be imported beside it.
    """
    answer = dict(_iterate_fields(raw))
    status, limit = answer.get(STATUS, 0), answer.get(LIMIT, b"")
    if not isinstance(status, int) or not isinstance(limit, bytes):
        raise ValueError("no answer of a relay")
    carried = dict(_iterate_fields(limit)).get(DATA, 0)
    if not isinstance(carried, int):
        raise ValueError("no limit of a relay")
    return status, carried


def _iterate_fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and content of each field of a protobuf message. Raises ValueError."""
    at = 0

    def take_varint() -> int:
        nonlocal at
        found = 0
        for shift in range(0, 64, 7):
            if at >= len(raw):
                break
            byte, at = raw[at], at + 1
            found |= (byte & 0x7F) << shift
            if byte < 0x80:
                return found
        raise ValueError("no number")

    while at < len(raw):
        tag = take_varint()
        if tag & 7 == 0:
            yield tag >> 3, take_varint()
        elif tag & 7 == 2:
            size = take_varint()
            if size > len(raw) - at:
                raise ValueError("a field that ends too early")
            yield tag >> 3, raw[at : at + size]
            at += size
        else:
            raise ValueError("a field that relays do not send")


async def _read_message(sock: socket.socket) -> bytes:
    """One message with its length before it, and no byte more: the rest is the stream's."""
    size = shift = 0
    while True:
        (byte,) = await _read_exact(sock, 1)
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 28:
            raise ValueError("no length")
    if size > ANSWER_BYTES_MAX:
        raise ValueError(f"{size} bytes of an answer")
    return await _read_exact(sock, size)


async def _read_exact(sock: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        piece = await asyncio.get_running_loop().sock_recv(sock, size - len(found))
        if not piece:
            raise EOFError("it hung up")
        found += piece
    return bytes(found)


def _encode_varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
