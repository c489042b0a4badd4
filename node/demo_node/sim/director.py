"""Lets a scenario happen to a world: what is planned, and what its mix draws from the seed."""

import functools
import random
from collections import Counter
from collections.abc import Callable

from demo_node.sim.actor import Actor
from demo_node.sim.faults import Faults, is_able
from demo_node.sim.links import Cut
from demo_node.sim.scenario import Do, Event, Scenario, choose, split
from demo_node.sim.world import World
from demo_protocol.schedule import round_start_ms

SLOW_FACTOR = 4
"""How many times slower the slow ones of a mix are."""

WRONG_CLOCK_MS = (1_000, 30_000)
"""How far a clock steps, in one direction or the other."""

WRONG_CLOCK_ROUNDS = (1, 8)
"""Until it is set right."""

VANISHING = 1 / 3
"""Part of the nodes that a mass leave takes."""


class Director:
    """Plays one scenario."""

    def __init__(self, world: World, scenario: Scenario) -> None:
        self.world = world
        self.scenario = scenario
        self.faults = Faults(world)
        self.rng = random.Random(f"{world.seed}/director")
        self._away: dict[int, int] = {}
        """Who will return, by the life that ended: the mix's only."""
        self._left: set[int] = set()
        """Who went with a good-bye, the last time that it went."""
        self._owed_liars = self._owed_slow = 0.0
        self._to_come: Counter[int] = Counter()
        """How often each planned event has still to be tried, by its number in the file."""
        self._happened: set[int] = set()

    def run(
        self, nodes: int, rounds: int, on_round: Callable[[int], object] = lambda played: None
    ) -> int:
        """From the first birth to the end of the last round; less where the watcher has seen
        enough. Returns the rounds that were run. Each time, calls `on_round` with how many were:
        first with 0."""
        world = self.world
        for actor in [world.add() for _ in range(nodes)]:
            self._shape(actor)
        for index, (number, event) in enumerate(self.scenario.number_plan()):
            self._to_come[number] += 1
            begin_ms = round_start_ms(world.manifest.schedule, event.round)
            moment_ms = begin_ms + int(event.at * world.manifest.schedule.round_ms)
            if event.round == 0 and event.do is Do.CUT:
                moment_ms = world.begin_ms  # who starts apart has never met
            world.timeline.at(moment_ms, functools.partial(self._happen, index, number, event))
        world.timeline.run_until(world.begin_ms)
        for actor in world.actors:
            actor.boot()
        on_round(0)
        for round_ in range(rounds):
            self._draw_round(round_)
            world.run_until_round(round_ + 1)
            world.watcher.on_round_ended(world, round_)
            on_round(round_ + 1)
            if world.watcher.has_seen_enough:
                return round_ + 1
        return rounds

    def list_without_effect(self) -> tuple[int, ...]:
        """Numbers, from 1, of the file's events that happened to nobody and will not any more."""
        nodes = len(self.world.actors)
        return tuple(
            number
            for number, event in enumerate(self.scenario.events, 1)
            if not self._to_come[number]
            and (number not in self._happened or not _has_two_sides(event, nodes))
        )

    def _shape(self, actor: Actor) -> None:
        """What a node is from its birth. Parts of a whole are kept exactly, not left to luck."""
        mix = self.scenario.mix
        actor.offset_ms = round(self.rng.uniform(-mix.clock_ms, mix.clock_ms))
        actor.drift_ppm = round(self.rng.uniform(-mix.drift_ppm, mix.drift_ppm))
        self._owed_slow += mix.slow
        if self._owed_slow >= 1:
            self._owed_slow -= 1
            self.faults.slow_down(actor, SLOW_FACTOR)
        self._owed_liars += mix.liars
        if self._owed_liars >= 1:
            self._owed_liars -= 1
            self.faults.turn(actor, self.rng.choice(mix.liar_kinds))

    # --- the mix ---------------------------------------------------------------------------------

    def _draw_round(self, round_: int) -> None:
        """What happens in this round, to whom, and when."""
        mix, faults = self.scenario.mix, self.faults
        killers: list[tuple[float, Callable[[Actor], bool]]] = [
            (mix.leave, faults.leave),
            (mix.crash, faults.kill),
            (mix.power_cut, faults.power_cut),
            (mix.full_disk, faults.fill_disk),
        ]
        sufferings: list[tuple[float, Callable[[Actor], object]]] = [
            (mix.wrong_clock, self._set_clock_wrong),
            (mix.trainer_dies, faults.kill_trainer),
            (mix.withhold, self._withhold_for_a_round),
        ]
        for actor in [self.world.actors[index] for index in sorted(self.world.up)]:
            for chance, kill in killers:
                if chance and self.rng.random() < chance:
                    self._during(round_, functools.partial(self._take_away, kill, actor))
            for chance, hurt in sufferings:
                if chance and self.rng.random() < chance:
                    self._during(round_, functools.partial(hurt, actor))
            if mix.join and self.rng.random() < mix.join:
                self._during(round_, self._replace_one)
        if mix.cut and self.rng.random() < mix.cut:
            self._during(round_, self._cut_at_random)
        if mix.mass_leave and self.rng.random() < mix.mass_leave:
            self._during(round_, self._take_many_away)

    def _during(self, round_: int, action: Callable[[], object]) -> None:
        schedule = self.world.manifest.schedule
        ms = round_start_ms(schedule, round_) + self.rng.randrange(schedule.round_ms)
        self.world.timeline.at(ms, action)

    def _after_rounds(self, rounds: float, action: Callable[[], object]) -> None:
        delay_ms = int(rounds * self.world.manifest.schedule.round_ms)
        self.world.timeline.after(delay_ms, action)

    def _take_away(self, kill: Callable[[Actor], bool], actor: Actor) -> None:
        """It goes, and comes back, unless a new node comes in its place."""
        if not kill(actor):
            return
        away = self._away[actor.index] = actor.life
        if kill == self.faults.leave:
            self._left.add(actor.index)
        else:
            self._left.discard(actor.index)
        rounds = self.rng.randint(*self.scenario.mix.return_after) + self.rng.random()

        def come_back() -> None:
            if self._away.get(actor.index) == away:
                del self._away[actor.index]
                self._revive(actor)

        self._after_rounds(rounds, come_back)

    def _take_many_away(self) -> None:
        able = [actor for actor in self._living() if is_able(actor)]
        for actor in self.rng.sample(able, round(len(able) * VANISHING)):
            self._take_away(self.faults.vanish, actor)

    def _replace_one(self) -> None:
        """As many come as go: a new node takes the place of one that went and was to return.

        Of one that said good-bye, if there is any: who crashes comes back, as a rule.
        """
        if self._away:
            gone = next((index for index in self._away if index in self._left), None)
            del self._away[next(iter(self._away)) if gone is None else gone]
            self._join()

    def _join(self) -> Actor:
        actor = self.faults.join()
        self._shape(actor)
        actor.boot()
        return actor

    def _set_clock_wrong(self, actor: Actor) -> bool:
        """Until somebody sets it right: of all clocks few are wrong at a time (rule 3)."""
        ms = self.rng.choice((-1, 1)) * self.rng.randint(*WRONG_CLOCK_MS)
        right = functools.partial(self.faults.step_clock, actor, -ms)
        self._after_rounds(self.rng.randint(*WRONG_CLOCK_ROUNDS), right)
        return self.faults.step_clock(actor, ms)

    def _withhold_for_a_round(self, actor: Actor) -> None:
        if not actor.traits.how and self.faults.withhold(actor):
            self._after_rounds(1, functools.partial(self.faults.give_again, actor))

    def _cut_at_random(self) -> None:
        alive = [actor.index for actor in self._living()]
        if len(alive) < 2:
            return
        some = self.rng.sample(alive, self.rng.randint(1, len(alive) // 2))
        rest = sorted(set(range(len(self.world.actors))).difference(some))
        shape = self.rng.choice(("two_way_cut", "one_way_cut", "partial_cut"))
        if shape == "partial_cut":
            rest = self.rng.sample(rest, max(len(rest) // 2, 1))
        cut = Cut(frozenset(some), frozenset(rest), one_way=shape == "one_way_cut")
        parting = self.faults.cut(cut, shape, parts_all=shape != "partial_cut")
        rounds = self.rng.randint(*self.scenario.mix.cut_rounds)
        self._after_rounds(rounds, functools.partial(self.faults.heal, parting))

    def _living(self) -> list[Actor]:
        return [self.world.actors[index] for index in sorted(self.world.up)]

    # --- what is planned -------------------------------------------------------------------------

    def _happen(self, index: int, number: int, event: Event) -> None:
        self._to_come[number] -= 1
        if self._let_happen(index, event):
            self._happened.add(number)

    def _let_happen(self, index: int, event: Event) -> bool:
        """Did it happen to anybody?"""
        if event.do is Do.HEAL:
            return self.faults.heal()
        if event.do is Do.CUT:
            return self._cut_as_planned(index, event)
        if event.do is Do.JOIN:
            return bool([self._join() for _ in range(event.count_of(len(self.world.up)))])
        return any([self._befall(event, actor) for actor in self._choose(index, event)])

    def _choose(self, index: int, event: Event) -> list[Actor]:
        """Whom it happens to, of those it can happen to."""
        actors = self.world.actors
        match event.do:
            case Do.RESTART:
                able = [a.index for a in actors if not a.is_alive]
            case Do.CONTINUE:
                able = [a.index for a in actors if a.is_alive and not a.is_up]
            case Do.CUT:
                able = sorted(self.world.up) if self.world.up else list(range(len(actors)))
            case _:
                able = [a.index for a in actors if is_able(a)]
        return [actors[i] for i in choose(event, index, self.world.seed, able)]

    def _cut_as_planned(self, index: int, event: Event) -> bool:
        chosen = [actor.index for actor in self._choose(index, event)]
        left, right = split(event, chosen, range(len(self.world.actors)))
        if not left or not right:
            return False
        kind = "one_way_cut" if event.one_way else "two_way_cut"
        cut = Cut(left, right, event.one_way)
        parting = self.faults.cut(cut, kind, parts_all=not event.sides)
        self._undo_later(event, functools.partial(self.faults.heal, parting))
        return True

    def _befall(self, event: Event, actor: Actor) -> bool:
        """Did it happen?"""
        faults = self.faults
        restart = functools.partial(self._revive, actor)
        undo: Callable[[], object] | None = None
        is_hit = False
        match event.do:
            case Do.KILL:
                is_hit, undo = faults.kill(actor), restart
            case Do.POWER_CUT:
                is_hit, undo = faults.power_cut(actor), restart
            case Do.FULL_DISK:
                is_hit, undo = faults.fill_disk(actor), restart
            case Do.LEAVE:
                is_hit, undo = faults.leave(actor), restart
            case Do.STOP:
                is_hit, undo = faults.hang(actor), functools.partial(faults.run_on, actor)
            case Do.CONTINUE:
                is_hit = faults.run_on(actor)
            case Do.RESTART:
                is_hit = faults.restart(actor)
            case Do.CLOCK:
                is_hit = faults.step_clock(actor, event.ms)
                undo = functools.partial(faults.step_clock, actor, -event.ms)
            case Do.SLOW:
                is_hit = faults.slow_down(actor, event.factor)
                undo = functools.partial(faults.slow_down, actor, 1)
            case Do.TRAINER_DIES:
                is_hit = faults.kill_trainer(actor)
            case Do.LIE:
                is_hit = faults.turn(actor, event.how)
            case Do.JOIN | Do.CUT | Do.HEAL:
                raise AssertionError(f"{event.do} is no matter of one node")
        if is_hit and undo is not None:
            self._undo_later(event, undo)
        return is_hit

    def _revive(self, actor: Actor) -> None:
        if actor.disk.files.operations_left is not None:
            actor.crash()  # its death still awaited it
        self.faults.restart(actor)

    def _undo_later(self, event: Event, undo: Callable[[], object]) -> None:
        if event.rounds:
            self._after_rounds(event.rounds, undo)


def _has_two_sides(event: Event, nodes: int) -> bool:
    """Was there ever anybody on both sides of a cut, of so many nodes that there were?"""
    return all(any(node < nodes for node in side) for side in event.sides)
