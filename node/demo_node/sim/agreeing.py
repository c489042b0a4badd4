"""What must hold between nodes: that they come to agree, and never leave what is final."""

from collections import Counter
from typing import TYPE_CHECKING

from demo_node.sim.watching import Invariant
from demo_protocol.chain import Record
from demo_protocol.effects import Effect, Finalised, HeadChanged
from demo_protocol.events import Event, StartMoved

if TYPE_CHECKING:
    from demo_node.sim.actor import Actor
    from demo_node.sim.world import World


class OneChain(Invariant):
    """Every honest node connected to the majority is on its chain within `final_depth` rounds.

    Of a heal, and of whatever befell the node itself. On its chain: what a node believed
    `final_depth` rounds ago lies on the chain of most, and it is not further behind than that.
    """

    name = "whoever is connected to the majority is on its chain"

    def __init__(self) -> None:
        super().__init__()
        self.lag_max = 0
        self.checked = 0
        self._whole_since = 0
        self._well_since: dict[int, int] = {}
        self._round = -1

    def on_up(self, actor: "Actor") -> None:
        """It catches up first."""
        self._well_since[actor.index] = self._round + 1

    def on_fault_injected(self, actor: "Actor | None", what: str) -> None:
        """Whom something befell has as long to mend it; a cut tears everybody apart."""
        if actor is None:
            self._whole_since = self._round + 1
        else:
            self._well_since[actor.index] = self._round + 1

    def on_round_ended(self, world: "World", round_: int) -> None:
        """Compare the nodes that should agree by now."""
        self._round = round_
        depth = world.manifest.agreement.final_depth
        for index in list(world.up):
            machine = world.actors[index].machine
            if machine is None or machine.syncing:
                self._well_since[index] = round_ + 1
        if world.links.cuts:
            self._whole_since = round_ + 1
        if round_ - self._whole_since < depth:
            return
        well = [
            world.actors[index]
            for index in sorted(world.up)
            if round_ - self._well_since.get(index, 0) >= depth
            and not world.actors[index].traits.how
        ]
        if well:
            self._compare(well, round_ - depth)

    def _compare(self, nodes: list["Actor"], settled_round: int) -> None:
        self.checked += len(nodes)
        believed = {node.index: _newest_until(node, settled_round) for node in nodes}
        votes = Counter(record.hash for record in believed.values())
        most = max(votes, key=lambda name: (votes[name], name))
        speaker = next(node for node in nodes if believed[node.index].hash == most)
        # Up to its head: the chain of who has just leapt there begins after that round.
        chain = {step.hash for step in speaker.view.chain.ancestors(speaker.view.head)}
        height = believed[speaker.index].state.height
        oldest = speaker.view.chain.root.height
        for node in nodes:
            record = believed[node.index]
            lag = height - record.state.height
            self.lag_max = max(self.lag_max, lag)
            if record.hash not in chain and record.state.height >= oldest:
                self.report(
                    f"node {node.index} believed {_show(record)} in round {settled_round}, node"
                    f" {speaker.index} and most others {_show(believed[speaker.index])}",
                    node.index,
                    speaker.index,
                )
            elif lag > 0:
                self.report(
                    f"node {node.index} is at {_show(record)}, {lag} records behind what node"
                    f" {speaker.index} and most others believed in round {settled_round}",
                    node.index,
                    speaker.index,
                )


class OwnFinal(Invariant):
    """Rule 19: no node leaves its own final record, by a snapshot no more than by records.

    A chain in memory may begin after it, so what is on the way is looked up among all records of
    the world: liars' too, since an honest node may take the state after one.
    """

    name = "no node leaves its own final record"

    def __init__(self) -> None:
        super().__init__()
        self._final: dict[int, Finalised] = {}

    def on_up(self, actor: "Actor") -> None:
        """What a node wrote down before it must not leave now."""
        self._check(actor)

    def on_step(self, actor: "Actor", event: Event, effects: list[Effect]) -> None:
        """Wherever the head moved, and whatever became final."""
        for effect in effects:
            if isinstance(effect, HeadChanged):
                self._check(actor)
            elif isinstance(effect, Finalised):
                self._check(actor)  # before this one: it must descend from the last one
                self._final[actor.index] = effect
        if isinstance(event, StartMoved) and not event.adopted:
            self._check(actor)

    def _check(self, actor: "Actor") -> None:
        final, chain = self._final.get(actor.index), actor.view.chain
        if final is None:
            return
        head = chain[actor.view.head]
        steps = head.state.height - final.height
        if steps >= 0:
            left = actor.world.find_before(head.hash, steps) != final.record
        else:  # it catches up, or a heavier branch is shorter
            left = actor.world.find_before(final.record, -steps) != head.hash
        if left:
            self.report(
                f"node {actor.index} stands on {_show(head)}, which does not descend from"
                f" r{final.round}/{final.record.hex()[:6]}, which it holds to be final",
                actor.index,
            )


class OneFinal(Invariant):
    """Rule 19: no two final records conflict, whoever holds them to be final.

    While cuts last less than `forget_rounds` and dishonest voters are fewer than a third.
    """

    name = "no two final records conflict"

    def __init__(self) -> None:
        super().__init__()
        self.finals = 0
        self._by_height: dict[int, tuple[bytes, int]] = {}

    def on_step(self, actor: "Actor", event: Event, effects: list[Effect]) -> None:
        """A record is final, and so is every record below it."""
        for effect in effects:
            if isinstance(effect, Finalised):
                self._add(actor, effect)

    def _add(self, actor: "Actor", final: Finalised) -> None:
        if final.record not in actor.view.chain:
            return
        self.finals += 1
        for step in actor.view.chain.ancestors(final.record):
            known = self._by_height.get(step.state.height)
            if known is None:
                self._by_height[step.state.height] = (step.hash, actor.index)
                continue
            name, other = known
            if name != step.hash:
                self.report(
                    f"{_show(step)} is final for node {actor.index}, {name.hex()[:6]} of the same"
                    f" height for node {other}",
                    actor.index,
                    other,
                )
            return


class KeepsGoing(Invariant):
    """Under the standard churn most rounds get a record."""

    name = "records are made in 95 of 100 rounds"

    def __init__(self, share: float = 0.95) -> None:
        super().__init__()
        self._share = share

    def finish(self, records: int, rounds: int) -> None:
        """The run is over."""
        if records < self._share * rounds:
            self.report(f"{records} records in {rounds} rounds")


def _newest_until(actor: "Actor", round_: int) -> Record:
    """The newest record on a node's chain that is not younger than that."""
    chain = actor.view.chain
    found = chain[actor.view.head]
    for found in chain.ancestors(actor.view.head):
        if found.round <= round_:
            break
    return found


def _show(record: Record) -> str:
    return f"r{record.round}/{record.hash.hex()[:6]} (height {record.state.height})"
