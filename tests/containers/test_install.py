"""deploy/install.sh on a machine that has nothing but Debian 12; wheels are its package index."""

import shutil
from pathlib import Path

import pytest

from tests.containers.engine import Engine
from tests.containers.images import BASE
from tests.distribution import build

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.timeout(720)]

STEPS = (
    "cp -r /clone /root/clone",
    "PEERS=/ip4/203.0.113.7/tcp/4001/p2p/12D3Koo bash /root/clone/deploy/install.sh",
    "cat /etc/demo-node",
    "cmp /root/clone/deploy/systemd/demo-node.service /etc/systemd/system/demo-node.service",
    "rm -r /root/clone",  # what is installed needs it no more
    "/opt/demo-node/bin/demo-node version",
    "/opt/demo-node/bin/demo-node swarm --nodes 2 --rounds 3 --round-seconds 2",
    # What is uploaded, and what pip makes of it, in the same environment.
    "/opt/demo-node/bin/pip uninstall -q -y demo-node",
    "/opt/demo-node/bin/pip install -q /dist/*.whl",
    "/opt/demo-node/bin/demo-node simulate --nodes 4 --rounds 3 --seed 1",
    "/opt/demo-node/bin/pip uninstall -q -y demo-node",
    "/opt/demo-node/bin/pip install -q /dist/*.tar.gz",
    "/opt/demo-node/bin/demo-node simulate --nodes 5 --rounds 3 --seed 1",
)


def test_from_nothing_to_a_swarm(engine: Engine, tree: Path, wheels: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "tree")
    dist = build(tmp_path / "tree").wheel.parent
    volumes = [f"--volume={tree}:/clone:ro", f"--volume={wheels}:/wheels:ro"]
    volumes += [f"--volume={dist}:/dist:ro"]
    index = ("--env", "PIP_NO_INDEX=1", "--env", "PIP_FIND_LINKS=/wheels")
    script = "set -eux\n" + "\n".join(STEPS)
    run = ("run", "--rm", "--network", "host", *volumes, *index, BASE, "sh", "-c", script)
    said = engine.docker(*run, timeout_s=600)
    assert "install.sh: done; where systemd runs: systemctl enable --now demo-node" in said
    assert "DEMO_NODE_PEERS=/ip4/203.0.113.7/tcp/4001/p2p/12D3Koo" in said
    assert "this torch is built for" in said
    assert "2 of 2 nodes hold the same" in said
    assert said.count("all held") == 2
