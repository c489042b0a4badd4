"""Which states the trainer holds, and how it comes to the best one (rules 16, 18, 19 and 25)."""

from dataclasses import dataclass, field

from demo_protocol.chain import Record
from demo_protocol.effects import Apply, Effect, Finalised, ForgetStates, HeadChanged, Resync
from demo_protocol.errors import LocalFault
from demo_protocol.events import PayloadsLost, RootComputed, StartMoved, StateApplied, StatesLost
from demo_protocol.finality import find_final
from demo_protocol.forkchoice import choose_head
from demo_protocol.limits import STATES_KEPT
from demo_protocol.pulling import pull_payloads
from demo_protocol.recording import resolve_pending
from demo_protocol.rooting import ask_root, on_root
from demo_protocol.schedule import settle_start_ms
from demo_protocol.view import View


@dataclass(slots=True)
class Replica:
    """The parameters after some records are held, and at most one more is being computed.

    `applying` names that one, or the record that a snapshot is being looked for to reach. `at_rest`
    says all that moves a node which stands on its head; while it stays, nothing is chosen anew. It
    `lacks` payloads of records that it might follow. `dead` were on no living branch a round ago.
    """

    view: View
    states: set[bytes] = field(init=False)
    applying: bytes | None = field(init=False, default=None)
    at_rest: tuple[object, ...] | None = field(init=False, default=None)
    lacks: bool = field(init=False, default=False)
    dead: set[bytes] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self.states = {self.view.head}

    def wait_for_state(self) -> None:
        """Even the first state is still on its way: until it is loaded nothing is applied."""
        self.states.clear()
        self.applying = self.view.head

    def on_payloads_lost(self, event: PayloadsLost) -> list[Effect]:
        """What was to be applied cannot be yet."""
        self.at_rest = None
        for payload_hash in event.payload_hashes:
            self.view.pool.drop_payload(payload_hash)
        record, self.applying = self.applying, None
        return pull_payloads(self.view, self.view.chain[record]) if record else []

    def on_applied(self, event: StateApplied) -> list[Effect]:
        """One more state is held. Raises LocalFault for one that was not asked for."""
        if event.record != self.applying:
            raise LocalFault("a state came that was not asked for")
        self.applying = self.at_rest = None
        self.states.add(event.record)
        self.view.digests[event.record] = event.digest
        return [*ask_root(self.view, event.record), *self._forget_states(event.record)]

    def on_root(self, event: RootComputed) -> list[Effect]:
        """Rule 21: our own root of a state, by which its successors are judged."""
        self.at_rest = None
        return on_root(self.view, event)

    def on_states_lost(self, event: StatesLost) -> list[Effect]:
        """The trainer holds nothing but this. Raises LocalFault where it was never applied here."""
        if event.record not in self.view.digests:
            raise LocalFault("a state was loaded that was never applied here")
        return self._begin_with(event.record, event.digest) + self.pull_missing()

    def pull_missing(self) -> list[Effect]:
        """Payloads between the states held and the head, where that was applied already.

        By an earlier process, perhaps, or they were lost since: nobody's vote asks for them.
        """
        effects: list[Effect] = []
        for step in self.view.chain.ancestors(self.view.head):
            if step.hash in self.states:
                return effects
            effects += pull_payloads(self.view, step)
        return []  # a snapshot is being looked for

    def on_start_moved(self, event: StartMoved) -> list[Effect]:
        """Rules 16, 19 and 25: the chain begins anew, at a snapshot."""
        if event.adopted:
            self.view.leave_final()
        self.view.move_start(event.state)
        gone = self.states - {event.state.record}
        effects: list[Effect] = [ForgetStates(tuple(sorted(gone)))] if gone else []
        effects += self._begin_with(event.state.record, event.digest)
        return effects + resolve_pending(self.view)

    def _begin_with(self, record: bytes, digest: bytes) -> list[Effect]:
        """This is the only state held now."""
        self.states = {record}
        self.view.digests[record] = digest
        self.applying = self.at_rest = None
        return ask_root(self.view, record)

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
        settles = now_ms >= settle_start_ms(view.manifest.schedule, view.round)
        if self.at_rest is not None and self.at_rest == self._what_moves(settles):
            return []
        self.lacks = False

        def usable(record: bytes) -> bool:
            if view.roots and view.is_root_wrong(view.chain[record]):
                return False
            if record in view.digests:
                return True
            if view.chain[record].round >= view.round and not settles:
                return False
            is_usable = view.is_usable(record)
            self.lacks = self.lacks or not is_usable
            return is_usable

        target = choose_head(
            view.chain,
            view.head,
            view.votes,
            usable=usable,
            covered=view.is_covered,
            final=view.final_record,
        )
        if target == view.head and target in self.states:
            view.votes.favoured = target
            self.at_rest = self._what_moves(settles)
            return []
        self.at_rest = None
        if target in self.states:
            return self._change_head(target)
        held = next((s.hash for s in view.chain.ancestors(target) if s.hash in self.states), None)
        if held is None:
            self.applying = target  # nothing else is applied until a snapshot is loaded
            return [Resync(target)]
        step = view.chain.path(held, target)[0]
        if not view.holds_payloads(step):
            return []  # applied once, and lost since: it is pulled again
        self.applying = step.hash
        payloads = tuple(h.body.payload_hash for h in step.contributions if h.body.k)
        return [Apply(step.hash, step.parent, step.round, payloads)]

    def _what_moves(self, settles: bool) -> tuple[object, ...]:
        """A round's end drops payloads, its settle phase frees records.

        Cheap, as it is asked for every message.
        """
        view, chain = self.view, self.view.chain
        payloads = view.pool.payload_changes if self.lacks else 0
        known = (len(chain.records), chain.root.record, len(view.roots))
        return (view.votes.changes, payloads, *known, view.round, settles)

    def _change_head(self, target: bytes) -> list[Effect]:
        view, previous = self.view, self.view.head
        ancestor = view.chain.common_ancestor(previous, target)
        rolled_back = view.chain[previous].state.height - ancestor.state.height
        view.head = target
        effects: list[Effect] = [HeadChanged(target, previous, rolled_back)]
        return effects + self.finalise() + self._forget_states(target)

    def finalise(self) -> list[Effect]:
        """Rule 19, asked when the head has changed and once a round."""
        view = self.view
        final = find_final(view.chain, view.head, view.votes, view.final)
        if final is None:
            return []
        view.final, self.at_rest = final, None
        return [Finalised(final.record, final.round, final.height)]

    def prune(self) -> list[Effect]:
        """Rule 25: records are kept as far back as a fork may matter, or payloads are kept.

        No fork below the final record is followed. While nothing new is final, as on both sides
        of a cut, they are kept for `forget_rounds`: by these the sides find together again.
        """
        view, agreement = self.view, self.view.manifest.agreement
        newest = view.head_state.round
        root = view.chain.ancestor_before(view.head, newest - agreement.payload_window_rounds)
        if view.final is None or view.final.height < root.state.height:
            window = max(agreement.forget_rounds, agreement.payload_window_rounds)
            oldest = view.chain.ancestor_before(view.head, newest - window)
            final = view.final_record
            root = oldest if final is None else max(oldest, view.chain[final], key=_height)
        if root.hash == view.chain.root.record or self.applying is not None:
            return []
        dropped = {record.hash for record in view.chain.prune(root.hash)}
        view.digests = {h: digest for h, digest in view.digests.items() if h not in dropped}
        gone = self.states & dropped
        self.states -= gone
        return [ForgetStates(tuple(sorted(gone)))] if gone else []

    def drop_dead_branches(self) -> None:
        """Records older than L rounds that are beside our chain, and on which nobody stands.

        One member can make any number of them, each of them valid, on an old parent. A vote that
        the chain's peers cast for one later has it pulled again. They go the second time they are
        found so: a branch that is being pulled from below has its voted tip last.
        """
        view, chain = self.view, self.view.chain
        if self.applying is not None:
            return
        oldest = view.round - view.manifest.agreement.late_rounds
        kept = chain.subtree(view.head)
        old = [r.hash for r in chain.records.values() if r.round < oldest and r.hash not in kept]
        recent = [r.hash for r in chain.records.values() if r.round >= oldest]
        for tip in (view.head, *self.states, *recent, *_find_stands(view)):
            for step in chain.ancestors(tip):
                if step.hash in kept and step.hash != tip:
                    break
                kept.add(step.hash)
        dead = {record for record in old if record not in kept}
        dropped, self.dead = dead & self.dead, dead
        dropped = {d for record in dropped for d in chain.subtree(record)}
        if dropped:
            chain.drop(dropped)
            view.digests = {h: digest for h, digest in view.digests.items() if h not in dropped}


def _find_stands(view: View) -> list[bytes]:
    """Records that the newest votes of peers name whom the chain knows."""
    known = view.head_state.known
    return [
        record
        for record, peers in view.votes.by_record.items()
        if record in view.chain and any(peer in known for peer in peers)
    ]


def _height(record: Record) -> int:
    return record.state.height
