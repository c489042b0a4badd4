"""A run by hand: one volunteer opens it, another pastes a line, leaves, comes back, crashes.

One story, told by fixtures; each test looks at one part of it.
"""

import json
import os
import shutil
import signal
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from demo_node.stopping import ONE_REQUEST_S
from demo_node.store.corpus import compute_corpus_path, load_corpus
from demo_node.store.datadir import DataDir
from demo_node.store.disk import FileDisk
from demo_node.store.stdlib import build_stdlib_corpus
from demo_node.views import NodeState, Phase, RoundView
from demo_protocol.manifest import Agreement, Manifest, decode_manifest
from tests.cli.command import demo_node
from tests.e2e.audit import read_chain, read_signed
from tests.e2e.nodes import LOCAL, ROUND_S, RunningNode, make_run, started
from tests.e2e.processes import find_processes, is_alive, is_stopped
from tests.waiting import wait_until_sync

pytestmark = [pytest.mark.swarm, pytest.mark.slow, pytest.mark.timeout(300)]


SNAPSHOT_EVERY = Agreement().snapshot_every


@dataclass(frozen=True, slots=True)
class Departure:
    """How the second node left."""

    exit_code: int
    took_s: float
    head_round: int
    snapshot_round: int
    included: int


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("by-hand")


@pytest.fixture(scope="module")
def first(folder: Path) -> Iterator[RunningNode]:
    """Somebody who opened a run, has trained alone for a while and holds a snapshot."""
    # As if it had been running for a minute: joiners are too far behind to replay everything.
    past = datetime.now(UTC) - timedelta(seconds=30 * ROUND_S)
    make_run(folder / "first", "--preset", "tiny", "--genesis", past.isoformat())
    with started(folder / "first") as node:
        node.wait_for_rounds(is_included)
        node.ask(lambda client: client.save_snapshot())
        # Joiners are given one whose root is in a record (rule 21), with a few more built on it.
        node.wait_for_status(lambda status: status.height >= SNAPSHOT_EVERY + 3)
        yield node


@pytest.fixture(scope="module")
def second(folder: Path, first: RunningNode, figures: dict[str, str]) -> Iterator[RunningNode]:
    """Somebody who pasted the line and whose contribution was counted."""
    begin_s = time.time()
    with started(folder / "second", *first.invitation()) as node:
        rounds = node.wait_for_rounds(is_included)
        first.wait_for_status(lambda status: status.members == 2)
        counted_s = compute_counted_s(node, rounds)
        figures["seconds from `start --peers` to the first included contribution"] = (
            f"{counted_s - begin_s:.1f} (rounds of {ROUND_S} s)"
        )
        yield node


@pytest.fixture(scope="module")
def departure(first: RunningNode, second: RunningNode) -> Departure:
    """The second node was asked to leave."""
    head_round, included = second.status().head_round, sum(v.included for v in second.rounds())
    begin_s = time.monotonic()
    second.signal(signal.SIGTERM)
    exit_code = second.wait()
    took_s = time.monotonic() - begin_s
    first.wait_for_status(lambda status: status.members == 1)
    snapshots = DataDir(second.datadir).snapshots.glob("*.safetensors")
    snapshot_round = max(int(path.name.partition("-")[0]) for path in snapshots)
    return Departure(exit_code, took_s, head_round, snapshot_round, included)


@pytest.fixture(scope="module")
def returned(folder: Path, first: RunningNode, departure: Departure) -> Iterator[RunningNode]:
    """The second node, started again on its folder; its contributions count again."""
    with started(folder / "second", *first.invitation()) as node:
        node.wait_for_rounds(is_included)
        yield node


@pytest.fixture(scope="module")
def third(folder: Path, first: RunningNode, other_python: dict[str, str]) -> Iterator[RunningNode]:
    """Somebody who has another Python and whose contribution was counted."""
    with started(folder / "third", *first.invitation(), **other_python) as node:
        node.wait_for_rounds(is_included)
        yield node


@pytest.fixture(scope="module")
def other_python(folder: Path) -> dict[str, str]:
    """The environment of a Python whose standard library differs from ours in one byte."""
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    home = folder / "python"
    copy = home / stdlib.relative_to(sys.base_prefix)
    left_out = shutil.ignore_patterns("site-packages", "dist-packages", "test", "__pycache__")
    shutil.copytree(stdlib, copy, copy_function=os.symlink, ignore=left_out)
    source = (stdlib / "this.py").read_bytes()
    (copy / "this.py").unlink()
    (copy / "this.py").write_bytes(source.replace(b"Mra", b"Mrb", 1))
    others = [p for p in sys.path if p and not Path(p).is_relative_to(stdlib)]
    others.append(sysconfig.get_paths()["purelib"])
    return {"PYTHONHOME": str(home), "PYTHONPATH": os.pathsep.join(dict.fromkeys(others))}


def is_included(rounds: Sequence[RoundView]) -> bool:
    return any(view.included and view.payload_bytes for view in rounds)


def compute_counted_s(node: RunningNode, rounds: Sequence[RoundView]) -> float:
    """When the node applied the first record with its contribution, in seconds since 1970."""
    status = node.status()
    counted = next(view for view in rounds if view.included and view.payload_bytes)
    return (status.genesis_ms + counted.round * status.round_ms + counted.latency_ms) / 1000


def ask_in_json(node: RunningNode, command: str) -> Any:
    done = demo_node(command, "--datadir", node.datadir, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def first_parents(node: RunningNode) -> set[bytes]:
    """Records that the chain log builds on without holding them: one, if it has no gap."""
    entries = read_chain(node.datadir)
    return {entry.parent for entry in entries} - {entry.record for entry in entries}


def read_manifest(node: RunningNode) -> Manifest:
    return decode_manifest(DataDir(node.datadir).manifest.read_bytes())


def freeze_trainer(node: RunningNode) -> int:
    """Stop the trainer, when a last snapshot would still be needed: its node takes long to leave.

    Returns its pid.
    """
    status = node.wait_for_status(
        lambda status: status.phase is Phase.TRAIN and status.head != status.snapshot_record
    )
    os.kill(status.trainer_pid, signal.SIGSTOP)
    wait_until_sync(lambda: is_stopped(status.trainer_pid))
    return status.trainer_pid


def test_the_pasted_line_brings_the_run_to_the_joiner(
    first: RunningNode, second: RunningNode
) -> None:
    assert read_manifest(second) == read_manifest(first)
    assert second.status().run_id == first.status().run_id
    run_id = first.status().run_id.hex()
    assert first.invitation()[-2:] == second.invitation()[-2:] == ["--run-id", run_id]


def test_the_joiner_starts_from_a_snapshot_and_not_from_the_genesis(second: RunningNode) -> None:
    assert '"detail": "snapshot of round ' in second.stderr
    loaded = next(line for line in second.stderr.splitlines() if '"state.loaded"' in line)
    assert json.loads(loaded)["round"] >= 0  # the records before it come later (rule 18)


def test_both_count_the_same_contributions(first: RunningNode, second: RunningNode) -> None:
    wanted = next(view for view in second.rounds() if view.included)
    first.wait_for_rounds(lambda rounds: rounds[-1].round >= wanted.round)
    by_round = {view.round: view for view in first.rounds()}
    assert by_round[wanted.round].record == wanted.record
    assert by_round[wanted.round].participants == wanted.participants == 2
    assert first.status().members == 2


def test_the_commands_agree_on_both_nodes(first: RunningNode, second: RunningNode) -> None:
    statuses: list[Any] = []

    def at_one_height() -> bool:
        statuses[:] = [ask_in_json(node, "status") for node in (first, second)]
        return bool(statuses[0]["height"] == statuses[1]["height"])

    wait_until_sync(at_one_height, deadline_s=60)
    for key in ("schema", "run_id", "head", "head_round", "digest", "parameters", "members"):
        assert statuses[0][key] == statuses[1][key], key
    rounds = [
        {v["round"]: v for v in ask_in_json(node, "rounds")["rounds"]} for node in (first, second)
    ]
    common = [r for r in rounds[0] if r in rounds[1] and rounds[1][r]["record"]]
    assert common
    for key in ("record", "digest", "participants"):
        assert [rounds[0][r][key] for r in common] == [rounds[1][r][key] for r in common]


def test_the_commands_name_the_other_peer(first: RunningNode, second: RunningNode) -> None:
    for node, other in ((first, second), (second, first)):
        (peer,) = ask_in_json(node, "peers")["peers"]
        assert peer["peer_id"] == ask_in_json(other, "status")["peer_id"]
        assert peer["peer_id"] in demo_node("peers", "--datadir", node.datadir).stdout
    assert "2 members" in demo_node("status", "--datadir", second.datadir).stdout


def test_top_shows_the_other_peer_in_step(first: RunningNode, second: RunningNode) -> None:
    for node, other in ((first, second), (second, first)):
        name = other.status().peer_id

        def is_in_step(node: RunningNode = node, name: str = name) -> bool:
            document = ask_in_json(node, "top")
            peers = {peer["peer_id"]: peer for peer in document["peers"]}
            peer, own = peers[name], peers[document["status"]["peer_id"]]
            is_linked = peer["connected"] and peer["rtt_ms"] > 0
            is_heard = peer["heard_round"] >= 0 and peer["held"] and peer["heard_ms"] > 0
            digests = {peer["digest"], own["digest"]}
            return bool(is_linked and is_heard and digests == {"equal"} and not own["connected"])

        wait_until_sync(is_in_step, deadline_s=60)
        assert f"…{name[-10:]}" in demo_node("top", "--datadir", node.datadir).stdout


@pytest.mark.parametrize("command", ["start", "init"])
def test_nobody_else_may_use_the_folder_of_a_running_node(first: RunningNode, command: str) -> None:
    done = demo_node(command, "--datadir", first.datadir, *(LOCAL if command == "start" else ()))
    assert done.returncode == 73
    pid = first.process.pid
    assert done.stderr == (
        f"demo-node: {first.datadir}: in use by the demo-node with pid {pid};"
        " stop it first or choose another --datadir\n"
    )
    assert first.process.poll() is None


def test_a_peer_that_takes_part_in_another_run_is_refused(folder: Path, first: RunningNode) -> None:
    arguments = first.invitation()
    arguments[-1] = "0" * 64
    with started(folder / "stranger", *arguments) as node:
        assert node.wait() == 76
        assert node.stderr.splitlines()[-1].startswith(
            f"demo-node: the peer takes part in run {first.status().run_id.hex()[:16]}, not in 0000"
        )
        assert not DataDir(node.datadir).manifest.exists()


def test_a_dead_trainer_is_replaced_and_contributes_again(
    first: RunningNode, second: RunningNode
) -> None:
    before = first.status()
    assert is_alive(before.trainer_pid)
    os.kill(before.trainer_pid, signal.SIGKILL)
    after = first.wait_for_status(lambda s: s.trainer_pid not in (0, before.trainer_pid))
    assert is_alive(after.trainer_pid)
    assert not is_alive(before.trainer_pid)
    rounds = first.wait_for_rounds(
        lambda rounds: is_included([view for view in rounds if view.round > after.round])
    )
    counted = next(v for v in rounds if v.round > after.round and v.included)
    assert counted.round <= after.round + 2  # the next one, where the cores are not too busy
    theirs = second.wait_for_rounds(lambda rounds: rounds[-1].round >= counted.round)
    assert [v.digest for v in theirs if v.round == counted.round] == [counted.digest]
    assert first.process.poll() is None
    health = ask_in_json(first, "status")["health"]
    died = next(event for event in health["events"] if event["name"] == "trainer.died")
    assert (died["count"], died["level"]) == (1, "warning")
    assert before.started_ms < died["newest_ms"][0] < health["now_ms"]


def test_what_alerts_are_made_of_is_measured(first: RunningNode, second: RunningNode) -> None:
    for node in (first, second):
        health = ask_in_json(node, "top")["health"]
        assert health["disk_free_bytes"] > 0
        assert health["gossip_links"] == 1
        assert health["records_applied"] > 0
        events = {event["name"] for event in health["events"]}
        assert {"state.changed", "round.closed", "head.changed"} <= events


def test_the_first_signal_leaves_within_a_round_and_ten_seconds(departure: Departure) -> None:
    assert departure.exit_code == 0
    assert departure.took_s < ROUND_S + 10
    assert departure.snapshot_round >= departure.head_round


def test_the_leave_is_on_the_chain(first: RunningNode, departure: Departure) -> None:
    status = first.status()
    assert (status.members, status.candidates) == (1, 0)
    assert status.head_round > departure.head_round


def test_who_left_comes_back_from_its_own_snapshot(
    first: RunningNode, departure: Departure, returned: RunningNode
) -> None:
    assert "fetching a snapshot" not in returned.stderr
    assert '"detail": "replaying: ' in returned.stderr
    assert len(first_parents(returned)) == 1
    views = returned.rounds()
    assert all(0 <= view.latency_ms < 60_000 for view in views)
    assert views[0].round > departure.head_round
    first.wait_for_status(lambda status: status.members == 2)


def test_nothing_is_signed_twice(departure: Departure, returned: RunningNode) -> None:
    signed = read_signed(returned.datadir)
    names = [(kind, round_) for kind, round_, _raw in signed]
    assert len(set(names)) == len(names)
    headers = [round_ for kind, round_, _raw in signed if kind == "header"]
    assert len([r for r in headers if r <= departure.head_round + 1]) >= departure.included
    assert max(headers) > departure.head_round + 1


def test_who_has_another_standard_library_trains_on_the_text_of_the_run(
    first: RunningNode, third: RunningNode
) -> None:
    assert "this Python's library is another text" in third.stderr
    assert "this Python's library is another text" not in first.stderr
    corpus, data = DataDir(third.datadir).corpus, read_manifest(first).data
    kept = load_corpus(FileDisk(), corpus, data)
    assert kept is not None
    assert kept.text == build_stdlib_corpus().text
    assert os.listdir(corpus) == [compute_corpus_path(corpus, data).name]


def test_a_trainer_that_hangs_does_not_keep_its_node_from_leaving(third: RunningNode) -> None:
    freeze_trainer(third)
    begin_s = time.monotonic()
    third.signal(signal.SIGTERM)
    assert third.wait() == 0
    assert time.monotonic() - begin_s < ROUND_S + 10
    assert '"event": "snapshot.missed"' in third.stderr


def test_a_killed_node_takes_its_processes_along(
    returned: RunningNode, figures: dict[str, str]
) -> None:
    trainer = returned.status().trainer_pid
    assert len(find_processes(returned.datadir)) >= 3
    begin_s = time.monotonic()
    returned.signal(signal.SIGKILL)
    wait_until_sync(lambda: not find_processes(returned.datadir))
    took_s = time.monotonic() - begin_s
    figures["seconds until a killed node's processes are gone"] = f"{took_s:.2f}"
    assert returned.wait() == 128 + signal.SIGKILL
    wait_until_sync(lambda: not is_alive(trainer))  # its memory goes before it does


def test_the_second_signal_ends_a_node_at_once(first: RunningNode) -> None:
    trainer = freeze_trainer(first)
    begin_s = time.monotonic()
    first.signal(signal.SIGTERM)
    first.signal(signal.SIGTERM)  # so soon after the first it is the same request
    first.wait_for_status(lambda status: status.state is NodeState.DRAINING)
    wait_until_sync(lambda: time.monotonic() - begin_s > 2 * ONE_REQUEST_S)
    assert first.process.poll() is None
    first.signal(signal.SIGTERM)
    assert first.wait() == 128 + signal.SIGTERM
    wait_until_sync(lambda: not is_alive(trainer))
