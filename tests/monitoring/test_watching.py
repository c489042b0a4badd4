"""Prometheus beside nodes of this machine, started as the pages show it, but on other ports."""

import contextlib
import re
import signal
import socket
import urllib.request
from pathlib import Path
from typing import Final

import pytest

from tests.docs.shell import opened_shell
from tests.e2e.nodes import CALMLY
from tests.monitoring.stack import ask
from tests.needs import needs
from tests.pages import ROOT, take_line
from tests.waiting import wait_until_sync

pytestmark = [pytest.mark.monitoring, pytest.mark.slow, pytest.mark.timeout(300)]

UP_S: Final = 120.0


def find_port() -> str:
    """Free, most likely."""
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return str(tried.getsockname()[1])


def is_ready(url: str) -> bool:
    """Does a server answer there that it is?"""
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"{url}/-/ready", timeout=20).close()
        return True
    return False


def test_a_swarm_of_this_machine(tmp_path: Path) -> None:
    needs("prometheus")
    swarm = take_line("README.md", 'make swarm ARGS="--rounds 200 --keep /tmp/swarm')
    calm = swarm.replace("--rounds 200", f"--rounds 200 {' '.join(CALMLY)}")
    prometheus = take_line("README.md", "prometheus --config.file=deploy/prometheus/swarm.yml")
    top = take_line("README.md", ".venv/bin/demo-node top --datadir /tmp/swarm/node0")
    port = find_port()
    with (
        opened_shell(tmp_path / "first") as first,
        opened_shell(tmp_path / "second") as second,
        opened_shell(tmp_path / "third") as third,
        first.started(calm.replace("/tmp/swarm", str(tmp_path / "swarm"))) as nodes,
        second.started(
            prometheus.replace("/tmp/demo-prometheus", str(tmp_path / "data")).replace("9090", port)
        ),
    ):
        url = f"http://127.0.0.1:{port}"
        wait_until_sync(lambda: is_ready(url), UP_S)
        found = 'count(demo_head_round{job="demo-node"} > 1)'
        wait_until_sync(lambda: nodes.read() and _value(url, found) == 4, UP_S)
        shown = third.run(top.replace("/tmp/swarm", str(tmp_path / "swarm")))
        assert re.search(r"^state +active$", shown, re.MULTILINE)
        assert nodes.interrupt() == -signal.SIGINT
    assert not (ROOT / "deploy/prometheus/targets/swarm.json").exists()


def test_a_node_at_home_and_its_alerts(tmp_path: Path) -> None:
    needs("prometheus", "prometheus-alertmanager")
    prometheus = take_line("docs/operating.md", "prometheus --config.file")
    alertmanager = take_line("docs/operating.md", "prometheus-alertmanager --config.file")
    ports = find_port(), find_port()
    with (
        opened_shell(tmp_path / "first") as first,
        opened_shell(tmp_path / "second") as second,
        first.started(prometheus.replace("9090", ports[0])) as one,
        second.started(alertmanager.replace("9093", ports[1])) as other,
    ):
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        wait_until_sync(lambda: all(map(is_ready, urls)), UP_S)
        groups = ask(urls[0], "/api/v1/rules")["groups"]
        assert {Path(group["file"]).name for group in groups} == {"alerts.yml", "recording.yml"}
        assert (first.home / "demo-prometheus").is_dir()
        assert (second.home / "demo-alertmanager").is_dir()
        assert (one.interrupt(), other.interrupt()) == (0, 0)


def _value(url: str, query: str) -> float:
    found = ask(url, "/api/v1/query", query=query)["result"]
    return float(found[0]["value"][1]) if found else 0.0
