"""`demo-node simulate` as a person or a script meets it."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from demo_node.cli.simulate.command import simulate
from tests.cli.command import COMMAND, ROOT, demo_node, environment
from tests.simulate.stages import let_stray
from tests.trainer.processes import descendants, is_alive
from tests.waiting import wait_until_sync

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

FIRST_KEYS = [
    "schema",
    "event_log_digest",
    "faults",
    "violations",
    "rounds",
    "records",
    "nodes",
    "seconds",
    "bytes_in_per_node_per_round",
]


def test_json_has_the_promised_keys_first() -> None:
    ended = demo_node("simulate", "--nodes", 6, "--rounds", 5, "--seed", 3, "--json")
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert list(document)[: len(FIRST_KEYS)] == FIRST_KEYS
    assert document["schema"] == 1
    assert document["violations"] == 0
    assert (document["nodes"], document["rounds"]) == (6, 5)
    assert len(document["event_log_digest"]) == 64
    assert document["faults"] == sum(document["faults_by_kind"].values())
    assert document["bytes_in_per_node_per_round"] > 1_000


def test_every_key_of_the_documents_is_on_the_page() -> None:
    page = (ROOT / "docs/simulator.md").read_text()
    section = page.split("\n## The JSON document\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
    documented = [key for row in rows for key in re.findall(r"`(\w+)`", row)]
    ended = CliRunner().invoke(simulate, ["--nodes=3", "--rounds=1", "--seeds=1..1", "--json"])
    document, total = map(json.loads, ended.stdout.splitlines())
    assert documented[: len(document)] == list(document)
    assert sorted(documented[len(document) :]) == sorted(total.keys() - {"schema"})


def test_a_report_says_what_happened() -> None:
    ended = demo_node("simulate", "--nodes", 6, "--rounds", 5, "--seed", 3)
    assert ended.returncode == 0, ended.stderr
    assert "full mix: 6 nodes, 5 rounds, seed 3" in ended.stdout
    assert re.search(r"^  records      [345] in 5 rounds", ended.stdout, re.MULTILINE)
    assert ended.stdout.rstrip().endswith("all held")


def test_a_file_says_how_many_nodes_and_rounds(tmp_path: Path) -> None:
    file = tmp_path / "quiet.toml"
    file.write_text('name = "quiet"\nnodes = 5\nrounds = 4\nseed = 9\n')
    ended = demo_node("simulate", "--scenario", file)
    assert "quiet: 5 nodes, 4 rounds, seed 9" in ended.stdout
    ended = demo_node("simulate", "--scenario", file, "--rounds", 3, "--contributors", 2)
    assert "quiet: 5 nodes, 3 rounds, seed 9" in ended.stdout
    assert "each of 2.0 contributions" in ended.stdout


def test_many_seeds_give_a_line_each_and_a_sum() -> None:
    many = ["simulate", "--nodes", 5, "--rounds", 3, "--seeds", "4..6", "--json"]
    ended = demo_node(*many)
    assert ended.returncode == 0, ended.stderr
    *each, total = map(json.loads, ended.stdout.splitlines())
    assert [document["seed"] for document in each] == [4, 5, 6]
    assert total["runs"] == 3
    assert total["faults"] == sum(document["faults"] for document in each)
    assert total["broken_seeds"] == []
    assert ended.stderr.count("all held") == 3
    parallel = demo_node(*many, "--jobs", 2)
    digests = [json.loads(line)["event_log_digest"] for line in parallel.stdout.splitlines()[:-1]]
    assert digests == [document["event_log_digest"] for document in each]


def test_a_process_takes_as_many_seeds_as_there_are() -> None:
    """With `max_tasks_per_child` Python 3.11 waits for ever where a child has done its share."""
    ended = demo_node(
        "simulate", "--nodes=3", "--rounds=1", "--seeds=1..40", "--jobs=2", "--json", timeout_s=100
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1])["runs"] == 40


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--seed", "1", "--seeds", "1..3"], "--seed and --seeds: choose one"),
        (["--seed", "1", "--jobs", "2"], "--jobs shares out several runs"),
        (["--seeds", "3..1"], "'3..1' is not a range"),
        (["--seeds", "7"], "'7' is not like 1..200"),
        (["--nodes", "0"], "0 is not in the range"),
        (["--nodes", "1e3"], "'1e3' is not a valid integer."),
        (["--contributors", "2000"], "2000 is not in the range 0<=x<=1000"),
        (["--scenario", "nowhere.toml"], "nowhere.toml: No such file"),
    ],
)
def test_wrong_input_is_one_line(arguments: list[str], line: str) -> None:
    ended = demo_node("simulate", *arguments)
    assert ended.returncode in (2, 78)
    assert line in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_run_that_cannot_be_is_said_with_the_file_that_wants_it(tmp_path: Path) -> None:
    file = tmp_path / "hasty.toml"
    file.write_text("[agreement]\nfinal_depth = 1\n")
    line = f"demo-node: {file}: manifest key agreement.final_depth: must be at least 3\n"
    for command in ("simulate", "swarm"):
        ended = demo_node(command, "--scenario", file)
        assert (ended.returncode, ended.stderr) == (78, line)


def test_without_standard_output_it_runs_all_the_same() -> None:
    command = [*COMMAND, "simulate", "--nodes", "3", "--rounds", "2"]
    ended = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *command],
        check=False,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_what_is_asked_at_the_end_is_no_nodes_doing(tmp_path: Path) -> None:
    file = tmp_path / "many.toml"
    file.write_text("nodes = 3\nrounds = 2\n[expect]\nmembers = 50\n")
    ended = demo_node("simulate", "--scenario", file)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[1:] == [
        "  3 honest nodes are members, 50 at least",
        f"to see it again: demo-node simulate --scenario {file} --nodes 3 --rounds 2 --seed 0",
    ]


def test_what_was_broken_is_told_and_can_be_seen_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Node 2 computes round 3 from another state than it should have."""
    file = tmp_path / "quiet.toml"
    file.write_text("nodes = 5\nrounds = 9\n")
    let_stray(monkeypatch, node=2, round_=3)
    ended = CliRunner().invoke(simulate, ["--scenario", str(file), "--seed", "7"])
    assert ended.exit_code == 1
    assert "broken in round 3: equal records have equal digests" in ended.stderr
    assert "node 2" in ended.stderr
    assert "signs header" in ended.stderr  # what it did before
    command = f"demo-node simulate --scenario {file} --nodes 5 --rounds 9 --seed 7"
    assert ended.stderr.rstrip().endswith(f"to see it again: {command}")


@pytest.fixture
def night() -> Iterator[subprocess.Popen[str]]:
    """Thousands of runs in two processes, the first of which is over."""
    night = ["simulate", "--nodes=8", "--rounds=10", "--seeds=1..9999", "--jobs=2"]
    process = subprocess.Popen(
        [*COMMAND, *night],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        assert "1/9999" in process.stderr.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


@on_linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_its_processes(
    night: subprocess.Popen[str], number: signal.Signals
) -> None:
    workers = descendants(night.pid)
    assert len(workers) >= 2
    night.send_signal(number)
    _, said = night.communicate(timeout=60)
    assert night.returncode == 128 + number
    assert said.rstrip().endswith("interrupted")
    assert "Traceback" not in said
    wait_until_sync(lambda: not any(map(is_alive, workers)))


@on_linux
def test_whatever_kills_it_kills_its_processes(night: subprocess.Popen[str]) -> None:
    workers = descendants(night.pid)
    assert len(workers) >= 2
    night.kill()
    wait_until_sync(lambda: not any(map(is_alive, workers)))
