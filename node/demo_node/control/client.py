"""Ask a running node. Used by the commands and by the swarm; imports neither torch nor libp2p."""

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Final

import grpc

from demo_node.control.address import socket_path
from demo_node.control.convert import decode
from demo_node.control.pb import control_pb2 as pb
from demo_node.control.pb import control_pb2_grpc as rpc
from demo_node.ports import BanView, PeerView
from demo_node.views import ContributorView, HealthView, RoundView, StatusView, SwarmPeersView
from demo_protocol.errors import ConfigError

QUICK_S: Final = 5.0
"""Deadline of what a node answers from memory."""

SLOW_S: Final = 120.0
"""Deadline of what its trainer or its disk has to work for."""

REPLY_BYTES_MAX: Final = 8 << 20
"""The longest reply, 10,000 rounds, has 2 MB, and 3 with the largest numbers in all fields."""


class NotRunning(ConfigError):
    """No node answers on the data folder's control socket."""

    def __init__(self, datadir: Path) -> None:
        super().__init__(f"no node is running in {_advise_start(datadir)}", exit_code=69)


def _advise_start(datadir: Path) -> str:
    if not datadir.is_dir():
        return f"{datadir}: there is no such folder; name the node's with --datadir"
    if not (datadir / "manifest.json").exists():
        return (
            f"{datadir}, and no run is in there; open one with demo-node init, join one with"
            " demo-node start --peers, or name another folder with --datadir"
        )
    return f"{datadir}; start one with: demo-node start --datadir {datadir}"


class NotAnswering(ConfigError):
    """A node runs in the data folder, and does not answer in time."""

    def __init__(self, datadir: Path) -> None:
        pid = find_pid(datadir)
        who = f"the node in {datadir} (pid {pid})" if pid else f"the node in {datadir}"
        end = f" continue it with kill -CONT {pid} if it was stopped, or" if pid else ""
        super().__init__(
            f"{who} does not answer; ask again,{end} end it with kill -9 and start it again",
            exit_code=75,
        )


def find_pid(datadir: Path) -> int:
    """Of the node that says it runs there; 0 for none."""
    try:
        return int((datadir / "lock").read_text())
    except (OSError, ValueError):
        return 0


class OtherVersion(ConfigError):
    """The node does not know the question: it was started before an upgrade."""

    def __init__(self, datadir: Path) -> None:
        super().__init__(
            f"the node in {datadir} runs another version of demo-node; start it again",
            exit_code=76,
        )


class Refused(Exception):
    """The node answered with an error; the message says why."""


@contextlib.asynccontextmanager
async def control_client(datadir: Path) -> AsyncIterator["ControlClient"]:
    """A client of the node that runs in `datadir`. Raises NotRunning."""
    path = socket_path(datadir)
    if not path.exists():
        raise NotRunning(datadir)
    # Each socket file gets a channel of its own: gRPC shares connections between equal targets,
    # and with them the memory of failed attempts.
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", REPLY_BYTES_MAX),
    ]
    async with grpc.aio.insecure_channel(f"unix:{path}", options=options) as channel:
        yield ControlClient(channel, datadir)


class ControlClient:
    """views.Operations as seen from another process. Every call has a deadline."""

    def __init__(self, channel: grpc.aio.Channel, datadir: Path) -> None:
        self._stub = rpc.ControlStub(channel)
        self._datadir = datadir

    async def status(self) -> StatusView:
        """The node now."""
        with self._errors():
            message = await self._stub.GetStatus(pb.GetStatusRequest(), timeout=QUICK_S)
            return decode(message, StatusView)

    async def watch(self, interval_ms: int = 0) -> AsyncIterator[StatusView]:
        """The node now and after each change, until the node ends or the caller stops."""
        with self._errors():
            async for message in self._stub.WatchStatus(
                pb.WatchStatusRequest(interval_ms=interval_ms)
            ):
                yield decode(message, StatusView)

    async def peers(self) -> Sequence[PeerView]:
        """Connected peers."""
        with self._errors():
            reply = await self._stub.ListPeers(pb.ListPeersRequest(), timeout=QUICK_S)
        return [decode(message, PeerView) for message in reply.peers]

    async def bans(self) -> Sequence[BanView]:
        """Who is kept out."""
        with self._errors():
            reply = await self._stub.ListBans(pb.ListBansRequest(), timeout=QUICK_S)
        return [decode(message, BanView) for message in reply.bans]

    async def ban(self, peer: bytes, seconds: int) -> None:
        """Have a peer kept out for so long."""
        with self._errors():
            request = pb.BanPeerRequest(peer=peer, seconds=seconds)
            await self._stub.BanPeer(request, timeout=QUICK_S)

    async def unban(self, who: str) -> None:
        """Have a peer id or an address let in again."""
        with self._errors():
            await self._stub.Unban(pb.UnbanRequest(who=who), timeout=QUICK_S)

    async def rounds(self, limit: int = 0) -> Sequence[RoundView]:
        """The newest rounds, oldest first."""
        with self._errors():
            reply = await self._stub.ListRounds(pb.ListRoundsRequest(limit=limit), timeout=QUICK_S)
        return [decode(message, RoundView) for message in reply.rounds]

    async def save_snapshot(self) -> Path:
        """Have a snapshot of the head written; returns where it is."""
        with self._errors():
            reply = await self._stub.SaveSnapshot(pb.SaveSnapshotRequest(), timeout=SLOW_S)
        return Path(reply.path)

    async def evaluate(self, record: bytes = b"") -> float:
        """Held-out loss, in nats per byte, of the state after `record`; empty means the head."""
        with self._errors():
            reply = await self._stub.Evaluate(pb.EvaluateRequest(record=record), timeout=SLOW_S)
        return reply.loss

    async def sample(self, length: int) -> bytes:
        """Text generated deterministically from the head's parameters."""
        with self._errors():
            reply = await self._stub.Sample(pb.SampleRequest(length=length), timeout=SLOW_S)
        return reply.text

    async def contributors(self) -> Sequence[ContributorView]:
        """What every peer has contributed, most samples first."""
        with self._errors():
            reply = await self._stub.ListContributors(pb.ListContributorsRequest(), timeout=QUICK_S)
        return [decode(message, ContributorView) for message in reply.contributors]

    async def swarm(self) -> SwarmPeersView:
        """The run's peers as the node sees them now."""
        with self._errors():
            message = await self._stub.ListSwarm(pb.ListSwarmRequest(), timeout=QUICK_S)
            return decode(message, SwarmPeersView)

    async def health(self) -> HealthView:
        """What alerts are made of."""
        with self._errors():
            message = await self._stub.GetHealth(pb.GetHealthRequest(), timeout=QUICK_S)
            return decode(message, HealthView)

    async def pause(self) -> None:
        """Have it train no more."""
        with self._errors():
            await self._stub.Pause(pb.PauseRequest(), timeout=QUICK_S)

    async def resume(self) -> None:
        """Have it train again."""
        with self._errors():
            await self._stub.Resume(pb.ResumeRequest(), timeout=QUICK_S)

    async def adopt(self, prefix: str) -> bytes:
        """Have it go over to the chain that conflicts with what is final there."""
        with self._errors():
            reply = await self._stub.Adopt(pb.AdoptRequest(record=prefix), timeout=SLOW_S)
        return reply.record

    async def drain(self) -> None:
        """Ask the node to leave cleanly; returns at once."""
        with self._errors():
            await self._stub.Drain(pb.DrainRequest(), timeout=QUICK_S)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.UNAVAILABLE:  # no answer of the service uses it
                raise NotRunning(self._datadir) from None
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise NotAnswering(self._datadir) from None
            if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                raise OtherVersion(self._datadir) from None
            raise Refused(error.details() or error.code().name) from None
