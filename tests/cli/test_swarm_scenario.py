"""What a scenario does to a swarm's nodes, with processes that do nothing in their place."""

import asyncio
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from demo_node.cli.plan import plan_schedule
from demo_node.cli.swarm.agreeing import Agreeing
from demo_node.cli.swarm.inflicting import Inflicter, Suffered
from demo_node.cli.swarm.node import SwarmNode
from demo_node.cli.swarm.nodes import Swarm, SwarmOptions
from demo_node.cli.swarm.possible import check_scenario
from demo_node.cli.swarm.wires import Wires
from demo_node.sim.scenario import Do, Event, Links, Mix, Scenario
from demo_node.store.datadir import DataDir
from demo_node.views import NodeState
from demo_protocol.errors import ConfigError
from tests.cli.command import demo_node
from tests.cli.test_swarm_processes import idle_node, on_loop, python_node
from tests.control.fake_node import status_view
from tests.e2e.processes import is_stopped
from tests.waiting import wait_until

ROUND_MS = 200


@dataclass
class IdleSwarm:
    """As much of `Swarm` as events touch."""

    nodes: list[SwarmNode]
    wires: Wires = field(default_factory=lambda: Wires(lambda asked: {}))
    folder: Path = Path()
    joining: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def join(self) -> SwarmNode:
        async with self.joining:
            node = await idle_node(self.folder, len(self.nodes))
            self.nodes.append(node)
        return node


class Stage:
    """An inflicter at work on some idle nodes."""

    def __init__(self, folder: Path, nodes: list[SwarmNode]) -> None:
        self.swarm = IdleSwarm(nodes, folder=folder)
        self.agreeing = Agreeing()
        self.said: list[str] = []
        schedule = plan_schedule(time.time_ns() // 1_000_000, ROUND_MS)
        self.inflicter = Inflicter(
            cast("Swarm", self.swarm), schedule, self.agreeing, self.said.append
        )

    async def play(self, *events: Event, until_all_took_part: Sequence[int] = ()) -> None:
        """To the end of the last event; these nodes take part as soon as they have begun again."""
        task = asyncio.create_task(self.inflicter.run(events, seed=0))
        if until_all_took_part:
            await wait_until(
                lambda: all(len(self.swarm.nodes[n].lives) > 1 for n in until_all_took_part)
            )
        for number in until_all_took_part:
            self.swarm.nodes[number].life.took_part = True
        async with asyncio.timeout(20):
            await task

    def suffered(self, do: Do) -> list[Suffered]:
        return [event for event in self.inflicter.suffered if event.do is do]

    async def end(self) -> None:
        for node in self.swarm.nodes:
            if node.process.returncode is None:
                node.process.kill()
            await node.process.wait()


async def stage(folder: Path, count: int) -> Stage:
    return Stage(folder, [await idle_node(folder, index) for index in range(count)])


def event(do: Do, round_: int = 0, **changes: Any) -> Event:
    return replace(Event(do=do, round=round_), **changes)


@on_loop
async def test_a_killed_node_stays_dead_until_an_event_starts_it(tmp_path: Path) -> None:
    made = await stage(tmp_path, 2)
    kill, restart = event(Do.KILL, nodes=(1,)), event(Do.RESTART, 2, nodes=(0, 1))
    await made.play(kill)
    zero, one = made.swarm.nodes
    assert (zero.away, one.away) == ("", "killed")
    assert one.process.returncode == -signal.SIGKILL
    await made.play(restart, until_all_took_part=[1])
    assert (len(zero.lives), len(one.lives), one.away) == (1, 2, "")  # 0 was not dead
    (killed,) = made.suffered(Do.KILL)
    assert killed.node == 1
    assert killed.back_s is not None
    assert killed.back_s >= ROUND_MS / 1000
    await made.end()


@on_loop
async def test_what_has_a_length_undoes_itself(tmp_path: Path) -> None:
    made = await stage(tmp_path, 3)
    await made.play(
        event(Do.KILL, nodes=(0,), rounds=1.0),
        event(Do.STOP, nodes=(1,), rounds=1.0),
        event(Do.CUT, nodes=(2,), rounds=1.0),
        until_all_took_part=[0],
    )
    assert [node.away for node in made.swarm.nodes] == ["", "", ""]
    assert not is_stopped(made.swarm.nodes[1].pid)
    assert made.swarm.wires.cuts == []
    assert all(e.back_s is not None and e.back_s >= 0.2 for e in made.inflicter.suffered)
    assert len(made.inflicter.suffered) == 3
    await made.end()


@on_loop
async def test_a_stopped_node_goes_on_when_it_is_told_to(tmp_path: Path) -> None:
    made = await stage(tmp_path, 2)
    await made.play(event(Do.STOP, nodes=(1,)))
    await wait_until(lambda: is_stopped(made.swarm.nodes[1].pid))
    assert made.swarm.nodes[1].away == "stopped"
    await made.play(event(Do.KILL, count=5))  # only who runs can be killed
    assert [node.away for node in made.swarm.nodes] == ["killed", "stopped"]
    await made.play(event(Do.CONTINUE, 1, count=5))
    await wait_until(lambda: not is_stopped(made.swarm.nodes[1].pid))
    assert made.suffered(Do.STOP)[0].back_s is not None
    await made.end()


@on_loop
async def test_a_node_that_is_starting_its_trainer_loses_it_when_it_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await stage(tmp_path, 2)
    node, other = made.swarm.nodes
    pids = iter([0, 0, other.pid, node.pid, node.pid, node.pid, 77])

    async def look(self: SwarmNode) -> None:
        self.life.look(status_view(pid=self.pid, trainer_pid=next(pids)), [])

    monkeypatch.setattr(SwarmNode, "refresh", look)
    await made.play(event(Do.TRAINER_DIES, nodes=(0,)))
    await node.process.wait()  # in a group of its own, it passes for its trainer
    assert node.process.returncode == -signal.SIGKILL
    assert other.process.returncode is None
    (event_,) = made.suffered(Do.TRAINER_DIES)
    assert event_.back_s is not None
    assert next(pids, None) is None
    await made.end()


@on_loop
async def test_cuts_stand_until_the_heal_and_only_the_last_one_counts(tmp_path: Path) -> None:
    made = await stage(tmp_path, 4)
    wires = made.swarm.wires
    await made.play(
        event(Do.CUT, sides=((0,), (1, 2)), one_way=True), event(Do.CUT, nodes=(3,), rounds=0.5)
    )
    assert not wires.is_open(0, 1)
    assert wires.is_open(1, 0)
    assert wires.is_open(3, 0)  # that one has healed
    assert made.agreeing.heals == []  # and the other one has not
    await made.play(event(Do.HEAL, 1))
    assert wires.is_open(0, 1)
    (heal,) = made.agreeing.heals
    assert heal.agreed_s is None
    assert "cut one way, from node 0 to nodes 1, 2" in made.said[0]
    assert "cut between node 3 and nodes 0, 1, 2" in made.said[1]
    await made.end()


@on_loop
async def test_who_leaves_may_come_back(tmp_path: Path) -> None:
    code = "import signal, sys; signal.signal(15, lambda *_: sys.exit()); print('up', flush=True);"
    made = Stage(tmp_path, [await python_node(tmp_path, code + "signal.pause()", index=0)])
    await made.play(event(Do.LEAVE))
    (node,) = made.swarm.nodes
    assert (node.away, node.process.returncode) == ("left", 0)
    assert made.suffered(Do.LEAVE)[0].back_s is None
    await made.play(event(Do.RESTART, 1), until_all_took_part=[0])
    assert node.away == ""
    assert made.suffered(Do.LEAVE)[0].back_s is not None
    await made.end()


@on_loop
async def test_as_many_new_nodes_come_as_it_says(tmp_path: Path) -> None:
    made = await stage(tmp_path, 1)
    task = asyncio.create_task(made.inflicter.run([event(Do.JOIN, count=2)], seed=0))
    await wait_until(lambda: len(made.swarm.nodes) == 3)
    for node in made.swarm.nodes:
        node.life.took_part = True
    async with asyncio.timeout(20):
        await task
    assert [e.node for e in made.suffered(Do.JOIN)] == [1, 2]
    assert all(e.back_s is not None for e in made.suffered(Do.JOIN))
    await made.end()


@on_loop
async def test_nobody_suffers_what_nobody_can(tmp_path: Path) -> None:
    made = await stage(tmp_path, 1)
    await made.play(
        event(Do.RESTART), event(Do.CONTINUE), event(Do.HEAL), event(Do.CLOCK), event(Do.LIE)
    )
    assert made.inflicter.suffered == []
    assert [line.split(": ")[1] for line in made.said] == [
        "nobody is there for restart",
        "nobody is there for continue",
    ]
    await made.end()


def listening(head: bytes, state: NodeState = NodeState.ACTIVE, away: str = "") -> SwarmNode:
    node = SwarmNode(0, DataDir(Path()), "", (), Path(), cast("Any", NoProcess()), "", away=away)
    node.life.look(status_view(head=head, state=state), [])
    return node


class NoProcess:
    pid = 1


def test_nodes_agree_when_all_that_take_part_have_one_head() -> None:
    agreeing = Agreeing()
    one, other = listening(b"a"), listening(b"b")
    aside = [listening(b"c", NodeState.SYNCING), listening(b"d", away="stopped")]
    agreeing.look([one, one])
    assert agreeing.heals == []  # nothing was cut
    agreeing.on_heal(7)
    agreeing.look([one, other])
    agreeing.look(aside)  # nobody there says anything
    assert agreeing.heals[0].agreed_s is None
    agreeing.look([one, one, *aside])
    agreed_s = agreeing.heals[0].agreed_s
    assert agreed_s is not None
    agreeing.look([one, other])
    agreeing.on_cut()
    assert agreeing.heals[0].agreed_s == agreed_s  # once is enough


def test_a_heal_that_the_next_cut_leaves_no_time_for_does_not_count() -> None:
    agreeing = Agreeing()
    agreeing.on_heal(7)
    agreeing.on_cut()
    assert agreeing.heals == []


def options(scenario: Scenario) -> SwarmOptions:
    return SwarmOptions(scenario=scenario, is_wired=True, preset="tiny", device="cpu")


def test_what_cannot_happen_to_real_nodes_is_named_a_line_each() -> None:
    assert check_scenario(options(Scenario(links=Links(latency_ms=5, jitter_ms=5)))) == []
    lines = check_scenario(
        options(
            Scenario(
                links=Links(loss=0.1, up_mbit=1),
                mix=Mix(liars=0.2),
                events=(
                    event(Do.LIE),
                    event(Do.LIE),
                    event(Do.CLOCK),
                    event(Do.POWER_CUT, round=20),
                ),
            )
        )
    )
    assert [line.split(" is ignored")[0].split(" only")[0] for line in lines] == [
        "links.loss",
        "links.up_mbit",
        "mix",
        "event 4: there is no round 20, the last one is 19",
        "lie",
        "clock",
        "power_cut",
    ]
    assert not any("\n" in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"nodes": 65}, "65 real nodes are too many; --nodes 64 at most"),
        ({"rounds": 9_001}, "9001 rounds are too many; --rounds 9000 at most"),
        ({"agreement": (("final_depth", 0),)}, "final_depth"),
    ],
)
def test_a_scenario_that_real_nodes_cannot_play_is_refused(
    changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(ConfigError, match=line):
        check_scenario(options(replace(Scenario(), **changes)))


@pytest.mark.parametrize(
    ("arguments", "content", "code", "line"),
    [
        ((), 'event = "x"', 78, "event is not a list of tables"),
        ((), "nodes = 70", 78, "70 real nodes are too many"),
        (("--kill-every", "9"), "", 2, "--kill-every and --scenario: choose one"),
    ],
)
def test_a_scenario_that_is_refused_is_one_line(
    tmp_path: Path, arguments: Sequence[str], content: str, code: int, line: str
) -> None:
    path = tmp_path / "s.toml"
    path.write_text(content)
    done = demo_node("swarm", "--scenario", str(path), *arguments)
    assert done.returncode == code
    assert line in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
