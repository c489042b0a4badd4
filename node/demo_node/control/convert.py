"""Views to control messages and back. Both ways live here so that they cannot drift apart."""

from demo_node.control.pb import control_pb2 as pb
from demo_node.ports import PeerView
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
    RoundView,
    Standing,
    StatusView,
    SwarmPeersView,
    SwarmPeerView,
)


def encode_status(view: StatusView) -> pb.Status:
    """The message that `decode_status` reads."""
    return pb.Status(
        version=view.version,
        pid=view.pid,
        trainer_pid=view.trainer_pid,
        peer=view.peer,
        peer_id=view.peer_id,
        run_id=view.run_id,
        run_name=view.run_name,
        state=pb.NodeState.Value(f"NODE_STATE_{view.state.name}"),
        detail=view.detail,
        addresses=view.addresses,
        genesis_ms=view.genesis_ms,
        round_ms=view.round_ms,
        round=view.round,
        phase=pb.Phase.Value(f"PHASE_{view.phase.name}"),
        head=view.head,
        head_round=view.head_round,
        height=view.height,
        digest=view.digest,
        parameters=view.parameters,
        members=view.members,
        candidates=view.candidates,
        peers=view.peers,
        loss=view.loss,
        heldout_loss=view.heldout_loss,
        heldout_round=view.heldout_round,
        bytes_in=view.bytes_in,
        bytes_out=view.bytes_out,
        train_ms_total=view.train_ms_total,
        tokens_total=view.tokens_total,
        forks_total=view.forks_total,
        snapshot_record=view.snapshot_record,
        snapshot_path=view.snapshot_path,
        invitation=view.invitation,
        rounds_total=view.rounds_total,
        replayed_total=view.replayed_total,
        micro_batch=view.micro_batch,
        payload_bytes_held=view.payload_bytes_held,
        clock=encode_clock(view.clock),
        contribution=encode_contributor(view.contribution),
        started_ms=view.started_ms,
        train_bps=view.train_bps,
        contribute_bps=view.contribute_bps,
        propose_bps=view.propose_bps,
    )


def decode_status(message: pb.Status) -> StatusView:
    """Inverse of `encode_status`."""
    return StatusView(
        version=message.version,
        pid=message.pid,
        trainer_pid=message.trainer_pid,
        peer=message.peer,
        peer_id=message.peer_id,
        run_id=message.run_id,
        run_name=message.run_name,
        state=NodeState[pb.NodeState.Name(message.state).removeprefix("NODE_STATE_")],
        detail=message.detail,
        addresses=tuple(message.addresses),
        genesis_ms=message.genesis_ms,
        round_ms=message.round_ms,
        round=message.round,
        phase=Phase[pb.Phase.Name(message.phase).removeprefix("PHASE_")],
        head=message.head,
        head_round=message.head_round,
        height=message.height,
        digest=message.digest,
        parameters=message.parameters,
        members=message.members,
        candidates=message.candidates,
        peers=message.peers,
        loss=message.loss,
        heldout_loss=message.heldout_loss,
        heldout_round=message.heldout_round,
        bytes_in=message.bytes_in,
        bytes_out=message.bytes_out,
        train_ms_total=message.train_ms_total,
        tokens_total=message.tokens_total,
        forks_total=message.forks_total,
        snapshot_record=message.snapshot_record,
        snapshot_path=message.snapshot_path,
        invitation=message.invitation,
        rounds_total=message.rounds_total,
        replayed_total=message.replayed_total,
        micro_batch=message.micro_batch,
        payload_bytes_held=message.payload_bytes_held,
        clock=decode_clock(message.clock),
        contribution=decode_contributor(message.contribution),
        started_ms=message.started_ms,
        train_bps=message.train_bps,
        contribute_bps=message.contribute_bps,
        propose_bps=message.propose_bps,
    )


def encode_clock(view: ClockView) -> pb.Clock:
    """The message that `decode_clock` reads."""
    return pb.Clock(
        correction_ms=view.correction_ms,
        error_ms=view.error_ms,
        peers=view.peers,
        verified=view.verified,
    )


def decode_clock(message: pb.Clock) -> ClockView:
    """Inverse of `encode_clock`."""
    return ClockView(
        correction_ms=message.correction_ms,
        error_ms=message.error_ms,
        peers=message.peers,
        verified=message.verified,
    )


def encode_contributor(view: ContributorView) -> pb.Contributor:
    """The message that `decode_contributor` reads."""
    return pb.Contributor(
        peer=view.peer,
        standing=_encode_standing(view.standing),
        rounds=view.rounds,
        samples=view.samples,
        share=view.share,
        first_round=view.first_round,
        last_round=view.last_round,
    )


def decode_contributor(message: pb.Contributor) -> ContributorView:
    """Inverse of `encode_contributor`."""
    return ContributorView(
        peer=message.peer,
        standing=_decode_standing(message.standing),
        rounds=message.rounds,
        samples=message.samples,
        share=message.share,
        first_round=message.first_round,
        last_round=message.last_round,
    )


def _encode_standing(standing: Standing) -> pb.Standing.ValueType:
    name = "UNSPECIFIED" if standing is Standing.UNKNOWN else standing.name
    return pb.Standing.Value(f"STANDING_{name}")


def _decode_standing(value: pb.Standing.ValueType) -> Standing:
    name = pb.Standing.Name(value).removeprefix("STANDING_")
    return Standing.UNKNOWN if name == "UNSPECIFIED" else Standing[name]


def encode_swarm(view: SwarmPeersView) -> pb.ListSwarmReply:
    """The message that `decode_swarm` reads."""
    peers = map(_encode_swarm_peer, view.peers)
    return pb.ListSwarmReply(peers=peers, known=view.known, now_ms=view.now_ms)


def decode_swarm(message: pb.ListSwarmReply) -> SwarmPeersView:
    """Inverse of `encode_swarm`."""
    peers = tuple(map(_decode_swarm_peer, message.peers))
    return SwarmPeersView(peers=peers, known=message.known, now_ms=message.now_ms)


def _encode_swarm_peer(view: SwarmPeerView) -> pb.SwarmPeer:
    verdict = "UNSPECIFIED" if view.digest is DigestVerdict.UNKNOWN else view.digest.name
    return pb.SwarmPeer(
        peer=view.peer,
        standing=_encode_standing(view.standing),
        connected=view.connected,
        rtt_ms=view.rtt_ms,
        heard_round=view.heard_round,
        heard_ms=view.heard_ms,
        k=view.k,
        samples=view.samples,
        loss=view.loss,
        held=view.held,
        digest=pb.DigestVerdict.Value(f"DIGEST_VERDICT_{verdict}"),
        rounds=view.rounds,
        share=view.share,
    )


def _decode_swarm_peer(message: pb.SwarmPeer) -> SwarmPeerView:
    verdict = pb.DigestVerdict.Name(message.digest).removeprefix("DIGEST_VERDICT_")
    return SwarmPeerView(
        peer=message.peer,
        standing=_decode_standing(message.standing),
        connected=message.connected,
        rtt_ms=message.rtt_ms,
        heard_round=message.heard_round,
        heard_ms=message.heard_ms,
        k=message.k,
        samples=message.samples,
        loss=message.loss,
        held=message.held,
        digest=DigestVerdict.UNKNOWN if verdict == "UNSPECIFIED" else DigestVerdict[verdict],
        rounds=message.rounds,
        share=message.share,
    )


def encode_health(view: HealthView) -> pb.Health:
    """The message that `decode_health` reads."""
    return pb.Health(
        now_ms=view.now_ms,
        events=[
            pb.EventCount(name=e.name, level=e.level, count=e.count, newest_ms=e.newest_ms)
            for e in view.events
        ],
        loop_lag_p99_s=view.loop_lag_p99_s,
        disk_free_bytes=view.disk_free_bytes,
        snapshot_bytes=view.snapshot_bytes,
        records_applied=view.records_applied,
        gossip_links=view.gossip_links,
    )


def decode_health(message: pb.Health) -> HealthView:
    """Inverse of `encode_health`."""
    return HealthView(
        now_ms=message.now_ms,
        events=tuple(
            EventCount(e.name, e.level, e.count, tuple(e.newest_ms)) for e in message.events
        ),
        loop_lag_p99_s=message.loop_lag_p99_s,
        disk_free_bytes=message.disk_free_bytes,
        snapshot_bytes=message.snapshot_bytes,
        records_applied=message.records_applied,
        gossip_links=message.gossip_links,
    )


def encode_round(view: RoundView) -> pb.Round:
    """The message that `decode_round` reads."""
    return pb.Round(
        round=view.round,
        outcome=pb.Outcome.Value(f"OUTCOME_{view.outcome.name}"),
        record=view.record,
        digest=view.digest,
        participants=view.participants,
        included=view.included,
        latency_ms=view.latency_ms,
        exchange_ms=view.exchange_ms,
        train_ms=view.train_ms,
        samples=view.samples,
        tokens=view.tokens,
        steps=view.steps,
        loss=view.loss,
        payload_bytes=view.payload_bytes,
        bytes_in=view.bytes_in,
        bytes_out=view.bytes_out,
        phases=map(_encode_phase, view.phases),
        heard=view.heard,
        agreeing=view.agreeing,
        differing=view.differing,
    )


def decode_round(message: pb.Round) -> RoundView:
    """Inverse of `encode_round`."""
    return RoundView(
        round=message.round,
        outcome=Outcome[pb.Outcome.Name(message.outcome).removeprefix("OUTCOME_")],
        record=message.record,
        digest=message.digest,
        participants=message.participants,
        included=message.included,
        latency_ms=message.latency_ms,
        exchange_ms=message.exchange_ms,
        train_ms=message.train_ms,
        samples=message.samples,
        tokens=message.tokens,
        steps=message.steps,
        loss=message.loss,
        payload_bytes=message.payload_bytes,
        bytes_in=message.bytes_in,
        bytes_out=message.bytes_out,
        phases=tuple(map(_decode_phase, message.phases)),
        heard=message.heard,
        agreeing=message.agreeing,
        differing=message.differing,
    )


def _encode_phase(view: PhaseView) -> pb.PhaseTime:
    return pb.PhaseTime(
        phase=pb.Phase.Value(f"PHASE_{view.phase.name}"),
        begin_ms=view.begin_ms,
        end_ms=view.end_ms,
        due_ms=view.due_ms,
    )


def _decode_phase(message: pb.PhaseTime) -> PhaseView:
    phase = Phase[pb.Phase.Name(message.phase).removeprefix("PHASE_")]
    return PhaseView(phase, message.begin_ms, message.end_ms, message.due_ms)


def encode_peer(view: PeerView) -> pb.Peer:
    """The message that `decode_peer` reads."""
    return pb.Peer(
        peer=view.peer,
        address=view.address,
        outbound=view.outbound,
        connected_s=view.connected_s,
        rtt_ms=view.rtt_ms,
    )


def decode_peer(message: pb.Peer) -> PeerView:
    """Inverse of `encode_peer`."""
    return PeerView(
        peer=message.peer,
        address=message.address,
        outbound=message.outbound,
        connected_s=message.connected_s,
        rtt_ms=message.rtt_ms,
    )
