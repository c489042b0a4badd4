"""A node that exists only as its operations."""

import asyncio
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from demo_node.control.service import control_server
from demo_node.ports import BanView, NotHeld, Offence, PeerView
from demo_node.views import (
    ClockView,
    ContributorView,
    DigestVerdict,
    EventCount,
    HealthView,
    NodeState,
    Outcome,
    Phase,
    PhaseView,
    ReachView,
    RoundView,
    SendingView,
    Standing,
    StatusView,
    SwarmPeersView,
    SwarmPeerView,
)
from demo_protocol.reach import Reachability

CONTRIBUTOR = ContributorView(
    peer=bytes(range(32)),
    standing=Standing.MEMBER,
    rounds=6,
    samples=384,
    share=0.25,
    first_round=0,
    last_round=6,
)

SENDING = SendingView(
    k=32,
    k_max=128,
    fixed=False,
    measured=True,
    uplink_bits_per_s=1_900_000.0,
    window_ms=5_500,
    payload_bytes=95_705,
    copies=3,
    passed_on_bytes=100_000,
    metered=True,
)


def status_view(**changes: object) -> StatusView:
    view = StatusView(
        version="0.1.0",
        pid=4242,
        trainer_pid=4243,
        peer=bytes(range(32)),
        peer_id="12D3KooWFake",
        run_id=b"\x0f" * 32,
        run_name="test",
        state=NodeState.ACTIVE,
        detail="in step",
        addresses=("/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWFake",),
        genesis_ms=1_800_000_000_000,
        round_ms=3_000,
        round=7,
        phase=Phase.TRAIN,
        head=b"\x01" * 32,
        head_round=6,
        height=6,
        digest=b"\x3f\x9c\0\0\0\0\0\1",
        parameters=147_776,
        members=4,
        candidates=0,
        peers=3,
        loss=2.5,
        heldout_loss=2.75,
        heldout_round=5,
        bytes_in=1_000,
        bytes_out=2_000,
        train_ms_total=9_000,
        tokens_total=65_536,
        forks_total=0,
        snapshot_record=b"",
        snapshot_path="",
        invitation="demo-node start --peers /ip4/127.0.0.1/tcp/4001/p2p/12D3KooWFake",
        rounds_total=0,
        replayed_total=12,
        micro_batch=8,
        payload_bytes_held=4_096,
        clock=ClockView(correction_ms=-40, error_ms=25, peers=3, verified=True),
        contribution=CONTRIBUTOR,
        started_ms=1_799_999_990_000,
        train_bps=5_500,
        contribute_bps=2_000,
        propose_bps=1_500,
        reach=ReachView(state=Reachability.PRIVATE, reached=1, asked=3, port=4_001, holders=2),
        sending=SENDING,
    )
    return replace(view, **changes)  # type: ignore[arg-type]  # names are checked by replace


def round_view(round_: int = 6, **changes: object) -> RoundView:
    view = RoundView(
        round=round_,
        outcome=Outcome.RECORDED,
        record=round_.to_bytes(32, "big"),
        digest=b"\x3f\x9c\0\0\0\0\0\1",
        participants=4,
        included=True,
        latency_ms=2_600,
        exchange_ms=900,
        train_ms=1_500,
        samples=64,
        tokens=4_096,
        steps=16,
        loss=2.5,
        payload_bytes=8_192,
        bytes_in=30_000,
        bytes_out=31_000,
        phases=(
            PhaseView(Phase.TRAIN, 0, 1_700, 1_700),
            PhaseView(Phase.SETTLE, 1_700, 2_600, 3_000),
        ),
        heard=4,
        agreeing=3,
        differing=0,
        drawn=4,
    )
    return replace(view, **changes)  # type: ignore[arg-type]  # names are checked by replace


PEER = PeerView(
    peer=b"\x02" * 32,
    address="/ip4/127.0.0.1/tcp/4002",
    outbound=True,
    connected_s=90,
    rtt_ms=12,
    score=40,
)

BAN = BanView(b"\x03" * 32, "", 540, Offence.ANSWER, 1)
HOUSEHOLD = BanView(b"", "203.0.113.7/32", 50, Offence.GARBAGE, 2)


def swarm_peer_view(peer: bytes = PEER.peer, **changes: object) -> SwarmPeerView:
    view = SwarmPeerView(
        peer=peer,
        standing=Standing.MEMBER,
        connected=True,
        rtt_ms=12,
        heard_round=6,
        heard_ms=1_800_000_019_700,
        k=16,
        samples=64,
        loss=2.5,
        held=True,
        digest=DigestVerdict.EQUAL,
        rounds=6,
        share=0.25,
    )
    return replace(view, **changes)  # type: ignore[arg-type]  # names are checked by replace


SWARM = SwarmPeersView(
    peers=(swarm_peer_view(bytes(range(32)), connected=False, rtt_ms=0), swarm_peer_view()),
    known=2,
    now_ms=1_800_000_021_900,
)


def health_view(*events: EventCount, **changes: object) -> HealthView:
    view = HealthView(
        now_ms=SWARM.now_ms,
        events=events,
        loop_lag_p99_s=0.004,
        disk_free_bytes=40e9,
        snapshot_bytes=2_000_000,
        momentum_file_bytes=6_000_000,
        records_applied=6,
        gossip_links=3,
    )
    return replace(view, **changes)  # type: ignore[arg-type]  # names are checked by replace


HEALTH = health_view(
    EventCount("trainer.died", "warning", 2, (SWARM.now_ms - 300_000, SWARM.now_ms - 40_000)),
    EventCount("snapshot.saved", "info", 7, (SWARM.now_ms - 9_000,)),
)


class FakeOperations:
    """Implements views.Operations from plain attributes."""

    def __init__(self) -> None:
        self.view = status_view()
        self.drained = False
        self.paused = False
        self.banned: tuple[bytes, int] | None = None

    def status(self) -> StatusView:
        return replace(self.view, state=NodeState.PAUSED) if self.paused else self.view

    def peers(self) -> Sequence[PeerView]:
        return [PEER]

    def bans(self) -> Sequence[BanView]:
        return [BAN, HOUSEHOLD]

    def ban(self, peer: bytes, seconds: int) -> None:
        self.banned = (peer, seconds)

    def unban(self, who: str) -> None:
        if who != HOUSEHOLD.address:
            raise LookupError(f"nothing is held against {who}")
        self.banned = None

    def contributors(self) -> Sequence[ContributorView]:
        return [CONTRIBUTOR]

    def swarm(self) -> SwarmPeersView:
        return SWARM

    def health(self) -> HealthView:
        return HEALTH

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def rounds(self, limit: int) -> Sequence[RoundView]:
        return [round_view(r) for r in range(7)][-limit:]

    async def save_snapshot(self) -> str:
        raise ConnectionError("the trainer is being restarted")

    async def evaluate(self, record: bytes) -> float:
        if record == b"\xff" * 32:
            raise NotHeld("that state is not held any more")
        return math.log(256) if record else 2.25

    async def sample(self, length: int) -> bytes:
        return b"\xff" + b"a" * (length - 1)

    async def adopt(self, prefix: str) -> bytes:
        if not self.view.rival_record.hex().startswith(prefix):
            raise LookupError(
                "no chain conflicts with what is final here: there is nothing to adopt"
            )
        return self.view.rival_record

    def drain(self) -> None:
        self.drained = True


async def _serve(datadir: Path) -> None:
    async with control_server(datadir, FakeOperations()):
        await asyncio.Event().wait()


if __name__ == "__main__":  # `python -m tests.control.fake_node DIR`, for tests of the command line
    asyncio.run(_serve(Path(sys.argv[1])))
