"""A node whose supervisor is systemd, as far as it can tell."""

import signal
import socket
from pathlib import Path

import pytest

from demo_node.service_manager import ADDRESS
from tests.e2e.nodes import make_run, started

pytestmark = [pytest.mark.swarm, pytest.mark.slow, pytest.mark.timeout(200)]


def test_systemd_hears_of_a_life_from_its_begin_to_its_end(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    make_run(tmp_path / "node")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        listener.settimeout(60)
        with started(tmp_path / "node", **{ADDRESS: address}) as node:
            heard = listener.recv(999).decode()
            assert "READY=1" in heard.splitlines()
            while "STATUS=active" not in heard:
                heard = listener.recv(999).decode()
                assert "WATCHDOG=1" in heard.splitlines()
            node.process.send_signal(signal.SIGTERM)
            while "STOPPING=1" not in heard:
                heard = listener.recv(999).decode()
            assert node.process.wait(60) == 0
