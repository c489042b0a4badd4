"""What is seen of a simulation while it runs: the event log, its transcript, and what is broken."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from demo_node.sim.eventlog import EventLog
from demo_node.sim.transcript import Transcript
from demo_protocol.chain import Record
from demo_protocol.effects import Effect, HeadChanged, KeepRecord, Persist
from demo_protocol.errors import Ignore, LocalFault, Reject
from demo_protocol.events import Event, GossipBatch, PayloadsHeld, Tick

if TYPE_CHECKING:
    from demo_node.sim.actor import Actor
    from demo_node.sim.world import World

EXACT_NODES = 100
"""Up to so many nodes a look at a node follows each of its steps; of more, each that does
something, and each round."""

_ARRIVALS = (GossipBatch, PayloadsHeld, Tick)
"""Most events by far; unless they have effects, nothing is known by them that was not before."""

NETWORK = -1
"""Stands for a node where something happened to none."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Something happened that must not. `nodes` are those it is about."""

    invariant: str
    text: str
    nodes: tuple[int, ...]
    round: int = -1


class Invariant:
    """One thing that always holds. What breaks it is put into `broken`; all hooks are optional."""

    name = ""

    def __init__(self) -> None:
        self.broken: list[Violation] = []

    def report(self, text: str, *nodes: int) -> None:
        """It does not hold any more."""
        self.broken.append(Violation(self.name, text, nodes))

    def on_up(self, actor: "Actor") -> None:
        """A node's life has begun, or it runs on after it hung."""

    def on_down(self, actor: "Actor") -> None:
        """A node's life has ended, or it hangs."""

    def on_step(self, actor: "Actor", event: Event, effects: list[Effect]) -> None:
        """An honest machine took one step. Pulls of payloads are not among the effects."""

    def on_record(self, actor: "Actor", record: Record) -> None:
        """There is a record that no honest node knew before; `actor` is the first."""

    def on_signed(self, actor: "Actor", effect: Persist) -> None:
        """An honest node has signed something, and written it down."""

    def on_rejected(self, actor: "Actor", error: Ignore | Reject, sender: bytes) -> None:
        """An honest node refused what another gave it."""

    def on_fault_injected(self, actor: "Actor | None", what: str) -> None:
        """The director did something to a node, or to the network."""

    def on_healed(self, world: "World") -> None:
        """A cut is over."""

    def on_round_ended(self, world: "World", round_: int) -> None:
        """A round is over by the true clock."""


class Watcher:
    """Sees everything; changes nothing."""

    def __init__(self, invariants: Sequence[Invariant] = ()) -> None:
        self.log = EventLog()
        self.transcript = Transcript()
        self.invariants = tuple(invariants)
        self.violations: list[Violation] = []
        self.rejections: Counter[str] = Counter()
        self.rollback_max = self.rollbacks = 0
        self._round = -1
        self._records: set[bytes] = set()
        self._steppers = _overriding(self.invariants, "on_step")

    @property
    def has_seen_enough(self) -> bool:
        """Nothing is learned from what follows a violation."""
        return bool(self.violations)

    # --- what the kernel tells -------------------------------------------------------------------

    def on_up(self, actor: "Actor") -> None:
        """A node's life has begun, or it runs on after it hung."""
        self._note(actor, "is up")
        for invariant in self.invariants:
            invariant.on_up(actor)
        self.collect()

    def on_down(self, actor: "Actor") -> None:
        """A node's life has ended, or it hangs."""
        self._note(actor, "is down")
        for invariant in self.invariants:
            invariant.on_down(actor)

    def on_step(self, actor: "Actor", event: Event, effects: list[Effect], pulls: int) -> None:
        """A machine took one step. `pulls`: so many payloads, which are not among the effects."""
        now_ms = actor.world.timeline.now_ms
        self.log.add_step(now_ms, actor.index, event, effects, pulls, actor.view.head)
        self.transcript.add(now_ms, self._round + 1, actor.index, event, effects)
        if not effects and type(event) in _ARRIVALS and len(actor.world.actors) > EXACT_NODES:
            return
        if not actor.traits.how:
            self._find_records(actor, effects)
            for invariant in self._steppers:
                invariant.on_step(actor, event, effects)
                if invariant.broken:
                    self.collect()

    def _find_records(self, actor: "Actor", effects: list[Effect]) -> None:
        for effect in effects:
            if type(effect) is KeepRecord and effect.record not in self._records:
                record = actor.view.chain.records.get(effect.record)
                if record is not None:
                    self._records.add(effect.record)
                    for invariant in self.invariants:
                        invariant.on_record(actor, record)

    def on_signed(self, actor: "Actor", effect: Persist) -> None:
        """A node has signed something, and written it down."""
        if not actor.traits.how:
            for invariant in self.invariants:
                invariant.on_signed(actor, effect)
            self.collect()

    def on_head_changed(self, actor: "Actor", effect: HeadChanged) -> None:
        """A node follows another record."""
        if effect.rolled_back and not actor.traits.how:
            self.rollbacks += 1
            self.rollback_max = max(self.rollback_max, effect.rolled_back)

    def on_effect(self, actor: "Actor", effect: Effect) -> None:
        """Whatever else a machine asked for: `on_step` has seen it."""

    def on_rejected(self, actor: "Actor", error: Ignore | Reject, sender: bytes) -> None:
        """A node refused what another gave it."""
        self.log.add_line(actor.world.timeline.now_ms, actor.index, type(error).__name__)
        self.rejections[str(error)] += 1
        if not actor.traits.how:
            for invariant in self.invariants:
                invariant.on_rejected(actor, error, sender)
            self.collect()

    def on_fault(self, actor: "Actor", fault: LocalFault) -> None:
        """A node ends by its own fault: that is a bug of ours, unless it lies."""
        self._note(actor, f"ends by its own fault: {fault}")
        if not actor.traits.how:
            text = f"node {actor.index} ended by its own fault: {fault}"
            self._add(Violation("no node ends by its own fault", text, (actor.index,)))

    # --- what the director tells -----------------------------------------------------------------

    def on_fault_injected(self, actor: "Actor | None", what: str) -> None:
        """Something was done to a node, or to the network."""
        self._note(actor, f"*** {what}")
        for invariant in self.invariants:
            invariant.on_fault_injected(actor, what)

    def on_healed(self, world: "World") -> None:
        """A cut is over."""
        for invariant in self.invariants:
            invariant.on_healed(world)

    def on_round_ended(self, world: "World", round_: int) -> None:
        """A round is over by the true clock."""
        for invariant in self.invariants:
            invariant.on_round_ended(world, round_)
        self.collect()
        self._round = round_

    def _note(self, actor: "Actor | None", what: str) -> None:
        now_ms = actor.world.timeline.now_ms if actor is not None else 0
        node = NETWORK if actor is None else actor.index
        self.log.add_line(now_ms, max(node, 0), what)
        self.transcript.add_note(now_ms, self._round + 1, node, what)

    def collect(self) -> None:
        """Take what invariants have to report."""
        for invariant in self.invariants:
            for violation in invariant.broken:
                self._add(violation)
            invariant.broken.clear()

    def _add(self, violation: Violation) -> None:
        self.violations.append(
            Violation(violation.invariant, violation.text, violation.nodes, self._round + 1)
        )


def _overriding(invariants: Sequence[Invariant], hook: str) -> list[Invariant]:
    """Those that want to hear of it: nobody else is told, millions of times."""
    return [i for i in invariants if getattr(type(i), hook) is not getattr(Invariant, hook)]
