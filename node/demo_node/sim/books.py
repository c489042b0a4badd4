"""What must hold of the books that nodes keep: who is removed, credited, and paid back."""

from typing import TYPE_CHECKING, Final

from demo_node.sim.watching import Invariant
from demo_protocol.chain import Record
from demo_protocol.effects import Effect, Persist, Release, StateFault
from demo_protocol.events import Event
from demo_protocol.identity import Kind

if TYPE_CHECKING:
    from demo_node.sim.actor import Actor

ROUNDS_KEPT: Final = 128
"""Far more than `late_rounds`: nothing reaches further back."""


class Innocent(Invariant):
    """Rules 10 and 26: nobody honest is removed, whatever was lost when it died."""

    name = "there is no evidence against an honest node"

    def on_record(self, actor: "Actor", record: Record) -> None:
        """Evidence is two messages with one node's signature."""
        for offence in record.offences:
            author = actor.world.find(offence.peer)
            if author is not None and not author.traits.how:
                self.report(
                    f"record {record.hash.hex()[:6]} of round {record.round} shows that node"
                    f" {author.index} signed twice in round {offence.round}",
                    author.index,
                )


class NoWitness(Invariant):
    """Rule 20: whatever others say of a state, who computed it rightly goes on signing.

    No scenario lets a node compute wrongly: whoever doubts itself has listened to liars.
    """

    name = "no honest node becomes a witness by what others say"

    def on_step(self, actor: "Actor", event: Event, effects: list[Effect]) -> None:
        """It computed again, and was told another digest all the same."""
        for effect in effects:
            if type(effect) is StateFault:
                self.report(
                    f"node {actor.index} signs nothing any more: most are said to have another"
                    f" state after {effect.base.hex()[:6]}, from round {effect.round} on",
                    actor.index,
                )


class CreditedOnce(Invariant):
    """Rule 8: one peer, one round, at most once per chain."""

    name = "no header is credited twice on one chain"

    def __init__(self) -> None:
        super().__init__()
        self._credits: dict[bytes, tuple[Record, frozenset[tuple[int, bytes]]]] = {}

    def on_record(self, actor: "Actor", record: Record) -> None:
        """Compare with what the records before it credit, as far as late headers reach."""
        headers = [header.body for header in (*record.contributions, *record.late)]
        credits = frozenset((header.round, header.peer) for header in headers)
        is_twice = len(credits) < len(headers)
        oldest = record.round - actor.world.manifest.agreement.late_rounds
        before = self._credits.get(record.parent)
        while before is not None and before[0].round >= oldest:
            is_twice = is_twice or not credits.isdisjoint(before[1])
            before = self._credits.get(before[0].parent)
        self._credits[record.hash] = (record, credits)
        while next(iter(self._credits.values()))[0].round < record.round - ROUNDS_KEPT:
            del self._credits[next(iter(self._credits))]
        if is_twice:
            self.report(
                f"record {record.hash.hex()[:6]} of round {record.round} credits what was"
                " credited before",
                actor.index,
            )


class GivenBack(Invariant):
    """Rule 24: what was sent is forgotten only where some record lists it."""

    name = "nobody forgets what no record lists"

    def __init__(self) -> None:
        super().__init__()
        self._listed: dict[int, set[bytes]] = {}
        self._signed: dict[int, dict[int, bytes]] = {}

    def on_signed(self, actor: "Actor", effect: Persist) -> None:
        """It has sent a part of its residual, perhaps an empty one."""
        if effect.kind is Kind.HEADER:
            self._signed.setdefault(effect.round, {})[actor.index] = effect.hash
            for rounds in (self._signed, self._listed):
                for round_ in [r for r in rounds if r < effect.round - ROUNDS_KEPT]:
                    del rounds[round_]

    def on_record(self, actor: "Actor", record: Record) -> None:
        """Remember what it lists."""
        hashes = (header.hash for header in record.contributions)
        self._listed.setdefault(record.round, set()).update(hashes)

    def on_step(self, actor: "Actor", event: Event, effects: list[Effect]) -> None:
        """It is settled what became of a round."""
        for effect in effects:
            if type(effect) is Release:
                sent = self._signed.get(effect.round, {}).get(actor.index)
                if sent is not None and sent not in self._listed.get(effect.round, ()):
                    self.report(
                        f"node {actor.index} forgets what it sent in round {effect.round}, which"
                        " no record lists",
                        actor.index,
                    )
