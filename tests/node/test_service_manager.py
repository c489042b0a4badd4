"""What systemd hears, and its unit."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo_node.service_manager import ADDRESS, ServiceManager
from demo_node.views import NodeState
from tests.cli.command import ROOT
from tests.control.fake_node import status_view

UNIT = ROOT / "deploy" / "systemd" / "demo-node.service"


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """Where systemd listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.settimeout(5)
        yield made


def test_it_hears_that_the_node_is_up_and_alive_and_what_it_does(
    listener: socket.socket, tmp_path: Path
) -> None:
    manager = ServiceManager({ADDRESS: str(tmp_path / "notify")})
    manager.tell(status_view(state=NodeState.SYNCING, detail="replaying:\n1 of 2"))
    assert listener.recv(999) == b"STATUS=syncing: replaying: 1 of 2\nWATCHDOG=1\nREADY=1"
    manager.tell(status_view(state=NodeState.DRAINING, detail=""))
    assert listener.recv(999) == b"STATUS=draining\nWATCHDOG=1\nSTOPPING=1"


def test_an_abstract_address_begins_with_an_at() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind("")  # the kernel finds a name that nobody has
        made.settimeout(5)
        ServiceManager({ADDRESS: "@" + made.getsockname()[1:].decode()}).tell(status_view())
        assert b"WATCHDOG=1" in made.recv(999)


@pytest.mark.parametrize("environ", [{}, {ADDRESS: "/nobody/listens"}, {ADDRESS: ""}])
def test_a_node_goes_on_where_nobody_listens(environ: dict[str, str]) -> None:
    ServiceManager(environ).tell(status_view())


def test_it_never_waits_for_who_does_not_read(listener: socket.socket, tmp_path: Path) -> None:
    manager = ServiceManager({ADDRESS: str(tmp_path / "notify")})
    for _ in range(5000):
        manager.tell(status_view())
    assert listener.recv(999)


def read_unit(key: str) -> list[str]:
    lines = [line.partition("=") for line in UNIT.read_text().splitlines()]
    return [value for name, _, value in lines if name == key]


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if not analyze:
        pytest.skip("there is no systemd-analyze here")
    unit = tmp_path / "demo-node.service"
    (start,) = read_unit("ExecStart")
    unit.write_text(UNIT.read_text().replace(start.split()[0], "/bin/true"))
    verified = subprocess.run(
        [analyze, "verify", "--man=no", unit], capture_output=True, text=True, timeout=60
    )
    assert verified.stderr + verified.stdout == ""  # its exit code says nothing
    judged = subprocess.run(
        [analyze, "security", "--offline=yes", "--threshold=20", unit],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert judged.returncode == 0, judged.stdout[-2000:]


def test_the_unit_tells_apart_what_another_start_would_mend() -> None:
    (never,) = read_unit("RestartPreventExitStatus")
    page = (ROOT / "docs" / "operating.md").read_text()
    codes = {line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")}
    assert set(never.split()) == {"2", "73", "74", "76", "77", "78"}
    assert set(never.split()) <= codes
