"""`demo-node top` as a person and as a program runs it: in a terminal of its own, and without."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo_node.control.address import socket_path
from tests.cli.command import COMMAND, ROOT, demo_node, environment, list_imported
from tests.waiting import wait_until_sync

ENTER_SCREEN = "\x1b[?1049h"
LEAVE_SCREEN = "\x1b[?1049l"
SHOW_CURSOR = "\x1b[?25h"
SIZE = {"COLUMNS", "LINES"}
"""Of whatever terminal the tests were started in, or of none: pytest-xdist makes one up."""

ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@dataclass(slots=True)
class FakeNode:
    """A node that is only its operations, as a process."""

    datadir: Path
    process: subprocess.Popen[bytes]


@pytest.fixture
def fake_node(tmp_path: Path) -> Iterator[FakeNode]:
    node = FakeNode(tmp_path, start_fake_node(tmp_path))
    try:
        wait_until_sync(lambda: socket_path(tmp_path).exists())
        yield node
    finally:
        node.process.kill()
        node.process.wait()


def start_fake_node(datadir: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.control.fake_node", str(datadir)], cwd=ROOT
    )


@dataclass(slots=True)
class Terminal:
    """A program in a terminal of its own. `shown` is all that it has written so far."""

    process: subprocess.Popen[bytes]
    master: int
    slave: int
    shown: str = ""

    def read(self) -> str:
        while select.select([self.master], [], [], 0)[0]:
            self.shown += os.read(self.master, 65_536).decode(errors="replace")
        return self.shown

    def wait_for(self, text: str) -> None:
        wait_until_sync(lambda: text in ANSI.sub("", self.read()))

    def has_drawn_without(self, text: str) -> bool:
        """Is there a whole screen since `shown` was emptied in which it is not?"""
        screens = ANSI.sub("", self.read()).split("version 0.1.0")[1:-1]
        return any(text not in screen for screen in screens)

    def wait(self) -> int:
        wait_until_sync(lambda: bool(self.read()) and self.process.poll() is not None)
        self.read()
        return self.process.returncode


SHELL = (  # the terminal is its own, so that it may stop and continue what it runs
    "import fcntl, os, sys, termios\n"
    "os.setsid()\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "os.execvp('sh', ['sh', '-i', *sys.argv[1:]])"
)


@contextlib.contextmanager
def shell() -> Iterator[Terminal]:
    """An interactive shell in a terminal of its own; its prompt is `ready>`."""
    with _in_terminal([sys.executable, "-c", SHELL], PS1="ready>", ENV="") as screen:
        screen.wait_for("ready>")
        yield screen


@contextlib.contextmanager
def terminal(*arguments: object, columns: int = 100, **extra: str) -> Iterator[Terminal]:
    command = [*COMMAND, *map(str, arguments)]
    with _in_terminal(command, columns=columns, new_session=True, **extra) as screen:
        yield screen


@contextlib.contextmanager
def _in_terminal(
    command: Sequence[str], *, columns: int = 100, new_session: bool = False, **extra: str
) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    inherited = {key: value for key, value in environment().items() if key not in SIZE}
    process = subprocess.Popen(
        command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**inherited, "TERM": "xterm-256color", **extra},
        start_new_session=new_session,
    )
    try:
        yield Terminal(process, master, slave)
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize("how", ["q", "ctrl-c", "sigterm"])
def test_it_leaves_cleanly_and_the_terminal_is_as_before(fake_node: FakeNode, how: str) -> None:
    with terminal("top", "--datadir", fake_node.datadir, "--interval", 0.1) as screen:
        before = termios.tcgetattr(screen.slave)
        screen.wait_for("4 contributions, 4 members")
        assert termios.tcgetattr(screen.slave) != before, "keys are not echoed meanwhile"
        if how == "q":
            os.write(screen.master, b"xq")
        else:
            number = signal.SIGINT if how == "ctrl-c" else signal.SIGTERM
            screen.process.send_signal(number)
        assert screen.wait() == 0
        assert termios.tcgetattr(screen.slave) == before
        end = screen.shown[screen.shown.rindex("4 contributions, 4 members") :]
        assert LEAVE_SCREEN in end
        assert SHOW_CURSOR in end
        assert "Traceback" not in screen.shown


def test_ctrl_z_gives_the_screen_back_until_fg(fake_node: FakeNode) -> None:
    command = shlex.join([*COMMAND, "top", "--datadir", str(fake_node.datadir)])
    with shell() as screen:
        before = termios.tcgetattr(screen.slave)
        os.write(screen.master, f"{command} --interval 0.1\n".encode())
        screen.wait_for("4 contributions, 4 members")
        assert ENTER_SCREEN in screen.shown
        for _ in range(2):
            screen.shown = ""
            os.write(screen.master, b"\x1a")
            screen.wait_for("ready>")
            told = screen.shown.index("Stopped")
            assert LEAVE_SCREEN in screen.shown[:told]
            assert SHOW_CURSOR in screen.shown[:told]
            assert termios.tcgetattr(screen.slave) == before
            screen.shown = ""
            os.write(screen.master, b"fg\n")
            screen.wait_for("4 contributions, 4 members")
            assert ENTER_SCREEN in screen.shown
            assert "no answer" not in screen.shown
        os.write(screen.master, b"q")
        screen.wait_for("ready>")
        os.write(screen.master, b"echo left with $?\n")
        screen.wait_for("left with 0")
        assert termios.tcgetattr(screen.slave) == before


def test_ctrl_z_without_a_shell_stops_nothing(fake_node: FakeNode) -> None:
    with terminal("top", "--datadir", fake_node.datadir, "--interval", 0.1) as screen:
        screen.wait_for("4 contributions, 4 members")
        screen.shown = ""
        screen.process.send_signal(signal.SIGTSTP)
        wait_until_sync(lambda: ENTER_SCREEN in screen.read())
        screen.wait_for("4 contributions, 4 members")
        os.write(screen.master, b"q")
        assert screen.wait() == 0


def test_a_node_that_ends_meanwhile_is_waited_for(fake_node: FakeNode) -> None:
    with terminal("top", "--datadir", fake_node.datadir, "--interval", 0.1) as screen:
        for end in (signal.SIGTERM, signal.SIGKILL):
            screen.shown = ""
            screen.wait_for("4 contributions, 4 members")
            fake_node.process.send_signal(end)
            fake_node.process.wait()
            screen.wait_for("waiting for it, q leaves")
            fake_node.process = start_fake_node(fake_node.datadir)
        screen.shown = ""
        screen.wait_for("4 contributions, 4 members")
        assert "no answer" not in screen.shown
        fake_node.process.kill()
        screen.wait_for("waiting for it, q leaves (2 s so far)")
        os.write(screen.master, b"q")
        assert screen.wait() == 0
        assert "Traceback" not in screen.shown


def test_words_are_explained_until_a_key_is_pressed(fake_node: FakeNode) -> None:
    with terminal("top", "--datadir", fake_node.datadir, "--interval", 0.1) as screen:
        screen.wait_for("q quits  ? explains")
        assert "heartbeat" not in screen.shown
        for key in (b"?", b"h"):
            os.write(screen.master, key)
            screen.wait_for("heartbeat")
            os.write(screen.master, b"x")
            screen.shown = ""
            wait_until_sync(lambda: screen.has_drawn_without("heartbeat"))
            screen.shown = ""
        os.write(screen.master, b"q")
        assert screen.wait() == 0


def test_a_node_that_falls_silent_is_still_shown_and_said_to_be_silent(fake_node: FakeNode) -> None:
    with terminal("top", "--datadir", fake_node.datadir, "--interval", 0.1) as screen:
        screen.wait_for("4 contributions, 4 members")
        fake_node.process.send_signal(signal.SIGSTOP)
        screen.wait_for("no answer for 6 s")  # longer than a question may take
        fake_node.process.send_signal(signal.SIGCONT)
        screen.shown = ""
        wait_until_sync(lambda: screen.has_drawn_without("no answer"))
        fake_node.process.send_signal(signal.SIGSTOP)
        os.write(screen.master, b"q")
        assert screen.wait() == 0


def test_what_is_no_terminal_gets_plain_text_once(fake_node: FakeNode) -> None:
    done = demo_node("top", "--datadir", fake_node.datadir)
    assert done.returncode == 0
    assert "active: in step" in done.stdout
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert demo_node("top", "--datadir", fake_node.datadir, "--once").returncode == 0


def test_once_is_once_in_a_terminal_too_and_without_colours_if_so_wished(
    fake_node: FakeNode,
) -> None:
    with terminal("top", "--once", "--datadir", fake_node.datadir) as screen:
        assert screen.wait() == 0
        assert "4 contributions, 4 members" in ANSI.sub("", screen.shown)
        assert "\x1b[32m" in screen.shown
        assert LEAVE_SCREEN not in screen.shown
    with terminal("top", "--once", "--datadir", fake_node.datadir, NO_COLOR="1") as screen:
        assert screen.wait() == 0
        assert not re.search(r"\x1b\[[0-9;]*3[0-7][;m]", screen.shown)
    with terminal("top", "--datadir", fake_node.datadir, TERM="dumb") as screen:
        assert screen.wait() == 0
        assert "4 contributions, 4 members" in screen.shown


def test_a_terminal_that_knows_no_bars_gets_what_it_can_show(fake_node: FakeNode) -> None:
    done = subprocess.run(
        [*COMMAND, "top", "--datadir", str(fake_node.datadir)],
        env={**environment(), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "active: in step" in done.stdout


def test_programs_get_one_document(fake_node: FakeNode) -> None:
    done = demo_node("top", "--json", "--datadir", fake_node.datadir)
    document = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert document["schema"] == 1
    assert document["status"]["state"] == "active"
    assert document["known"] == 2
    assert [peer["digest"] for peer in document["peers"]] == ["equal", "equal"]


def test_without_a_node_there_is_one_line_and_exit_code_69(tmp_path: Path) -> None:
    for extra in ([], ["--json"], ["--once"]):
        done = demo_node("top", "--datadir", tmp_path, *extra)
        assert done.returncode == 69
        assert done.stderr.startswith("demo-node: no node is running in")
        assert done.stderr.count("\n") == 1
        assert not done.stdout


def test_help_imports_nothing_heavy() -> None:
    imported = list_imported("top", "--help")
    assert "demo_node.cli.top.command" in imported
    assert not imported & {"torch", "grpc", "rich", "libp2p", "numpy", "aiohttp", "structlog"}
