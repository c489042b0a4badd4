"""Which states the trainer holds, and how it comes to the best one (rules 16, 18 and 25)."""

from dataclasses import dataclass, field

from demo_protocol.errors import LocalFault
from demo_protocol.events import (
    Apply,
    Effect,
    ForgetStates,
    HeadChanged,
    PayloadsLost,
    Resync,
    StartMoved,
    StateApplied,
    StatesLost,
)
from demo_protocol.forkchoice import choose_head
from demo_protocol.limits import STATES_KEPT
from demo_protocol.receive import pull_payloads, resolve_pending
from demo_protocol.schedule import settle_start_ms
from demo_protocol.view import View


@dataclass(slots=True)
class Replica:
    """The parameters after some records are held, and at most one more is being computed.

    `applying` names that one, or the record that a snapshot is being looked for to reach.
    """

    view: View
    states: set[bytes] = field(init=False)
    applying: bytes | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.states = {self.view.head}

    def on_payloads_lost(self, event: PayloadsLost) -> list[Effect]:
        """What was to be applied cannot be yet."""
        for payload_hash in event.payload_hashes:
            self.view.pool.payload_rounds.pop(payload_hash, None)
        record, self.applying = self.applying, None
        return pull_payloads(self.view, self.view.chain[record]) if record else []

    def on_applied(self, event: StateApplied) -> list[Effect]:
        """One more state is held. Raises LocalFault for one that was not asked for."""
        if event.record != self.applying:
            raise LocalFault("a state came that was not asked for")
        self.applying = None
        self.states.add(event.record)
        self.view.digests[event.record] = event.digest
        return self._forget_states(event.record)

    def on_states_lost(self, event: StatesLost) -> list[Effect]:
        """The trainer holds nothing but this. Raises LocalFault where it was never applied here."""
        if event.record not in self.view.digests:
            raise LocalFault("a state was loaded that was never applied here")
        return self._begin_with(event.record, event.digest)

    def on_start_moved(self, event: StartMoved) -> list[Effect]:
        """Rules 16 and 25: the chain begins anew, at a snapshot."""
        self.view.move_start(event.state)
        effects = self._begin_with(event.state.record, event.digest)
        return effects + resolve_pending(self.view)

    def _begin_with(self, record: bytes, digest: bytes) -> list[Effect]:
        """This is the only state held now."""
        gone = self.states - {record}
        self.states = {record}
        self.view.digests[record] = digest
        self.applying = None
        return [ForgetStates(tuple(sorted(gone)))] if gone else []

    def _forget_states(self, newest: bytes) -> list[Effect]:
        chain = self.view.chain
        floor = chain[newest].state.height - STATES_KEPT
        old = {s for s in self.states if s != self.view.head and chain[s].state.height < floor}
        self.states -= old
        return [ForgetStates(tuple(sorted(old)))] if old else []

    def choose(self, now_ms: int) -> list[Effect]:
        """Rules 16 and 18: follow the best record, one state after the other.

        A record of the running round waits for the settle phase.
        """
        if self.applying is not None:
            return []
        view = self.view

        def usable(record: bytes) -> bool:
            if record in view.digests:
                return True
            round_ = view.chain[record].round
            settled_ms = settle_start_ms(view.manifest.schedule, round_)
            return (round_ < view.round or now_ms >= settled_ms) and view.is_usable(record)

        target = choose_head(
            view.chain, view.head, view.votes, usable=usable, covered=view.is_covered
        )
        if target in self.states:
            return [] if target == view.head else self._change_head(target)
        held = next((s.hash for s in view.chain.ancestors(target) if s.hash in self.states), None)
        if held is None:
            self.applying = target  # nothing else is applied until a snapshot is loaded
            return [Resync(target)]
        step = view.chain.path(held, target)[0]
        if not all(view.pool.is_held(h.body) for h in step.contributions):
            return []  # applied once, and lost since: it is pulled again
        self.applying = step.hash
        payloads = tuple(h.body.payload_hash for h in step.contributions if h.body.k)
        return [Apply(step.hash, step.parent, step.round, payloads)]

    def _change_head(self, target: bytes) -> list[Effect]:
        view, previous = self.view, self.view.head
        ancestor = view.chain.common_ancestor(previous, target)
        rolled_back = view.chain[previous].state.height - ancestor.state.height
        view.head = target
        effects: list[Effect] = [HeadChanged(target, previous, rolled_back)]
        return effects + self._forget_states(target)

    def prune(self) -> list[Effect]:
        """Rule 25: what is older than every payload that is kept cannot be followed any more."""
        view = self.view
        window = view.manifest.agreement.payload_window_rounds
        root = view.chain.ancestor_before(view.head, view.head_state.round - window)
        if root.hash == view.chain.root.record or self.applying is not None:
            return []
        dropped = {record.hash for record in view.chain.prune(root.hash)}
        view.digests = {h: digest for h, digest in view.digests.items() if h not in dropped}
        gone = self.states & dropped
        self.states -= gone
        return [ForgetStates(tuple(sorted(gone)))] if gone else []
