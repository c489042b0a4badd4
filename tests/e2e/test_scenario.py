"""A scenario file happens to eight real nodes, and they come through it."""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil  # type: ignore[import-untyped]
import pytest

from demo_node.cli.swarm.wires import relay_host
from demo_node.sim.scenario import Do, read_scenario
from demo_protocol.messages import Proposal, decode_header, decode_proposal
from tests.e2e.audit import read_books, read_signed
from tests.e2e.nodes import CALMLY
from tests.e2e.processes import find_processes, nothing_left
from tests.e2e.swarm_run import watch_swarm

FILE: Final = Path(__file__).parents[1] / "scenarios/cut-and-heal.toml"
SCENARIO: Final = read_scenario(FILE)

# 20 rounds of 4 s, and starting and stopping eight nodes: 150 s in the first test's fixture.
pytestmark = [pytest.mark.swarm, pytest.mark.slow, pytest.mark.timeout(300)]


@dataclass(slots=True)
class Played:
    """What a scenario left. `talked`: hosts that nodes had TCP connections with meanwhile."""

    folder: Path
    exit_code: int | None = None
    document: Mapping[str, Any] = field(default_factory=dict)
    stderr: str = ""
    talked: set[str] = field(default_factory=set)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    run = Played(tmp_path_factory.mktemp("scenario"))

    def look() -> None:
        run.talked |= set().union(*map(find_hosts, find_processes(run.folder)))

    with nothing_left(run.folder):
        run.exit_code = watch_swarm(run.folder, ("--scenario", str(FILE), *CALMLY), look)
        run.stderr = (run.folder / "stderr").read_text()
        printed = (run.folder / "stdout").read_text()
        assert printed, run.stderr
        run.document = json.loads(printed.splitlines()[-1])
        yield run


def find_hosts(pid: int) -> set[str]:
    """With which hosts a node has TCP connections; nothing for other processes of the swarm."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if "start" in process.cmdline():
            found = process.net_connections(kind="tcp4")
            return {c.raddr.ip for c in found if c.status == "ESTABLISHED" and c.raddr}
    return set()


def test_all_nodes_agree_after_every_heal_and_at_the_end(played: Played) -> None:
    assert played.exit_code == 0, played.stderr
    document = played.document
    assert document["digests_equal"] is True
    assert document["nodes"] == document["nodes_started"] == SCENARIO.nodes + 1
    limit_s = 4 * SCENARIO.round_seconds  # final_depth rounds
    assert document["heals"]
    assert all(heal["agreed_s"] <= limit_s for heal in document["heals"])


def test_every_event_of_the_file_happened(played: Played) -> None:
    document = played.document
    plan = SCENARIO.plan()
    suffered = [event for event in plan if event.do is not Do.HEAL]
    told = [(fault["round"], fault["kind"]) for fault in document["faults"]]
    assert told == [(event.round, event.do) for event in suffered]
    wanted = Counter(event.do for event in plan)
    assert document["kills"] == wanted[Do.KILL] + wanted[Do.TRAINER_DIES]
    assert document["stalls"] == wanted[Do.STOP]
    assert document["leaves"] == wanted[Do.LEAVE]
    assert document["cuts"] == wanted[Do.CUT]
    # Who was killed or left came back, and the new one came.
    assert document["joins"] == wanted[Do.KILL] + wanted[Do.LEAVE] + wanted[Do.JOIN]
    assert all(fault["back_s"] is not None for fault in document["faults"])
    for line in (
        "node 2 killed (SIGKILL), back in 4 s",
        "node 6 stopped (SIGSTOP) for 8 s",
        "node 8 is new",
        "cut between nodes 0, 1, 2, 3, 4, 8 and nodes 5, 6, 7",
        "node 1 has left",
        "node 4 lost its trainer (SIGKILL)",
        "cut one way, from node 0 to nodes 1, 2, 3",
    ):
        assert re.search(rf"^round \d+: {re.escape(line)}", played.stderr, re.M), line


def test_each_side_of_the_cut_made_records_and_the_smaller_one_went_back(played: Played) -> None:
    """Rule 12: in the third round without a record everybody has a slot, in the second four have.

    So the three make a record before the heal, and the others one that most have voted for by then.
    """
    cut = next(event for event in SCENARIO.plan() if event.do is Do.CUT)
    rounds = range(cut.round, cut.round + int(cut.rounds))
    books = read_books(played.folder / "nodes/node0")
    newest = max(books.chain.records.values(), key=lambda record: record.round)
    kept = {record.hash for record in books.path_to(newest.hash)}
    larger, smaller = (find_signed(played.folder, side, rounds, books.run_id) for side in cut.sides)
    assert kept & larger.proposals.keys()
    assert smaller.proposals
    assert not kept & smaller.proposals.keys()
    for side in (
        larger,
        smaller,
    ):  # nothing came from the other one, not in a roundabout way either
        for proposal in side.proposals.values():
            assert side.headers.issuperset(proposal.contributions)
    assert played.document["rollbacks"] > 0
    assert played.document["held"] > 0


@dataclass(slots=True)
class Signed:
    """What some nodes signed in some rounds: hashes of headers; proposals, by hash."""

    headers: set[bytes] = field(default_factory=set)
    proposals: dict[bytes, Proposal] = field(default_factory=dict)


def find_signed(folder: Path, nodes: Iterable[int], rounds: range, run_id: bytes) -> Signed:
    found = Signed()
    for node in nodes:
        for kind, round_, raw in read_signed(folder / f"nodes/node{node}"):
            if round_ in rounds and kind == "header":
                found.headers.add(decode_header(raw, run_id).hash)
            elif round_ in rounds and kind == "proposal":
                sealed = decode_proposal(raw, run_id)
                found.proposals[sealed.hash] = sealed.body
    return found


def test_who_came_late_or_again_did_the_rounds_again(played: Played) -> None:
    """The new node at least: it comes before there is a snapshot that it could take (rule 21)."""
    told = re.findall(r"takes part (?:again )?after .* (\d+) rounds replayed", played.stderr)
    assert played.document["replayed_rounds"] >= sum(map(int, told)) > 0


def test_no_connection_led_around_the_wires(played: Played) -> None:
    """A node sees relays only, whoever dialled: so it cannot tell others of anything else."""
    assert played.talked == {relay_host(node) for node in range(SCENARIO.nodes + 1)}


def test_no_node_ended_badly_or_is_left(played: Played) -> None:
    for log in (played.folder / "nodes").glob("node*/node.log"):
        assert "Traceback" not in log.read_text(), log
    assert not find_processes(played.folder)
