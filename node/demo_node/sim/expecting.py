"""What a scenario's file expects of its run (`[expect]`): that it went well, not only that it held.

A run may keep every promise and yet come to nothing: records without most contributions, rounds
without records. Only where a file asks for it is anything counted here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from demo_node.sim.scenario import Expect
from demo_node.sim.watching import Invariant
from demo_protocol.chain import Record
from demo_protocol.effects import Persist
from demo_protocol.identity import Kind

if TYPE_CHECKING:
    from demo_node.sim.actor import Actor
    from demo_node.sim.world import World


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is counted of a record."""

    parent: bytes
    by_liar: bool
    contributions: tuple[bytes, ...]


class AsExpected(Invariant):
    """Looks at the chain that most honest nodes end on, as far back as the run goes."""

    name = "the run comes to what its file expects"

    def __init__(self, expect: Expect) -> None:
        super().__init__()
        self._expect = expect
        self._records: dict[bytes, _Kept] = {}
        self._announced: set[bytes] = set()

    def on_signed(self, actor: "Actor", effect: Persist) -> None:
        """What an honest node announces is to be in a record."""
        if effect.kind is Kind.HEADER:
            self._announced.add(effect.hash)

    def on_record(self, actor: "Actor", record: Record) -> None:
        """Chains forget their oldest records; this does not."""
        if record.proposal is not None:
            author = actor.world.find(record.proposal.body.peer)
            self._records[record.hash] = _Kept(
                record.parent,
                author is None or bool(author.traits.how),
                tuple(header.hash for header in record.contributions),
            )

    def finish(self, speaker: "Actor | None", rounds: int, final_lag: int) -> None:
        """The run is over. `final_lag`: records that are not final, -1 where none is."""
        expect = self._expect
        if speaker is None:
            self.report("no honest node is left")
            return
        chain = list(self._list_chain(speaker.view.head))
        self._ask_share("rounds have a record", len(chain), rounds, least=expect.records)
        listed = {name for record in chain for name in record.contributions}
        self._ask_share(
            "headers of honest nodes are in a record",
            len(listed & self._announced),
            len(self._announced),
            least=expect.included,
        )
        by_liars = sum(record.by_liar for record in chain)
        self._ask_share("records are by liars", by_liars, len(chain), most=expect.by_liars)
        honest = {actor.name for actor in speaker.world.actors if not actor.traits.how}
        members = len(speaker.view.chain[speaker.view.head].members & honest)
        if members < expect.members:
            self.report(f"{members} honest nodes are members, {expect.members} at least")
        if expect.final_lag is not None and not 0 <= final_lag <= expect.final_lag:
            lag = f"{final_lag} records are not final" if final_lag >= 0 else "no record is final"
            self.report(f"{lag}, {expect.final_lag} at most")
        if expect.clock_ms is not None:
            self._ask_clocks(speaker.world, expect.clock_ms)

    def _ask_clocks(self, world: "World", most_ms: int) -> None:
        for actor in [world.actors[index] for index in sorted(world.up)]:
            off_ms = actor.now_ms() - world.timeline.now_ms
            if abs(off_ms) > most_ms and not actor.traits.how:
                self.report(
                    f"the clock of node {actor.index} is off by {off_ms} ms, {most_ms} at most",
                    actor.index,
                )

    def _list_chain(self, name: bytes) -> Iterator[_Kept]:
        while (record := self._records.get(name)) is not None:
            yield record
            name = record.parent

    def _ask_share(
        self, what: str, count: int, of: int, *, least: float = 0.0, most: float = 1.0
    ) -> None:
        share = count / max(of, 1)
        if not least <= share <= most:
            bound = f"{most:.0%} at most" if share > most else f"{least:.0%} at least"
            self.report(f"{count} of {of} {what} ({share:.0%}), {bound}")
