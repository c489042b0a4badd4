"""A volunteer's first evening, typed as the pages show it: a run, a node, a calmer run from it."""

import json
from pathlib import Path

import pytest

from tests.docs.shell import opened_shell
from tests.pages import take_line
from tests.waiting import wait_until_sync

pytestmark = [pytest.mark.swarm, pytest.mark.slow, pytest.mark.timeout(300)]

INVITATION = "demo-node start --peers /ip4/127.0.0.1/tcp/"

LONG_S = 90.0


def test_a_run_a_node_and_a_calmer_run_that_goes_on_from_it(tmp_path: Path) -> None:
    with opened_shell(tmp_path / "home") as shell:
        opened = take_line("README.md", "demo-node init --preset tiny")
        shell.run(opened.replace("--round-seconds 10", "--round-seconds 2"))
        with shell.started(take_line("README.md", "demo-node start")) as node:
            node.wait_for(INVITATION)
            status = take_line("README.md", "demo-node status")
            wait_until_sync(
                lambda: json.loads(shell.run(f"{status} --json"))["height"] >= 3, LONG_S
            )
            assert "active" in shell.run(status)
            assert node.interrupt() == 0

        snapshots = shell.home / ".local/share/demo-node/snapshots"
        saved = max(snapshots.glob("*-*.safetensors"), key=lambda p: int(p.name.split("-")[0]))
        calmer = take_line("docs/operating.md", "demo-node init --datadir ~/calmer --from")
        shell.run(calmer.replace("1200-….safetensors", saved.name))
        with shell.started(take_line("docs/operating.md", "demo-node start --datadir")) as node:
            node.wait_for(INVITATION)
            assert node.interrupt() == 0

        with shell.started(
            take_line("docs/operating.md", "demo-node start --trace-endpoint")
        ) as node:
            node.wait_for(INVITATION)
            assert node.interrupt() == 0
