"""One simulated run from a scenario and a seed, and what came of it."""

import contextlib
import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from demo_node.sim.actor import Actor
from demo_node.sim.agreeing import KeepsGoing, OneChain, OneFinal, OwnFinal
from demo_node.sim.books import CreditedOnce, GivenBack, Innocent, NoWitness
from demo_node.sim.director import Director
from demo_node.sim.expecting import AsExpected
from demo_node.sim.founding import EPOCH_MS, found, plan_manifest
from demo_node.sim.invariants import Bounds, EqualStates, HonestWords, SamplesOnce, SignsOnce
from demo_node.sim.learning import make_first
from demo_node.sim.scenario import Expect, Mix, Scenario
from demo_node.sim.transcript import Names
from demo_node.sim.watching import Invariant, Violation, Watcher
from demo_node.sim.world import World
from demo_protocol.manifest import Manifest, compute_run_id, validate_manifest

SCHEMA: Final = 1
"""Of the JSON document."""

STANDARD_CHURN: Final = 0.05
"""Of the nodes, at most, leave or die in a round: then records are owed in 95 rounds of 100."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Of a run that is under way. `round`: so many are over. `records` as in its report."""

    round: int
    rounds: int
    nodes_up: int
    records: int
    faults: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of one run. `records` are those of the last rounds' majority's chain."""

    scenario: Scenario
    seed: int
    event_log_digest: str
    faults: Counter[str]
    comings: Counter[str]
    messages: Counter[str]
    violations: tuple[Violation, ...]
    transcript: tuple[str, ...]
    events_without_effect: tuple[int, ...]
    """Numbers, from 1, of the file's events that happened to nobody."""
    rounds: int
    records: int
    nodes: int
    nodes_at_end: int
    liars: int
    contributors: float
    rollbacks: int
    rollback_max: int
    lag_max: int
    finals: int
    final_lag: int
    rejections: Counter[str]
    excused: Counter[str]
    steps: int
    seconds: float
    bytes_in_per_node_per_round: float
    losses: tuple[float, float] | None
    """Held-out, at the beginning and at the end, nats per byte, where training is real."""

    def document(self) -> dict[str, object]:
        """For machines; the first keys are the issue's, in its order."""
        return {
            "schema": SCHEMA,
            "event_log_digest": self.event_log_digest,
            "faults": self.faults.total(),
            "violations": len(self.violations),
            "rounds": self.rounds,
            "records": self.records,
            "nodes": self.nodes,
            "seconds": round(self.seconds, 3),
            "bytes_in_per_node_per_round": round(self.bytes_in_per_node_per_round),
            "seed": self.seed,
            "scenario": self.scenario.name,
            "faults_by_kind": dict(sorted(self.faults.items())),
            "comings": dict(sorted(self.comings.items())),
            "lies": self._lies(),
            "broken": [f"{v.invariant}: {v.text}" for v in self.violations],
            "events_without_effect": list(self.events_without_effect),
            "nodes_at_end": self.nodes_at_end,
            "liars": self.liars,
            "contributors_per_record": round(self.contributors, 2),
            "rollbacks": self.rollbacks,
            "rollback_max": self.rollback_max,
            "lag_max": self.lag_max,
            "finals": self.finals,
            "final_lag": self.final_lag,
            "excused": dict(sorted(self.excused.items())),
            "steps": self.steps,
            "learner": self.scenario.learner,
            "loss_first": self.losses and round(self.losses[0], 4),
            "loss_last": self.losses and round(self.losses[1], 4),
        }

    def _lies(self) -> dict[str, int]:
        return {
            name.removeprefix("lie."): count
            for name, count in sorted(self.messages.items())
            if name.startswith("lie.")
        }


def plan_run(scenario: Scenario, seed: int) -> Manifest:
    """The run that a scenario wants. Raises ConfigError where there can be none."""
    manifest = plan_manifest(seed)
    schedule = manifest.schedule
    factor = scenario.round_seconds * 1000 / schedule.round_ms
    if factor != 1:
        schedule = replace(
            schedule,
            round_ms=round(schedule.round_ms * factor),
            slot_offset_ms=max(round(schedule.slot_offset_ms * factor), 1),
            skew_max_ms=max(round(schedule.skew_max_ms * factor), 1),
        )
    agreement = scenario.adjust(manifest.agreement)
    manifest = replace(manifest, schedule=schedule, agreement=agreement)
    validate_manifest(manifest)
    return manifest


def simulate(
    scenario: Scenario, seed: int, on_round: Callable[[Progress], None] | None = None
) -> Report:
    """Run it to its end, or to the end of the round in which something was broken.

    Calls `on_round` before the first round and after every one: it sees all and changes nothing.
    """
    begin_s = time.perf_counter()
    manifest = plan_run(scenario, seed)
    samples, chain, bounds = SamplesOnce(), OneChain(), Bounds()
    final = OneFinal()
    invariants: list[Invariant] = [
        EqualStates(),
        SignsOnce(),
        samples,
        HonestWords(),
        bounds,
        chain,
        OwnFinal(),
        final,
        Innocent(),
        NoWitness(),
        CreditedOnce(),
        GivenBack(),
    ]
    going, expected = KeepsGoing(), AsExpected(scenario.expect)
    if _is_standard_churn(scenario):
        invariants.append(going)
    if scenario.expect != Expect():
        invariants.append(expected)
    watcher = Watcher(invariants)
    root = found(compute_run_id(manifest), 0 if scenario.from_genesis else scenario.nodes)
    first = make_first(manifest, root, scenario.learner)
    world = World(manifest, scenario, seed=seed, first=first, watcher=watcher)
    director = Director(world, scenario)

    def tell(played: int) -> None:
        if on_round is not None:
            on_round(
                Progress(
                    round=played,
                    rounds=scenario.rounds,
                    nodes_up=len(world.up),
                    records=_count_records(_find_speaker(world), root.height),
                    faults=director.faults.counts.total(),
                )
            )

    with _no_garbage_collection():
        rounds = director.run(scenario.nodes, scenario.rounds, tell)
    speaker = _find_speaker(world)
    records = _count_records(speaker, root.height)
    view = speaker.view if speaker is not None else None
    final_lag = -1
    if view is not None and view.final is not None:
        final_lag = view.head_state.height - view.final.height
    if rounds == scenario.rounds:
        if going in invariants:
            going.finish(records, rounds)
        if expected in invariants:
            expected.finish(speaker, rounds, final_lag)
        watcher.collect()
    return Report(
        scenario=scenario,
        seed=seed,
        event_log_digest=watcher.log.digest(),
        faults=director.faults.counts,
        comings=director.faults.comings,
        messages=world.counts,
        violations=tuple(watcher.violations),
        transcript=tuple(_write_transcript(world, watcher)),
        events_without_effect=director.list_without_effect(),
        rounds=rounds,
        records=records,
        nodes=scenario.nodes,
        nodes_at_end=len(world.up),
        liars=sum(bool(actor.traits.how) for actor in world.actors),
        contributors=_count_contributors(speaker),
        rollbacks=watcher.rollbacks,
        rollback_max=watcher.rollback_max,
        lag_max=chain.lag_max,
        finals=final.finals,
        final_lag=final_lag,
        rejections=watcher.rejections,
        excused=Counter(
            sibling_bases=samples.sibling_bases, probes=samples.probes, missed=samples.missed
        ),
        steps=watcher.log.steps,
        seconds=time.perf_counter() - begin_s,
        bytes_in_per_node_per_round=float(world.bytes_in.sum()) / (scenario.nodes * rounds),
        losses=_measure_losses(world, speaker),
    )


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """There are millions of objects and hardly a cycle: looking for one takes half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _is_standard_churn(scenario: Scenario) -> bool:
    """Does nothing happen but that some come and go?"""
    mix = scenario.mix
    bare = replace(mix, leave=0.0, crash=0.0, join=0.0, return_after=Mix().return_after)
    is_bare = bare == Mix() and not scenario.events
    return is_bare and 0 < mix.leave + mix.crash <= STANDARD_CHURN and mix.return_after[1] <= 20


def _find_speaker(world: World) -> Actor | None:
    """An honest node on the head that most honest nodes have."""
    honest = [world.actors[i] for i in sorted(world.up) if not world.actors[i].traits.how]
    heads = Counter(actor.view.head for actor in honest)
    return max(honest, key=lambda a: (heads[a.view.head], a.view.head, -a.index), default=None)


def _measure_losses(world: World, speaker: Actor | None) -> tuple[float, float] | None:
    if world.scenario.learner == "modelled" or speaker is None:
        return None
    from demo_node.sim.real_learning import measure_loss  # it brings torch

    states = speaker.trainer.states
    way = speaker.view.chain.ancestors(speaker.view.head)
    newest = next((step.state for step in way if step.hash in states), None)
    if newest is None:
        return None  # it lost them all just now
    last = speaker.trainer.snapshot(newest)
    return measure_loss(world.manifest, world.first), measure_loss(world.manifest, last)


def _count_records(speaker: Actor | None, root_height: int) -> int:
    return 0 if speaker is None else speaker.view.head_state.height - root_height


def _count_contributors(speaker: Actor | None) -> float:
    """Contributions that a record lists on average, of those in memory."""
    if speaker is None:
        return 0.0
    steps = speaker.view.chain.ancestors(speaker.view.head)
    counts = [len(step.contributions) for step in steps if step.proposal is not None]
    return sum(counts) / max(len(counts), 1)


def _write_transcript(world: World, watcher: Watcher) -> list[str]:
    if not watcher.violations:
        return []
    nodes = {node for violation in watcher.violations[:3] for node in violation.nodes}
    chains = [world.actors[n].view.chain for n in sorted(nodes) if world.actors[n].is_alive]
    peers = {actor.name: actor.index for actor in world.actors}
    return watcher.transcript.lines(nodes, Names(chains, peers), EPOCH_MS)
