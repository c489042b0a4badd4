"""The swarm for real: processes, sockets, files."""

import contextlib
import functools
import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo_node.control.address import socket_path
from tests.cli.command import COMMAND, demo_node, environment
from tests.e2e.nodes import CALMLY
from tests.e2e.processes import is_stopped
from tests.waiting import wait_until_sync

pytestmark = [pytest.mark.swarm, pytest.mark.slow, pytest.mark.timeout(400)]

PATIENCE_S = 100
"""Nothing here is about how fast a swarm ends. By its own deadlines it may take 40 s: so long its
nodes may take to leave, and what they leave behind to go; all of it slower on a busy machine."""


MARK = "SWARM_UNDER_TEST"
"""Environment variable that a swarm's processes, trainers included, inherit."""


def processes_of(folder: Path, needle: bytes = b"") -> list[int]:
    """Processes of the swarm marked with `folder` whose command line has `needle`."""
    mark = f"{MARK}={folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if (
                entry.name.isdigit()
                and mark in (entry / "environ").read_bytes().split(b"\0")
                and needle in (entry / "cmdline").read_bytes()
            ):
                found.append(int(entry.name))
    return found


@contextlib.contextmanager
def started_swarm(folder: Path, *options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A swarm whose two nodes are up, fork servers included. It prints into folder/stderr."""
    command = [*COMMAND, "swarm", "--nodes", "2", "--keep", str(folder / "s"), *CALMLY]
    command += map(str, options)
    marked = {**environment(), MARK: str(folder)}
    sockets = [socket_path(folder / "s" / f"node{index}") for index in range(2)]
    with (
        (folder / "stderr").open("wb") as stderr,
        subprocess.Popen(
            command,
            env=marked,
            stderr=stderr,
            # Of a shell's background job SIGINT is ignored, and so it is of all that it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ) as swarm,
    ):
        try:
            wait_until_sync(lambda: all(path.exists() for path in sockets), deadline_s=PATIENCE_S)
            assert len(processes_of(folder)) >= 3
            yield swarm
        finally:
            if swarm.poll() is None:
                swarm.kill()


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_no_process_is_left_behind(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with started_swarm(tmp_path) as swarm:
        swarm.send_signal(number)
        assert swarm.wait(timeout=PATIENCE_S) == code
        said = (tmp_path / "stderr").read_text().splitlines()[-1:]
        assert (said == ["interrupted; all nodes are stopped"]) == (number == signal.SIGINT)
        wait_until_sync(lambda: not processes_of(tmp_path), deadline_s=PATIENCE_S)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_node_is_not_left_behind(tmp_path: Path, number: signal.Signals) -> None:
    with started_swarm(tmp_path) as swarm:
        (victim,) = processes_of(tmp_path, str(tmp_path / "s" / "node1").encode())
        os.kill(victim, signal.SIGSTOP)
        wait_until_sync(lambda: is_stopped(victim), PATIENCE_S)
        swarm.send_signal(number)
        wait_until_sync(lambda: not processes_of(tmp_path), deadline_s=PATIENCE_S)


def test_a_node_that_dies_ends_the_swarm(tmp_path: Path) -> None:
    with started_swarm(tmp_path) as swarm:
        (victim,) = processes_of(tmp_path, str(tmp_path / "s" / "node1").encode())
        os.kill(victim, signal.SIGKILL)
        assert swarm.wait(timeout=PATIENCE_S) == 1
        assert b"node 1 ended with exit code -9" in (tmp_path / "stderr").read_bytes()
        # A fork server whose node died before its leash was on finishes importing torch first.
        wait_until_sync(lambda: not processes_of(tmp_path), deadline_s=PATIENCE_S)


def test_prometheus_is_told_of_the_nodes_while_the_swarm_lasts(tmp_path: Path) -> None:
    targets = tmp_path / "swarm.json"
    with started_swarm(tmp_path, "--targets", targets) as swarm:
        groups = json.loads(targets.read_text())
        assert [group["labels"]["node"] for group in groups] == ["0", "1"]
        for group in groups:
            (address,) = group["targets"]
            wait_until_sync(functools.partial(serves_metrics, address), PATIENCE_S)
            datadir = Path(group["labels"]["datadir"])
            assert f"http://{address}/metrics" in (datadir / "node.log").read_text()
        swarm.send_signal(signal.SIGTERM)
        assert swarm.wait(timeout=PATIENCE_S) == 143
    assert [path.name for path in tmp_path.glob("*swarm.json*")] == []


def serves_metrics(address: str) -> bool:
    url = f"http://{address}/metrics"
    with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(url, timeout=20) as got:
        return b"demo_node_state" in got.read()
    return False  # nobody listens yet


@pytest.mark.parametrize("name", ["mine", "no/such/folder", "mine/below"])
def test_a_file_of_others_is_not_taken_for_targets(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine").write_text("keep me")
    refused = demo_node("swarm", "--targets", tmp_path / name)
    assert refused.returncode == 2
    assert "--targets" in refused.stderr.splitlines()[-1]
    assert (tmp_path / "mine").read_text() == "keep me"


def test_targets_need_the_name_of_a_file() -> None:
    refused = demo_node("swarm", "--targets", "")
    assert refused.returncode == 2
    assert "--targets: a file name is missing" in refused.stderr


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    assert demo_node("swarm", "--keep", tmp_path).returncode == 2


def test_a_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    refused = demo_node("swarm", "--keep", tmp_path / "mine" / "below")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "--keep: " in refused.stderr
    assert "below cannot be made: Not a directory" in refused.stderr
