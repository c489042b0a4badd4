"""The control service: exactly views.Operations, over a unix socket only its owner can open."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc

from demo_node.control.address import prepare_socket_folder, socket_path
from demo_node.control.convert import encode
from demo_node.control.pb import control_pb2 as pb
from demo_node.control.pb import control_pb2_grpc as rpc
from demo_node.control.requests import RequestCounts
from demo_node.views import Operations, RoundView
from demo_protocol.errors import ConfigError
from demo_protocol.limits import PEER_BYTES

MESSAGE_BYTES_MAX: Final = 1 << 20
"""No request comes near it, and no reply carries parameters."""

WATCH_INTERVAL_MS: Final = 250
WATCH_INTERVAL_MS_MIN: Final = 50
ROUNDS_DEFAULT: Final = 100
ROUNDS_MAX: Final = 10_000
ROUNDS_AT_ONCE: Final = 100
"""Put into a reply in 2 ms; then it is others' turn."""

SAMPLE_BYTES_MAX: Final = 4_096

Context = grpc.aio.ServicerContext[Any, Any]
Reply = TypeVar("Reply")


@contextlib.asynccontextmanager
async def control_server(
    datadir: Path, operations: Operations, counts: RequestCounts | None = None
) -> AsyncIterator[Path]:
    """Serve `operations` on the data folder's control socket; yields its path.

    Requests are counted in `counts`. Call it only while holding the data folder's lock: a socket
    file that is already there is taken for one a killed node has left behind.
    """
    path = socket_path(datadir)
    prepare_socket_folder(path)
    path.unlink(missing_ok=True)
    server = grpc.aio.server(
        interceptors=[counts] if counts else [],
        options=[("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)],
    )
    rpc.add_ControlServicer_to_server(ControlService(operations), server)
    with _private_files():
        server.add_insecure_port(f"unix:{path}")
        await server.start()
    try:
        yield path
    finally:
        await server.stop(grace=0.5)
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _private_files() -> Iterator[None]:
    """Whatever is created inside is 0600."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


class ControlService(rpc.ControlServicer):
    """Messages in, messages out; everything else is the operations' business."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.Status:
        """The node now."""
        return encode(self._operations.status(), pb.Status)

    async def WatchStatus(
        self, request: pb.WatchStatusRequest, context: Context
    ) -> AsyncIterator[pb.Status]:
        """The node now, and again whenever something about it has changed."""
        interval_ms = max(WATCH_INTERVAL_MS_MIN, request.interval_ms or WATCH_INTERVAL_MS)
        sent = b""
        while True:
            status = encode(self._operations.status(), pb.Status)
            raw = status.SerializeToString()  # compared as bytes: a loss of NaN equals itself
            if raw != sent:
                sent = raw
                yield status
            await asyncio.sleep(interval_ms / 1000)

    async def ListPeers(self, request: pb.ListPeersRequest, context: Context) -> pb.ListPeersReply:
        """Connected peers."""
        return pb.ListPeersReply(peers=[encode(view, pb.Peer) for view in self._operations.peers()])

    async def ListBans(self, request: pb.ListBansRequest, context: Context) -> pb.ListBansReply:
        """Who is kept out."""
        return pb.ListBansReply(bans=[encode(view, pb.Ban) for view in self._operations.bans()])

    async def BanPeer(self, request: pb.BanPeerRequest, context: Context) -> pb.BanPeerReply:
        """Close a peer's connections and keep it out for a while."""
        if len(request.peer) != PEER_BYTES or not request.seconds:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"a key has {PEER_BYTES} bytes, a ban some time"
            )
        await _answer(context, _call(lambda: self._operations.ban(request.peer, request.seconds)))
        return pb.BanPeerReply()

    async def Unban(self, request: pb.UnbanRequest, context: Context) -> pb.UnbanReply:
        """Let a peer or an address in again."""
        await _answer(context, _call(lambda: self._operations.unban(request.who)))
        return pb.UnbanReply()

    async def ListRounds(
        self, request: pb.ListRoundsRequest, context: Context
    ) -> pb.ListRoundsReply:
        """The newest rounds, oldest first."""
        limit = min(ROUNDS_MAX, request.limit or ROUNDS_DEFAULT)
        reply = pb.ListRoundsReply()
        for some in _batch(self._operations.rounds(limit)):
            reply.rounds.extend(encode(view, pb.Round) for view in some)
            await asyncio.sleep(0)
        return reply

    async def SaveSnapshot(
        self, request: pb.SaveSnapshotRequest, context: Context
    ) -> pb.SaveSnapshotReply:
        """Write a snapshot of the head to the data folder."""
        path = await _answer(context, self._operations.save_snapshot)
        return pb.SaveSnapshotReply(path=path)

    async def Evaluate(self, request: pb.EvaluateRequest, context: Context) -> pb.EvaluateReply:
        """Held-out loss of a state."""
        loss = await _answer(context, lambda: self._operations.evaluate(request.record))
        return pb.EvaluateReply(loss=loss)

    async def Sample(self, request: pb.SampleRequest, context: Context) -> pb.SampleReply:
        """Text generated from the head's parameters."""
        if not 1 <= request.length <= SAMPLE_BYTES_MAX:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"length must be 1 to {SAMPLE_BYTES_MAX}"
            )
        text = await _answer(context, lambda: self._operations.sample(request.length))
        return pb.SampleReply(text=text)

    async def ListContributors(
        self, request: pb.ListContributorsRequest, context: Context
    ) -> pb.ListContributorsReply:
        """What every peer has contributed."""
        views = self._operations.contributors()
        return pb.ListContributorsReply(
            contributors=[encode(view, pb.Contributor) for view in views]
        )

    async def ListSwarm(self, request: pb.ListSwarmRequest, context: Context) -> pb.ListSwarmReply:
        """The run's peers as this node sees them now."""
        return encode(self._operations.swarm(), pb.ListSwarmReply)

    async def GetHealth(self, request: pb.GetHealthRequest, context: Context) -> pb.Health:
        """What alerts are made of."""
        return encode(self._operations.health(), pb.Health)

    async def Pause(self, request: pb.PauseRequest, context: Context) -> pb.PauseReply:
        """Train no more."""
        await _answer(context, _call(self._operations.pause))
        return pb.PauseReply()

    async def Resume(self, request: pb.ResumeRequest, context: Context) -> pb.ResumeReply:
        """Train again."""
        await _answer(context, _call(self._operations.resume))
        return pb.ResumeReply()

    async def Adopt(self, request: pb.AdoptRequest, context: Context) -> pb.AdoptReply:
        """Go over to the chain that conflicts with what is final here."""
        record = await _answer(context, lambda: self._operations.adopt(request.record))
        return pb.AdoptReply(record=record)

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainReply:
        """Leave cleanly."""
        self._operations.drain()
        return pb.DrainReply()


def _batch(views: Sequence[RoundView]) -> Iterator[Sequence[RoundView]]:
    for start in range(0, len(views), ROUNDS_AT_ONCE):
        yield views[start : start + ROUNDS_AT_ONCE]


def _call(act: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    """`act` as `_answer` wants it."""

    async def called() -> None:
        act()

    return called


async def _answer(context: Context, ask: Callable[[], Awaitable[Reply]]) -> Reply:
    """The operation's result. What an operator can understand becomes a status; bugs propagate."""
    try:
        return await ask()
    except LookupError as error:  # a state or blob the node does not hold
        await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
    except ConnectionError as error:  # the trainer is being restarted
        # Not UNAVAILABLE: to a client that means that there is no node at all.
        await context.abort(grpc.StatusCode.ABORTED, str(error))
    except ConfigError as error:  # not in a run yet
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
    raise AssertionError("abort raises")
