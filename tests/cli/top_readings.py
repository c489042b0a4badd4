"""Readings for tests of `demo-node top`, as nodes give them."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace

from demo_node.cli.top.reading import Reading
from demo_node.views import (
    DigestVerdict,
    HealthView,
    NodeState,
    Outcome,
    Phase,
    PhaseView,
    RoundView,
    Standing,
    StatusView,
    SwarmPeersView,
    SwarmPeerView,
)
from tests.control.fake_node import health_view, round_view, status_view, swarm_peer_view

ROUND_MS = 3_000
GENESIS_MS = 1_800_000_000_000
ENDS_MS = (1_650, 1_800, 2_250, 2_400)
"""When the phases of a usual round end, after its start."""


def peer_key(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(4)).digest()


def phases(round_: int, ends_ms: Sequence[int] = ENDS_MS) -> tuple[PhaseView, ...]:
    start_ms = GENESIS_MS + round_ * ROUND_MS
    names = (Phase.TRAIN, Phase.CONTRIBUTE, Phase.PROPOSE, Phase.SETTLE)
    dues_ms = (1_650, 2_250, 2_700, 3_000)
    begins_ms = (0, *ends_ms)
    return tuple(
        PhaseView(name, start_ms + begin, start_ms + end, start_ms + due)
        for name, begin, end, due in zip(names, begins_ms, ends_ms, dues_ms, strict=False)
    )


def usual_round(round_: int, **changes: object) -> RoundView:
    view = round_view(
        round_, latency_ms=2_400, phases=phases(round_), loss=4.0 - round_ / 100, samples=64
    )
    return replace(view, **changes)  # type: ignore[arg-type]  # names are checked by replace


def skipped_round(round_: int, **changes: object) -> RoundView:
    nothing = {
        "outcome": Outcome.SKIPPED,
        "record": b"",
        "participants": 0,
        "included": False,
        "latency_ms": 0,
        "phases": (),
    }
    return usual_round(round_, **(nothing | changes))


def peers(count: int, round_: int) -> tuple[SwarmPeerView, ...]:
    """This node and others, all in step."""
    return tuple(
        swarm_peer_view(
            peer_key(number),
            connected=0 < number <= 12,
            rtt_ms=20 + number if 0 < number <= 12 else 0,
            heard_round=round_,
            heard_ms=GENESIS_MS + round_ * ROUND_MS + 1_700 + number,
            share=1 / count,
        )
        for number in range(count)
    )


def reading(
    *,
    peer_count: int = 4,
    rounds: Sequence[RoundView] | None = None,
    swarm: Sequence[SwarmPeerView] | None = None,
    known: int | None = None,
    newest: int = 70,
    silent_s: float = 0.0,
    health: HealthView | None = None,
    **status: object,
) -> Reading:
    """A node that is active, in the train phase of the round after `newest`."""
    own = {
        "peer": peer_key(0),
        "genesis_ms": GENESIS_MS,
        "started_ms": GENESIS_MS - 60_000,
        "round_ms": ROUND_MS,
        "round": newest + 1,
        "head_round": newest,
        "height": newest + 1,
        "members": peer_count,
        "peers": peer_count - 1,
    }
    listed = peers(peer_count, newest) if swarm is None else tuple(swarm)
    shown = [usual_round(r) for r in range(newest - 60, newest)] if rounds is None else rounds
    now_ms = GENESIS_MS + (newest + 1) * ROUND_MS + 900
    return Reading(
        status=status_view(**(own | status)),
        rounds=shown,
        health=replace(health or health_view(), now_ms=now_ms),
        swarm=SwarmPeersView(
            peers=listed,
            known=len(listed) if known is None else known,
            now_ms=now_ms,
        ),
        bytes_in_per_s=12_000.0,
        bytes_out_per_s=13_000.0,
        silent_s=silent_s,
    )


def in_state(state: NodeState) -> Reading:
    """As a node in this state answers."""
    match state:
        case NodeState.STARTING:
            return _without_run(state, "connecting")
        case NodeState.WAITING:
            return reading(
                state=state,
                detail="the run begins in 12 s",
                rounds=[],
                swarm=peers(3, -1)[:1],
                genesis_ms=GENESIS_MS + 600_000,
                round=-130,
                phase=Phase.NONE,
                height=0,
                head_round=-1,
                loss=math.nan,
                heldout_loss=math.nan,
            )
        case NodeState.SYNCING:
            detail = "replayed 40 of 70 rounds"
            return reading(state=state, detail=detail, rounds=[], head_round=40)
        case NodeState.FINISHED:
            return reading(state=state, detail="the run has had its 71 rounds", rounds_total=71)
        case NodeState.PAUSED:
            return reading(state=state, detail="not training until demo-node resume")
        case NodeState.ACTIVE | NodeState.DRAINING | NodeState.STOPPED:
            return reading(state=state, detail="")


def _without_run(state: NodeState, detail: str) -> Reading:
    return reading(
        state=state,
        detail=detail,
        rounds=[],
        swarm=[],
        run_name="",
        run_id=bytes(32),
        genesis_ms=0,
        round_ms=0,
        round=-1,
        phase=Phase.NONE,
        head=bytes(32),
        head_round=-1,
        height=0,
        members=0,
        peers=0,
        loss=math.nan,
        heldout_loss=math.nan,
        trainer_pid=0,
        train_bps=0,
        contribute_bps=0,
        propose_bps=0,
    )


def differing(number: int, round_: int) -> SwarmPeerView:
    """A peer whose header names another digest."""
    return swarm_peer_view(
        peer_key(number), heard_round=round_, digest=DigestVerdict.DIFFERENT, connected=False
    )


def candidate(number: int, round_: int) -> SwarmPeerView:
    return swarm_peer_view(peer_key(number), heard_round=round_, standing=Standing.CANDIDATE)


def with_status(view: Reading, **changes: object) -> Reading:
    status: StatusView = replace(view.status, **changes)  # type: ignore[arg-type]
    return replace(view, status=status)
