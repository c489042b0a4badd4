"""Starting, killing, stopping and finding processes, with ones that do nothing."""

import asyncio
import functools
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import ParamSpec

import pytest

from demo_node.cli.swarm import processes
from demo_node.cli.swarm.node import SwarmFailed, SwarmNode, check_alive, stop_nodes
from demo_node.cli.swarm.processes import (
    PORTS,
    end_marked,
    find_free_ports,
    find_marked,
    kill_member,
    spawn,
)
from demo_node.control import client
from demo_node.control.address import prepare_socket_folder, socket_path
from demo_node.store.datadir import DataDir
from tests.control.fake_node import status_view
from tests.e2e.processes import is_stopped
from tests.waiting import wait_until

IDLE = ("sleep", "600")

Given = ParamSpec("Given")


def on_loop(test: Callable[Given, Coroutine[None, None, None]]) -> Callable[Given, None]:
    @functools.wraps(test)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


async def idle_node(folder: Path, index: int = 3) -> SwarmNode:
    process = await spawn(IDLE, folder / "node.log", folder)
    return SwarmNode(index, DataDir(folder), "", IDLE, folder, process, "127.0.0.1:0")


async def python_node(folder: Path, code: str, index: int = 3) -> SwarmNode:
    """One that runs this code and has said "up"."""
    command = (sys.executable, "-c", code)
    log = folder / "node.log"
    before = log.stat().st_size if log.exists() else 0
    process = await spawn(command, log, folder)
    await wait_until(lambda: log.stat().st_size > before)
    return SwarmNode(index, DataDir(folder), "", command, folder, process, "127.0.0.1:0")


@on_loop
async def test_a_killed_node_is_expected_and_starts_again_as_another_life(tmp_path: Path) -> None:
    node = await idle_node(tmp_path)
    first = node.pid
    node.life.look(status_view(pid=first), [])
    assert node.status is not None
    await node.kill()
    assert node.process.returncode == -signal.SIGKILL
    assert node.status is None
    check_alive([node])
    await node.start_again()
    assert [life.pid for life in node.lives] == [first, node.pid]
    assert node.pid != first
    assert find_marked(tmp_path) == [node.pid]
    await stop_nodes([node], deadline_s=10)
    assert find_marked(tmp_path) == []


@on_loop
async def test_a_node_shares_our_session_for_nice_to_count_and_not_our_group(
    tmp_path: Path,
) -> None:
    node = await idle_node(tmp_path)
    assert os.getsid(node.pid) == os.getsid(0)
    assert os.getpgid(node.pid) == node.pid  # where the terminal's Ctrl-C does not go
    await stop_nodes([node], deadline_s=10)


@on_loop
async def test_a_node_that_died_by_itself_fails_the_swarm(tmp_path: Path) -> None:
    node = await idle_node(tmp_path)
    node.log.write_text("the reason\n")
    os.kill(node.pid, signal.SIGKILL)
    await node.process.wait()
    with pytest.raises(SwarmFailed, match=r"node 3 ended with exit code -9[^\0]*the reason"):
        check_alive([node])


@on_loop
async def test_a_node_that_was_killed_too_late_fails_the_swarm(tmp_path: Path) -> None:
    """Whatever it died of, it was not our SIGKILL."""
    node = await idle_node(tmp_path)
    os.kill(node.pid, signal.SIGABRT)
    await node.process.wait()
    node.away = "killed"
    with pytest.raises(SwarmFailed, match="-6"):
        check_alive([node])


@on_loop
async def test_a_stopped_node_goes_on_and_ends(tmp_path: Path) -> None:
    node = await idle_node(tmp_path)
    node.stop()
    await wait_until(lambda: is_stopped(node.pid))
    assert node.away == "stopped"
    node.go_on()
    await wait_until(lambda: not is_stopped(node.pid))
    assert node.away == ""
    node.stop()
    await wait_until(lambda: is_stopped(node.pid))
    await stop_nodes([node], deadline_s=10)
    assert node.process.returncode == -signal.SIGTERM  # it heard it: nobody had to kill it


@on_loop
async def test_a_node_that_is_stopped_while_it_is_asked_keeps_what_it_said_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "QUICK_S", 0.3)
    node = await idle_node(tmp_path)
    node.life.look(status_view(pid=node.pid, height=7), [])
    path = socket_path(tmp_path)
    prepare_socket_folder(path)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()  # the kernel takes connections; nobody reads
        await node.refresh()
    assert node.status is not None
    assert node.status.height == 7
    await stop_nodes([node], deadline_s=10)


@on_loop
async def test_what_is_left_behind_is_killed_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GONE_S", 0.2)
    mine, other = tmp_path / "mine", tmp_path / "other"
    process = await spawn(IDLE, tmp_path / "log", mine)
    stranger = await spawn(IDLE, tmp_path / "log", other)
    assert await end_marked(mine) == [process.pid]
    assert await process.wait() == -signal.SIGKILL
    assert await end_marked(mine) == []
    assert find_marked(other) == [stranger.pid]
    assert await end_marked(other) == [stranger.pid]
    await stranger.wait()


@on_loop
async def test_a_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    for word in ("one", "two"):
        process = await spawn(("echo", word), tmp_path / "log", tmp_path)
        assert await process.wait() == 0
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


@on_loop
async def test_temporary_files_are_made_in_the_scratch_folder(tmp_path: Path) -> None:
    code = "import tempfile; print(tempfile.mkdtemp())"
    process = await spawn((sys.executable, "-c", code), tmp_path / "log", tmp_path)
    assert await process.wait() == 0
    assert Path((tmp_path / "log").read_text().strip()).parent == tmp_path


@on_loop
async def test_only_a_member_of_the_nodes_own_group_is_taken_for_its_trainer(
    tmp_path: Path,
) -> None:
    node, stranger = [await spawn(IDLE, tmp_path / "log", tmp_path) for _ in range(2)]
    assert not kill_member(stranger.pid, node.pid)
    assert not kill_member(0, node.pid)
    assert kill_member(stranger.pid, stranger.pid)
    assert await stranger.wait() == -signal.SIGKILL
    assert not kill_member(stranger.pid, stranger.pid)  # it is gone
    node.kill()
    await node.wait()


def test_ports_are_distinct_and_outside_of_what_kernels_give_to_diallers() -> None:
    ports = find_free_ports(64)
    assert len(set(ports)) == 64
    assert set(ports) <= set(PORTS)
    others = set(PORTS) - set(ports)
    assert not set(find_free_ports(len(ports), others)) - set(ports)


@on_loop
async def test_a_node_that_is_to_leave_is_expected_to_end_well(tmp_path: Path) -> None:
    code = "import signal, sys; signal.signal(15, lambda *_: sys.exit()); print('up', flush=True);"
    node = await python_node(tmp_path, code + "signal.pause()")
    await node.leave(deadline_s=10)
    assert (node.process.returncode, node.away, node.status) == (0, "left", None)
    check_alive([node])
    other = await python_node(
        tmp_path, code.replace("sys.exit()", "sys.exit(70)") + "signal.pause()"
    )
    await other.leave(deadline_s=10)
    with pytest.raises(SwarmFailed, match="exit code 70"):
        check_alive([other])


@on_loop
async def test_a_node_that_does_not_leave_fails_the_swarm(tmp_path: Path) -> None:
    code = "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True);"
    node = await python_node(tmp_path, code + "signal.pause()\nsignal.pause()")
    with pytest.raises(SwarmFailed, match="node 3 did not leave within 0 s"):
        await node.leave(deadline_s=0.2)
    await stop_nodes([node], deadline_s=0.2)
    assert node.process.returncode == -signal.SIGKILL
