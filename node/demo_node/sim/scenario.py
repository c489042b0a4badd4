"""A scenario: what happens to a swarm, modelled (`simulate`) or real (`swarm`), from a TOML file.

Planned events happen at their rounds; the mix is drawn from the seed. Nothing here runs anything.
"""

import random
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from demo_node.sim import scenario_keys as keys
from demo_node.sim.scenario_keys import IGNORED, NODES_MAX, ROUNDS_MAX, SEED_MAX
from demo_protocol.errors import ConfigError
from demo_protocol.limits import CONTRIBUTORS_MAX
from demo_protocol.manifest import Agreement

FILE_BYTES_MAX: Final = 1 << 20

EVENTS_MAX: Final = 100_000
"""Of one file, repetitions counted."""


class Do(StrEnum):
    """What an event does."""

    KILL = "kill"  # the process dies in mid-work; what it had written is on disk
    POWER_CUT = "power_cut"  # and what was not synced to disk is lost
    STOP = "stop"  # it hangs: neither runs nor answers
    CONTINUE = "continue"  # it runs on
    LEAVE = "leave"  # it says goodbye and ends
    RESTART = "restart"  # a dead one starts on its data folder
    JOIN = "join"  # a new node
    CUT = "cut"
    HEAL = "heal"
    CLOCK = "clock"
    SLOW = "slow"
    FULL_DISK = "full_disk"
    TRAINER_DIES = "trainer_dies"
    LIE = "lie"


LIES: Final = (
    "equivocate",
    "censor",
    "grind",
    "withhold",
    "half_serve",
    "forge_parent",
    "forge_digest",
    "replay",
    "sybil_silent",
    "sybil_active",
    "old_chain",
    "garble",
)
"""Kinds of dishonest nodes."""

LEARNERS: Final = ("modelled", "real")
"""What trainers compute: digests alone, or a tiny model."""

REQUIRED: Final = ("do", "round")
"""Keys that no event is without."""

LASTING: Final = (
    Do.KILL,
    Do.POWER_CUT,
    Do.STOP,
    Do.LEAVE,
    Do.CUT,
    Do.CLOCK,
    Do.SLOW,
    Do.FULL_DISK,
)
"""What ends by itself where `rounds` says after how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Every link between two nodes."""

    latency_ms: float = keys.number(40, 0, 60_000, "one way, median")
    jitter_ms: float = keys.number(20, 0, 60_000, "added to it, at most")
    loss: float = keys.share(0, "of gossip messages, per receiver", IGNORED)
    duplicate: float = keys.share(0, "of gossip messages arrive twice", IGNORED)
    reorder: float = keys.share(0, "of gossip messages are held back, up to a second", IGNORED)
    up_mbit: float = keys.number(20, 0.001, 1e6, "what a node sends, megabits per second", IGNORED)
    down_mbit: float = keys.number(
        100, 0.001, 1e6, "what a node receives, megabits per second", IGNORED
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """What happens at random: probabilities per node and round unless the key says otherwise.

    Only the simulator draws.
    """

    leave: float = keys.share(0, "leaves with a goodbye")
    crash: float = keys.share(0, "dies; its disk keeps what was written")
    power_cut: float = keys.share(0, "dies and loses what was not synced to disk")
    return_after: tuple[int, int] = keys.span(
        (1, 8), 1, ROUNDS_MAX, "rounds until one that left or died starts again"
    )
    join: float = keys.share(
        0, "per present node: a new one comes, in the place of one that is away"
    )
    cut: float = keys.share(0, "per round: a cut begins, two-way, one-way or partial")
    cut_rounds: tuple[int, int] = keys.span((2, 12), 1, ROUNDS_MAX, "rounds until it heals")
    slow: float = keys.share(0, "share of nodes that are slow")
    clock_ms: float = keys.number(0, 0, 1e9, "clock offset of every node, at most")
    drift_ppm: float = keys.number(0, 0, 1e6, "clock drift of every node, at most")
    wrong_clock: float = keys.share(0, "its clock steps by seconds")
    full_disk: float = keys.share(
        0, "its disk is full: it ends, and is started again when there is room"
    )
    trainer_dies: float = keys.share(0, "its trainer dies")
    mass_leave: float = keys.share(0, "per round: a third of the nodes vanish at once")
    withhold: float = keys.share(0, "announces a payload and does not serve it")
    liars: float = keys.share(0, "share of nodes that are dishonest")
    liar_kinds: tuple[str, ...] = keys.choices_of(LIES, LIES, "the kinds of these, drawn evenly")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One planned event; `every` makes it many (see `Scenario.plan`).

    Who it happens to: `nodes`, or so many drawn by the seed (`count`, `share`). A cut has `sides`,
    or parts those nodes from all others.
    """

    do: Do = keys.choice(Do.KILL, tuple(Do), "what happens")  # noqa: RUF009  a field
    round: int = keys.whole(0, 0, ROUNDS_MAX, "in this round")
    at: float = keys.number(0, 0, 0.999, "how far into the round, 0 is its beginning")
    every: int = keys.whole(0, 0, ROUNDS_MAX, "again every so many rounds; 0 is once")
    until: int = keys.whole(ROUNDS_MAX, 0, ROUNDS_MAX, "no repetition after this round")
    rounds: float = keys.number(
        0, 0, ROUNDS_MAX, "undone after so many rounds; 0 is never, or by another event"
    )
    nodes: tuple[int, ...] = keys.nodes_of("to these; new nodes get the next numbers")
    count: int = keys.whole(0, 0, NODES_MAX, "to so many, drawn by the seed")
    share: float = keys.share(0, "to this part of all that can, drawn by the seed, at least one")
    sides: tuple[tuple[int, ...], ...] = keys.sides_of(
        "cut: these two sides cannot reach each other; who is in neither reaches both"
    )
    one_way: bool = keys.switch("cut: only what the first side sends is lost")
    ms: int = keys.whole(0, -(10**9), 10**9, "clock: how far it steps")
    factor: float = keys.number(4, 1, 1e6, "slow: how many times slower")
    how: str = keys.choice("", LIES, "lie: which kind of dishonesty")

    def count_of(self, able: int) -> int:
        """To how many of so many it happens, or how many join where so many are present."""
        return max(self.count, round(self.share * able), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """What the run comes to, beside what must hold in every run; asked at its end.

    Of a chain: the one that most honest nodes end on.
    """

    records: float = keys.share(0, "at least this share of rounds has a record", IGNORED)
    included: float = keys.share(
        0, "at least this share of what honest nodes announced is in a record of its round", IGNORED
    )
    by_liars: float = keys.share(1, "at most this share of records is by liars", IGNORED)
    members: int = keys.whole(0, 0, NODES_MAX, "at least so many honest nodes are members", IGNORED)
    final_lag: int | None = keys.whole(
        None, 0, ROUNDS_MAX, "at most so many records are not final", IGNORED
    )
    clock_ms: int | None = keys.whole(
        None, 0, 10**9, "an honest node's clock is off by no more", IGNORED
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """The whole file. What is not in it has these defaults: links of homes, and no faults."""

    name: str = keys.text("", "what reports call it")
    nodes: int = keys.whole(8, 1, NODES_MAX, "at genesis; --nodes overrides")
    rounds: int = keys.whole(20, 1, ROUNDS_MAX, "how many; --rounds overrides")
    seed: int = keys.whole(0, 0, SEED_MAX, "of all that is drawn; --seed overrides")
    round_seconds: float = keys.number(10, 0.5, 3_600, "length of a round")
    contributors: int | None = keys.whole(
        None, 0, CONTRIBUTORS_MAX, "the manifest's, 0 is every member; --contributors overrides"
    )
    learner: str = keys.choice(
        "modelled", LEARNERS, "what trainers compute; --learner overrides", "always real"
    )
    from_genesis: bool = keys.switch(
        "nobody is a member at first; else all nodes are, as in a run that is under way",
        "always so",
    )
    links: Links = Links()
    mix: Mix = Mix()
    expect: Expect = Expect()
    events: tuple[Event, ...] = ()
    agreement: tuple[tuple[str, int | str], ...] = ()
    """Keys of the manifest's `agreement` that differ from their defaults."""

    def plan(self) -> tuple[Event, ...]:
        """Every event of the run once, in the order in which they happen."""
        return tuple(event for _, event in self.number_plan())

    def number_plan(self) -> tuple[tuple[int, Event], ...]:
        """The same, each with its number in the file, from 1: its repetitions have one number."""
        planned = [
            (number, replace(event, round=round_, every=0, until=ROUNDS_MAX))
            for number, event in enumerate(self.events, 1)
            for round_ in _list_rounds(event, self.rounds)
        ]
        # Stable: of one moment, those first that are first in the file.
        return tuple(sorted(planned, key=lambda planned: (planned[1].round, planned[1].at)))

    def adjust(self, agreement: Agreement) -> Agreement:
        """A manifest's agreement as this scenario wants it; the manifest's validation judges it."""
        changed: dict[str, Any] = dict(self.agreement)
        if self.contributors is not None:
            changed["contributors"] = self.contributors
        return replace(agreement, **changed)


def _list_rounds(event: Event, rounds: int) -> range:
    end = min(event.until + 1, rounds)
    return range(
        event.round, end if event.every else min(event.round + 1, rounds), event.every or 1
    )


def choose(event: Event, index: int, seed: int, able: Sequence[int]) -> tuple[int, ...]:
    """Whom event `index` of the plan happens to, of those it can happen to (`able`, ascending).

    Named nodes that it cannot happen to are left out. Equal arguments give equal nodes.
    """
    if event.nodes:
        return tuple(node for node in event.nodes if node in able)
    count = min(event.count_of(len(able)), len(able))
    drawn = random.Random(f"{seed}/{index}").sample(able, count)
    return tuple(sorted(drawn))


def split(
    event: Event, chosen: Sequence[int], everybody: Sequence[int]
) -> tuple[frozenset[int], frozenset[int]]:
    """The two sides of a cut: those named, or whom it was chosen for against all others."""
    if event.sides:
        left, right = event.sides
        return frozenset(left), frozenset(right)
    return frozenset(chosen), frozenset(everybody).difference(chosen)


def read_scenario(path: Path) -> Scenario:
    """Raises ConfigError: one line with the file, the key and what is wanted."""
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a scenario file") from None
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigError(f"{path}: more than {FILE_BYTES_MAX} bytes, this is no scenario file")
    try:
        return parse_scenario(raw.decode())
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not text in UTF-8; save it as that") from None
    except RecursionError:
        raise ConfigError(f"{path}: lists in lists without end, this is no scenario file") from None
    except ValueError as error:  # TOML's own too
        raise ConfigError(f"{path}: {error}") from None


def parse_scenario(source: str) -> Scenario:
    """Raises ValueError: one line without the file's name."""
    tree = tomllib.loads(source)
    tables = {name: tree.pop(name, {}) for name in ("links", "mix", "expect", "agreement")}
    events = tree.pop("event", [])
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ValueError(f"{name} is not a table; write [{name}] above its keys")
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise ValueError("event is not a list of tables; write [[event]] above each one's keys")
    for name in tree:
        if name not in keys.get_keys(Scenario):
            known = [*keys.get_keys(Scenario), *(f"[{table}]" for table in tables), "[[event]]"]
            raise ValueError(f"unknown key {name}{keys.suggest(name, known)}")
    scenario = Scenario(
        **keys.read_table(Scenario, tree, ""),
        links=Links(**keys.read_table(Links, tables["links"], "links.")),
        mix=Mix(**keys.read_table(Mix, tables["mix"], "mix.")),
        expect=Expect(**keys.read_table(Expect, tables["expect"], "expect.")),
        events=tuple(_read_event(event, number) for number, event in enumerate(events, 1)),
        agreement=_read_agreement(tables["agreement"]),
    )
    if sum(len(_list_rounds(event, scenario.rounds)) for event in scenario.events) > EVENTS_MAX:
        raise ValueError(f"more than {EVENTS_MAX} events; give fewer, or a longer `every`")
    return scenario


def _read_event(tree: Mapping[str, object], number: int) -> Event:
    where = f"event {number}: "
    for required in REQUIRED:
        if required not in tree:
            raise ValueError(f"{where}{required} is missing")
    values = keys.read_table(Event, tree, where)
    event = Event(**{**values, "do": Do(values["do"])})
    if fault := _find_event_fault(event, set(values)):
        raise ValueError(f"{where}{fault}")
    return event


def _find_event_fault(event: Event, given: set[str]) -> str:
    """Keys that do not go together, in a few words."""
    whom = given & {"nodes", "count", "share", "sides"}
    if len(whom) > 1:
        return f"{' and '.join(sorted(whom))}: give one of them"
    for name, owner in (("sides", Do.CUT), ("one_way", Do.CUT), ("ms", Do.CLOCK)):
        if name in given and event.do is not owner:
            return f"{name} is for do = {owner.value!r}"
    for name, owner in (("factor", Do.SLOW), ("how", Do.LIE)):
        if name in given and event.do is not owner:
            return f"{name} is for do = {owner.value!r}"
    if "rounds" in given and event.do not in LASTING:
        return f"rounds: {event.do.value} is not undone"
    if event.do is Do.HEAL and whom:
        return f"{min(whom)}: heal ends every cut; let `rounds` of a cut end only that one"
    if event.do is Do.JOIN and "nodes" in given:
        return "nodes: a new node gets the next number; say how many by count"
    if event.do is Do.CLOCK and "ms" not in given:
        return "ms is missing: how far the clock steps"
    if event.do is Do.LIE and "how" not in given:
        return f"how is missing: one of {', '.join(LIES)}"
    if "until" in given and "every" not in given:
        return "until is for events with every"
    return ""


def _read_agreement(tree: Mapping[str, object]) -> tuple[tuple[str, int | str], ...]:
    defaults = {field.name: field.default for field in fields(Agreement)}
    known = [name for name in defaults if name != "contributors"]
    read: list[tuple[str, int | str]] = []
    for name, raw in tree.items():
        if name == "contributors":
            raise ValueError("agreement.contributors: write contributors above all tables")
        if name not in known:
            raise ValueError(f"unknown key agreement.{name}{keys.suggest(name, known)}")
        if type(raw) is not type(defaults[name]):
            wanted = "a whole number" if isinstance(defaults[name], int) else "a text"
            raise ValueError(f"agreement.{name}: {keys.show(raw)} is not {wanted}")
        assert isinstance(raw, int | str)
        read.append((name, raw))
    return tuple(sorted(read))


def standard_mix() -> Scenario:
    """Everything at once, as bad as it may be: the simulator's default."""
    return Scenario(
        name="full mix",
        nodes=100,
        rounds=200,
        links=Links(loss=0.01, duplicate=0.01, reorder=0.01),
        mix=Mix(
            leave=0.01,
            crash=0.02,
            power_cut=0.01,
            join=0.01,
            cut=0.02,
            slow=0.05,
            clock_ms=80,
            drift_ppm=50,
            wrong_clock=0.01,
            full_disk=0.002,
            trainer_dies=0.005,
            mass_leave=0.002,
            liars=0.2,
        ),
        events=(
            # What no probability of the mix is for: nodes that hang, and those away for very long.
            Event(do=Do.STOP, round=4, at=0.4, every=10, count=2, rounds=1.5),
            Event(do=Do.KILL, round=10, every=40, count=2, rounds=30),
        ),
    )


def churn(rate: float = 0.05) -> Scenario:
    """Standard churn: this part of the nodes leave or crash per round, as many join or return."""
    return Scenario(
        name="churn",
        mix=Mix(leave=rate / 2, crash=rate / 2, join=rate / 2, return_after=(1, 8)),
    )
