"""`demo-node bench swarm`: does learning together pay, also in a short run?"""

import json
import subprocess
import sys
from typing import Any

import pytest

ROW_KEYS = {
    "what",
    "nodes",
    "rounds",
    "micro_batches_per_node",
    "k",
    "loss_mean",
    "loss_seeds",
    "payload_bytes_per_parameter",
    "bytes_sent_per_node_per_round",
    "digests_equal",
}


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "demo_node.cli", "bench", "swarm", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=110)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    done = bench("--quick", "--json", "--nodes", "4", "--only", "swarm", "--only", "plain")
    assert done.returncode == 0, done.stderr
    assert "swarm-4, seed 0" in done.stderr
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


def row(document: dict[str, Any], what: str) -> dict[str, Any]:
    (found,) = [row for row in document["rows"] if row["what"] == what]
    return dict(found)


@pytest.mark.slow
def test_four_nodes_beat_one_machine(document: dict[str, Any]) -> None:
    swarm, plain = row(document, "swarm"), row(document, "plain")
    assert swarm["micro_batches_per_node"] == plain["micro_batches_per_node"] == 320
    assert swarm["loss_mean"] < 0.97 * plain["loss_mean"]
    assert document["ratios"]["swarm-4/plain-1"] == swarm["loss_mean"] / plain["loss_mean"]


@pytest.mark.slow
def test_the_document_has_its_keys(document: dict[str, Any]) -> None:
    assert document.keys() == {"schema", "machine", "rows", "ratios"}
    assert document["schema"] == 1
    for row in document["rows"]:
        assert row.keys() >= ROW_KEYS
        assert len(row["loss_seeds"]) == 1


@pytest.mark.slow
def test_all_nodes_end_with_the_same_parameters(document: dict[str, Any]) -> None:
    assert row(document, "swarm")["digests_equal"] is True


@pytest.mark.slow
def test_payloads_stay_below_their_bound(document: dict[str, Any]) -> None:
    swarm = row(document, "swarm")
    assert swarm["k"] == 128
    assert 0 < swarm["payload_bytes_per_parameter"] <= 0.033
    # Three others pull it; gossip comes on top.
    pulled = 3 * swarm["payload_bytes_per_parameter"] * 147_776
    assert pulled < swarm["bytes_sent_per_node_per_round"] < 1.5 * pulled


def test_a_change_that_is_none_is_named() -> None:
    done = bench("--learning", "k")
    assert done.returncode == 2
    assert "KEY=INTEGER" in done.stderr
