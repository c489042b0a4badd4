"""A real node that is stopped, robbed of its trainer, killed: its momentum goes on."""

import math
import os
import re
import signal
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from demo_node.store.datadir import DataDir
from demo_protocol.manifest import decode_manifest, encode_manifest
from tests.e2e.join_run import read_events
from tests.e2e.nodes import RunningNode, make_run, started
from tests.waiting import wait_until_sync

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(200)]

EVERY = 2


def make_run_of_many_snapshots(datadir: Path) -> None:
    make_run(datadir, "--preset", "tiny")
    path = DataDir(datadir).manifest
    usual = decode_manifest(path.read_bytes())
    agreement = replace(usual.agreement, snapshot_every=EVERY)
    path.write_bytes(encode_manifest(replace(usual, agreement=agreement)))


def read_norms(node: RunningNode) -> tuple[float, float]:
    """What the last round's local work changed, and the residual after its payload was taken."""
    with urllib.request.urlopen(node.metrics_url(), timeout=10) as reply:
        text = reply.read().decode()
    found = dict(re.findall(r"^(demo_\w+_norm) (\S+)$", text, re.MULTILINE))
    return float(found["demo_delta_norm"]), float(found["demo_residual_norm"])


def wait_for_another_round(node: RunningNode) -> tuple[float, float]:
    """The norms of the next round that this process has trained."""
    before, _ = read_norms(node)
    seen = [(before, 0.0)]

    def look() -> bool:
        seen.append(read_norms(node))
        return not math.isnan(seen[-1][0]) and seen[-1][0] != before

    wait_until_sync(look, 60)
    return seen[-1]


def test_a_restart_loses_no_momentum(tmp_path: Path) -> None:
    """A residual that begins at zero is shorter than what was learned: a part of it was sent.

    One that goes on is longer: there is what other rounds left.
    """
    folder = tmp_path / "node"
    path = DataDir(folder).momentum
    make_run_of_many_snapshots(folder)
    with started(folder) as node:
        delta, residual = wait_for_another_round(node)
        assert residual < delta
        node.wait_for_status(lambda status: status.height >= 8)
        node.signal(signal.SIGTERM)
        assert node.wait() == 0
        assert read_events(node, "momentum.saved")
        assert not read_events(node, "momentum.restored")

    with started(folder) as node:
        delta, residual = wait_for_another_round(node)
        assert residual > delta
        assert len(read_events(node, "momentum.restored")) == 1
        os.kill(node.status().trainer_pid, signal.SIGKILL)
        wait_until_sync(lambda: len(read_events(node, "momentum.restored")) == 2, 60)
        delta, residual = wait_for_another_round(node)
        assert residual > delta
        node.process.kill()
        node.process.wait()

    with started(folder) as node:
        delta, residual = wait_for_another_round(node)
        assert residual > delta
        assert len(read_events(node, "momentum.restored")) == 1
        assert not read_events(node, "momentum.ignored")
        node.process.kill()
        node.process.wait()

    torn = path.read_bytes()
    path.write_bytes(torn[: len(torn) // 2])
    with started(folder) as node:
        delta, residual = wait_for_another_round(node)
        assert residual < delta
        (ignored,) = read_events(node, "momentum.ignored")
        assert ignored["reason"] == "it is cut off or too long"
        wait_until_sync(lambda: read_events(node, "momentum.saved"), 60)
