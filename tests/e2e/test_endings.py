"""A run that has a last round, and the run that goes on from what it came to.

One story: two rounds after its end the old run is joined once more; then a new run begins from its
last snapshot with another learning rate, and somebody joins that.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo_node.store.datadir import DataDir
from demo_node.views import NodeState, StatusView
from demo_protocol.manifest import Manifest, compute_run_id, decode_manifest
from tests.cli.command import demo_node
from tests.e2e.nodes import ROUND_S, RunningNode, make_run, started

pytestmark = [pytest.mark.swarm, pytest.mark.slow, pytest.mark.timeout(300)]

ROUNDS = 6
LEARNING_RATE = "0.0025"

GENESIS = "+20"
"""Seconds from `init` to round 0: two nodes are up by then."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The old run when it was over: its node, one that came later, and the last snapshot."""

    first: StatusView
    late: StatusView
    snapshot: Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("endings")


@pytest.fixture(scope="module")
def ending(folder: Path) -> Ending:
    make_run(folder / "old", "--rounds", str(ROUNDS), "--genesis", GENESIS)
    with started(folder / "old") as first:
        ended = first.wait_for_status(
            lambda status: (
                status.state is NodeState.FINISHED and status.snapshot_record == status.head
            )
        )
        with started(folder / "late", *first.invitation()) as late:
            joined = late.wait_for_status(
                lambda status: status.state is NodeState.FINISHED and status.head == ended.head
            )
    return Ending(ended, joined, Path(ended.snapshot_path))


@pytest.fixture(scope="module")
def opener(folder: Path, ending: Ending) -> Iterator[RunningNode]:
    """Somebody who goes on from the old run's last record with another learning rate."""
    flags = ("--from", str(ending.snapshot), "--learning-rate", LEARNING_RATE)
    make_run(folder / "new", *flags, "--genesis", GENESIS)
    with started(folder / "new") as node:
        yield node


@pytest.fixture(scope="module")
def joiner(folder: Path, opener: RunningNode) -> Iterator[RunningNode]:
    with started(folder / "joiner", *opener.invitation()) as node:
        yield node


def read_manifest(folder: Path) -> Manifest:
    return decode_manifest(DataDir(folder).manifest.read_bytes())


def test_a_run_ends_and_its_node_stays(ending: Ending) -> None:
    assert ending.first.detail == f"the run has had its {ROUNDS} rounds"
    assert ending.first.rounds_total == ROUNDS
    assert 0 < ending.first.height <= ROUNDS
    assert ending.first.head_round < ROUNDS


def test_the_last_record_is_kept_without_being_asked(ending: Ending) -> None:
    assert ending.snapshot.name.startswith(f"{ending.first.head_round}-")


def test_who_joins_after_the_end_still_gets_what_it_came_to(ending: Ending) -> None:
    assert ending.late.digest == ending.first.digest
    assert ending.late.height == ending.first.height


def test_a_new_run_begins_where_the_old_one_ended(
    folder: Path, ending: Ending, opener: RunningNode, joiner: RunningNode
) -> None:
    manifest, old = read_manifest(folder / "new"), read_manifest(folder / "old")
    assert manifest.learning.lr_ppb == 2_500_000 != old.learning.lr_ppb
    assert compute_run_id(manifest) != compute_run_id(old)
    for node in (opener, joiner):
        begun = node.wait_for_status(
            lambda status: (
                status.state in (NodeState.WAITING, NodeState.ACTIVE) and status.parameters
            )
        )
        assert begun.height == 0, "both were up before genesis"
        assert begun.digest == ending.first.digest
    files = [DataDir(node.datadir).initial.read_bytes() for node in (opener, joiner)]
    assert files == [ending.snapshot.read_bytes()] * 2


def test_both_go_on_from_there_alike(opener: RunningNode, joiner: RunningNode) -> None:
    deadline_s = 40 * ROUND_S
    joiner.wait_for_rounds(lambda rounds: any(view.included for view in rounds), deadline_s)
    theirs = {view.record: view.digest for view in joiner.rounds() if view.record}
    ours = opener.wait_for_rounds(
        lambda rounds: theirs.keys() <= {view.record for view in rounds}, deadline_s
    )
    digests = {view.record: view.digest for view in ours}
    assert {record: digests[record] for record in theirs} == theirs
    assert opener.status().height >= len(theirs) > 0


def test_the_runs_of_this_machine_are_listed(
    folder: Path, opener: RunningNode, joiner: RunningNode
) -> None:
    done = demo_node("runs", "--json")
    assert done.returncode == 0, done.stderr
    found = {Path(run["datadir"]): run for run in json.loads(done.stdout)["runs"]}
    states = {name: found[folder / name]["state"] for name in ("old", "late", "new", "joiner")}
    assert states["old"] == states["late"] == "stopped"
    assert states["new"] == opener.status().state
    assert states["joiner"] == joiner.status().state
    assert found[folder / "new"]["run_id"] == found[folder / "joiner"]["run_id"]


def test_a_pause_ends_training_and_a_resume_begins_it_again(opener: RunningNode) -> None:
    opener.wait_until_active()
    assert demo_node("pause", "--datadir", opener.datadir).returncode == 0
    paused = opener.wait_for_status(lambda status: status.state is NodeState.PAUSED)
    idle = opener.wait_for_rounds(
        lambda rounds: rounds[-1].round > paused.round and rounds[-1].record, 40 * ROUND_S
    )[-1]
    assert (idle.samples, idle.payload_bytes) == (0, 0)
    assert demo_node("resume", "--datadir", opener.datadir).returncode == 0
    opener.wait_for_rounds(
        lambda rounds: rounds[-1].round > idle.round and rounds[-1].included, 40 * ROUND_S
    )
