"""What an operator may ask of this node, answered from wherever the node stands in its life."""

import contextlib
import ipaddress
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Protocol

from demo_node.evaluating import Evaluating
from demo_node.mesh.figures import show_mesh
from demo_node.mesh.peer_id import decode_peer_id, encode_peer_id
from demo_node.observe.recent import Recent
from demo_node.observer import Figure
from demo_node.ports import BanView, Clock, Learner, Mesh, PeerView, Topic
from demo_node.reachability import Reachable
from demo_node.round import RoundDriver
from demo_node.snapshotting import Snapshotting
from demo_node.stopping import Stopping
from demo_node.swarm_peers import find_contributor, show_contributors, show_stranger, show_swarm
from demo_node.timekeeper import Timekeeper
from demo_node.views import (
    UNKNOWN_REACH,
    ClockView,
    ContributorView,
    HealthView,
    NodeState,
    Phase,
    RoundView,
    SendingView,
    StatusView,
    SwarmPeersView,
)
from demo_protocol.admission import is_listed
from demo_protocol.fp32 import compute_step
from demo_protocol.limits import DIGEST_BYTES, HASH_BYTES
from demo_protocol.manifest import Manifest, compute_run_id, has_ended
from demo_protocol.roster import get_candidates, get_member_names
from demo_protocol.schedule import (
    Schedule,
    contribute_end_ms,
    round_at,
    round_start_ms,
    settle_start_ms,
    train_end_ms,
)


class TrainerProcess(Protocol):
    """What keeps the trainer alive, as far as an operator sees it."""

    @property
    def pid(self) -> int:
        """Process id of the trainer that is ready; 0 while there is none."""
        ...

    @property
    def micro_batch(self) -> int:
        """Samples that it takes at once; 0 while there is none."""
        ...


UNKNOWN_CLOCK = ClockView(correction_ms=0, error_ms=0, peers=0, verified=False)
"""Before anybody could be asked."""


NOT_YET = "the node is still starting: ask again when demo-node status says active"


class NotRunningYet(LookupError):
    """The node has not come far enough to answer."""


class NothingToTrain(LookupError):
    """Told to train again, a node that never will."""


@dataclass(slots=True, kw_only=True)
class NodeOperations:
    """Implements views.Operations. The daemon fills it in as its parts come up."""

    clock: Clock
    mesh: Mesh
    stopping: Stopping
    state: NodeState = NodeState.STARTING
    detail: str = ""
    manifest: Manifest | None = None
    invite: Callable[[], str] = lambda: ""
    """The line that the next volunteer pastes, as it is now."""
    quiet_until: str = ""
    """While quiet hours keep it from training: when they end, as a clock shows it."""
    learner: Learner | None = None
    driver: RoundDriver | None = None
    snapshotting: Snapshotting | None = None
    evaluating: Evaluating | None = None
    timekeeper: Timekeeper | None = None
    reachable: Reachable | None = None
    trainer: TrainerProcess | None = None
    recent: Recent | None = None
    sources: list[Callable[[], Iterable[Figure]]] = field(default_factory=list)
    """What the parts of the node, as they come up, have for the metrics."""
    version: str = field(default_factory=lambda: version("demo-node"))
    started_ms: int = field(init=False)

    def __post_init__(self) -> None:
        self.started_ms = self.clock.now_ms()

    def set_state(self, state: NodeState, detail: str = "") -> None:
        """Move on in the node's life; `detail` is one line for people."""
        self.state, self.detail = state, detail

    def begin(
        self,
        driver: RoundDriver,
        learner: Learner,
        snapshotting: Snapshotting,
        evaluating: Evaluating,
        trainer: TrainerProcess,
    ) -> None:
        """The node has a chain and parameters."""
        self.driver, self.learner = driver, learner
        self.snapshotting, self.evaluating, self.trainer = snapshotting, evaluating, trainer
        self.sources += [driver.figures, snapshotting.figures]
        driver.machine.paused = bool(self.quiet_until)

    def figures(self) -> Iterator[Figure]:
        """Levels and totals of all parts, as they are now."""
        if self.manifest is not None:
            round_ = max(0, round_at(self.manifest.schedule, self.clock.now_ms()))
            yield Figure("demo_learning_rate", compute_step(self.manifest.learning, round_).lr)
        if self.driver is not None:
            yield Figure("demo_node_archive", float(self.driver.machine.observes))
        yield from show_mesh(self.mesh)
        for source in self.sources:
            yield from source()

    def status(self) -> StatusView:
        """The node now."""
        counters, addresses = self.mesh.counters(), self.mesh.addresses()
        view = self.driver.view if self.driver else None
        head = view.head_state if view else None
        history = self.driver.history if self.driver else None
        manifest, now_ms = self.manifest, self.clock.now_ms()
        schedule = manifest.schedule if manifest else None
        state, detail = self._shown_state(schedule, now_ms)
        saved = self.snapshotting.newest if self.snapshotting else None
        run_id = view.run_id if view else compute_run_id(manifest) if manifest else None
        members = get_member_names(head, manifest.agreement) if head and manifest else ()
        return StatusView(
            version=self.version,
            pid=os.getpid(),
            trainer_pid=self.trainer.pid if self.trainer else 0,
            peer=self.mesh.peer,
            peer_id=encode_peer_id(self.mesh.peer),
            run_id=run_id or bytes(HASH_BYTES),
            run_name=manifest.name if manifest else "",
            state=state,
            detail=detail,
            addresses=addresses,
            genesis_ms=schedule.genesis_ms if schedule else 0,
            round_ms=schedule.round_ms if schedule else 0,
            round=round_at(schedule, now_ms) if schedule else -1,
            phase=compute_phase(schedule, now_ms) if schedule else Phase.NONE,
            head=head.record if head else bytes(HASH_BYTES),
            head_round=head.round if head else -1,
            height=head.height if head else 0,
            digest=view.digests[view.head] if view else bytes(DIGEST_BYTES),
            parameters=view.schema.parameters if view else 0,
            members=len(members),
            candidates=len(get_candidates(head)) if head else 0,
            peers=len(self.mesh.peers()),
            loss=history.loss if history else float("nan"),
            heldout_loss=self.evaluating.loss if self.evaluating else float("nan"),
            heldout_round=self.evaluating.round if self.evaluating else -1,
            bytes_in=counters.bytes_in,
            bytes_out=counters.bytes_out,
            train_ms_total=history.train_ms_total if history else 0,
            tokens_total=history.tokens_total if history else 0,
            forks_total=history.forks_total if history else 0,
            snapshot_record=saved.info.record if saved else b"",
            snapshot_path=str(saved.path) if saved else "",
            invitation=self.invite(),
            rounds_total=manifest.rounds_total if manifest else 0,
            replayed_total=history.replayed_total if history else 0,
            micro_batch=self.trainer.micro_batch if self.trainer else 0,
            payload_bytes_held=self.driver.store.payload_bytes if self.driver else 0,
            clock=self.timekeeper.view() if self.timekeeper else UNKNOWN_CLOCK,
            contribution=self._own_contribution(),
            started_ms=self.started_ms,
            train_bps=schedule.train_bps if schedule else 0,
            contribute_bps=schedule.contribute_bps if schedule else 0,
            propose_bps=schedule.propose_bps if schedule else 0,
            final_record=view.final.record if view and view.final else b"",
            final_round=view.final.round if view and view.final else -1,
            final_height=view.final.height if view and view.final else 0,
            rival_record=view.conflict.record if view and view.conflict else b"",
            rival_peers=view.conflict.theirs if view and view.conflict else 0,
            own_peers=view.conflict.ours if view and view.conflict else 0,
            reach=self.reachable.view() if self.reachable else UNKNOWN_REACH,
            sending=self.driver.sending.view() if self.driver else SendingView(),
        )

    def contributors(self) -> Sequence[ContributorView]:
        """What every peer has contributed, most samples first."""
        if self.driver is None or self.manifest is None:
            return []
        return show_contributors(self.driver.view.head_state, self.manifest.agreement)

    def swarm(self) -> SwarmPeersView:
        """The run's peers as this node sees them now; nobody before there is a chain."""
        now_ms = self.clock.now_ms()
        if self.driver is None:
            return SwarmPeersView(peers=(), known=0, now_ms=now_ms)
        driver = self.driver
        return show_swarm(driver.view, driver.history.arrivals, self.peers(), now_ms)

    def health(self) -> HealthView:
        """What alerts are made of, and no other view has."""
        figures = {(figure.name, *figure.labels): figure.value for figure in self.figures()}
        recent, topics = self.recent, (Topic.HEADERS, Topic.PROPOSALS)
        return HealthView(
            now_ms=self.clock.now_ms(),
            events=recent.events() if recent else (),
            loop_lag_p99_s=recent.loop_lag_p99_s() if recent else math.nan,
            disk_free_bytes=figures.get(("demo_datadir_free_bytes",), math.nan),
            snapshot_bytes=int(figures.get(("demo_snapshot_bytes",), 0)),
            momentum_file_bytes=int(figures.get(("demo_momentum_file_bytes",), 0)),
            records_applied=int(figures.get(("demo_records_total", "applied"), 0)),
            gossip_links=min(self.mesh.mesh_peers(topic) for topic in topics),
        )

    def pause(self) -> None:
        """Train no more until `resume`. Raises as `resume` does, where nothing trains anyway."""
        self._check_trains()
        self.quiet_until = ""  # the end of the quiet hours is not the end of this
        self._running()[1].machine.paused = True

    def resume(self) -> None:
        """Train again. Raises LookupError while starting, and where there is nothing to resume."""
        self.quiet_until = ""
        self._running()[1].machine.paused = False
        self._check_trains()

    def set_quiet(self, until: str) -> None:
        """Quiet hours without training begin, or ("") are over. What the operator says wins."""
        machine = self.driver.machine if self.driver else None
        if until and not (machine and machine.paused):
            self.quiet_until = until
            if machine:
                machine.paused = True
        elif not until and self.quiet_until:
            self.quiet_until = ""
            if machine:
                machine.paused = False

    def _check_trains(self) -> None:
        machine = self._running()[1].machine
        if not machine.contributes:
            raise NothingToTrain(
                "this node does not train: --no-train, --role archive, or no device is fit for it"
            )
        if machine.is_over():
            raise NothingToTrain("nothing is left to train: the run, or this node's part, is over")

    def peers(self) -> Sequence[PeerView]:
        """Connected peers, with the round trips that the timekeeper has measured."""
        keeper = self.timekeeper
        if keeper is None:
            return self.mesh.peers()
        return [replace(view, rtt_ms=keeper.rtt_ms(view.peer)) for view in self.mesh.peers()]

    def bans(self) -> Sequence[BanView]:
        """Who is kept out."""
        return self.mesh.bans()

    def ban(self, peer: bytes, seconds: int) -> None:
        """Close a peer's connections and keep it out for so long. Raises LookupError for us."""
        if peer == self.mesh.peer:
            raise LookupError("that is this node's own key")
        self.mesh.ban(peer, seconds)

    def unban(self, who: str) -> None:
        """Let a peer id or an address in again; LookupError where nothing is held against it."""
        with contextlib.suppress(ValueError):
            if self.mesh.forgive(peer=decode_peer_id(who)):
                return
        with contextlib.suppress(ValueError):
            host = who.split("/")[0]
            ipaddress.ip_address(host)
            if self.mesh.forgive(host=host):
                return
        raise LookupError(f"nothing is held against {who}; demo-node peers shows who is banned")

    def rounds(self, limit: int) -> Sequence[RoundView]:
        """The newest rounds, oldest first."""
        return self.driver.history.newest(limit) if self.driver else []

    async def save_snapshot(self) -> str:
        """Write a snapshot of the head; returns its path. Raises LookupError while starting."""
        if self.snapshotting is None:
            raise NotRunningYet(NOT_YET)
        return str((await self.snapshotting.save_head()).path)

    async def evaluate(self, record: bytes) -> float:
        """Held-out loss. Raises LookupError where the state is not held."""
        learner, driver = self._running()
        try:
            return await learner.evaluate(record or driver.view.head)
        except LookupError:
            if record != driver.view.run_id:
                raise
        # State 0 is a function of the manifest: it comes and goes.
        await learner.load(record, None)
        loss = await learner.evaluate(record)
        if record not in driver.machine.replica.states:
            await learner.forget([record])
        return loss

    async def sample(self, length: int) -> bytes:
        """Text from the head's parameters. Raises LookupError while starting."""
        learner, driver = self._running()
        return await learner.generate(driver.view.head, length)

    async def adopt(self, prefix: str) -> bytes:
        """Leave what is final here. Raises LookupError where nothing is there to be adopted."""
        return await self._running()[1].recovering.adopt(prefix)

    def drain(self) -> None:
        """Leave cleanly."""
        self.stopping.request()

    def _own_contribution(self) -> ContributorView:
        me = self.mesh.peer
        if self.driver is None or self.manifest is None:
            return show_stranger(me)
        return find_contributor(self.driver.view.head_state, me, self.manifest.agreement)

    def _running(self) -> tuple[Learner, RoundDriver]:
        if self.learner is None or self.driver is None:
            raise NotRunningYet(NOT_YET)
        return self.learner, self.driver

    def _shown_state(self, schedule: Schedule | None, now_ms: int) -> tuple[NodeState, str]:
        """An active node may be waiting for genesis, be paused, or be at the run's end."""
        if self.state is not NodeState.ACTIVE or self.driver is None or schedule is None:
            return self.state, self.detail
        if now_ms < schedule.genesis_ms:
            seconds = (schedule.genesis_ms - now_ms + 999) // 1000
            return NodeState.WAITING, f"the run begins in {seconds} s"
        manifest = self.driver.view.manifest
        if has_ended(manifest, round_at(schedule, now_ms)):
            return NodeState.FINISHED, f"the run has had its {manifest.rounds_total} rounds"
        if self.driver.machine.is_witness:
            return NodeState.PAUSED, f"a fault: others have another state ({self.driver.fault})"
        if self.driver.machine.observes:
            kind = "an archive"
            if not is_listed(self.mesh.peer, manifest.agreement):
                kind += " that the run does not list"
            return NodeState.PAUSED, f"{kind}: keeps and serves, neither trains nor votes"
        if self.quiet_until:
            until = f"until {self.quiet_until} or demo-node resume"
            return NodeState.PAUSED, f"quiet hours: not training {until}"
        if self.driver.machine.paused:
            return NodeState.PAUSED, "not training until demo-node resume"
        return self.state, self.detail


def compute_phase(schedule: Schedule, now_ms: int) -> Phase:
    """Phase of the round that `now_ms` falls into."""
    round_ = round_at(schedule, now_ms)
    if round_ < 0:
        return Phase.NONE
    for phase, end_ms in (
        (Phase.TRAIN, train_end_ms(schedule, round_)),
        (Phase.CONTRIBUTE, contribute_end_ms(schedule, round_)),
        (Phase.PROPOSE, settle_start_ms(schedule, round_)),
        (Phase.SETTLE, round_start_ms(schedule, round_ + 1)),
    ):
        if now_ms < end_ms:
            return phase
    raise AssertionError("a round's phases fill it")
