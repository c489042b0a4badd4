"""What two real nodes say of training, trainer, store and rounds in their metrics."""

import asyncio
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from demo_node.control.client import control_client
from demo_node.views import Outcome, Phase
from tests.e2e.nodes import LONG_S, RunningNode, make_run, started
from tests.e2e.swarm_run import read_metrics
from tests.waiting import wait_until_sync

pytestmark = [pytest.mark.swarm, pytest.mark.slow, pytest.mark.timeout(300)]

ALL = [Phase.TRAIN, Phase.CONTRIBUTE, Phase.PROPOSE, Phase.SETTLE]
EVERY = ("--evaluate-every", "2")


@dataclass(frozen=True, slots=True)
class Pair:
    """One that trains, and one that only keeps and serves. `losses`: held-out, by round."""

    trains: RunningNode
    keeps: RunningNode
    losses: tuple[dict[int, float], dict[int, float]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """After some rounds together."""
    folder = tmp_path_factory.mktemp("figures")
    make_run(folder / "first", "--preset", "tiny", "--genesis", datetime.now(UTC).isoformat())
    with (
        started(folder / "first", "start", *EVERY) as first,
        started(folder / "second", *first.invitation(), *EVERY, "--no-train") as second,
    ):
        second.wait_until_active()
        yield Pair(first, second, asyncio.run(watch_losses(first, second)))


async def watch_losses(
    first: RunningNode, second: RunningNode
) -> tuple[dict[int, float], dict[int, float]]:
    """Held-out losses of two nodes by round, as soon as they have two rounds in common."""
    ours: dict[int, float] = {}
    theirs: dict[int, float] = {}
    async with (
        asyncio.timeout(LONG_S),
        control_client(first.datadir) as one,
        control_client(second.datadir) as other,
    ):
        async for status in other.watch(interval_ms=200):
            theirs[status.heldout_round] = status.heldout_loss
            mine = await one.status()
            ours[mine.heldout_round] = mine.heldout_loss
            if len(ours.keys() & theirs.keys() - {-1}) >= 2:
                break
    ours.pop(-1, None)  # before the first look
    theirs.pop(-1, None)
    return ours, theirs


def test_equal_replicas_have_equal_held_out_losses_of_the_same_rounds(pair: Pair) -> None:
    ours, theirs = pair.losses
    common = ours.keys() & theirs.keys()
    assert all(round_ % 2 == 0 for round_ in ours.keys() | theirs.keys())
    assert [ours[r] for r in sorted(common)] == [theirs[r] for r in sorted(common)]
    assert all(0 < ours[round_] < 8 for round_ in common)


def test_the_node_that_trains_says_how(pair: Pair) -> None:
    series = read_metrics(pair.trains.metrics_url())
    assert series["demo_learning_rate"] > 0
    assert series["demo_delta_norm"] > 0
    assert series["demo_residual_norm"] > 0
    assert 0 < series["demo_residual_norm_ratio"] < 1
    assert series["demo_train_step_seconds_count"] > 0
    assert math.isfinite(series["demo_heldout_loss"])
    assert series["demo_heldout_round"] % 2 == 0
    assert series['demo_op_seconds_count{op="evaluate"}'] >= 2


def test_the_node_that_keeps_says_what_came(pair: Pair) -> None:
    series = read_metrics(pair.keeps.metrics_url())
    accepted = series['demo_payloads_total{verdict="accepted"}']
    assert accepted >= 2
    assert series['demo_payload_bytes_count{direction="received"}'] >= accepted
    assert series['demo_payloads_total{verdict="rejected"}'] == 0
    assert series["demo_train_samples_total"] == 0
    assert math.isnan(series["demo_delta_norm"])


def test_trainers_and_disks_are_told_by_both(pair: Pair) -> None:
    for node in (pair.trains, pair.keeps):
        series = read_metrics(node.metrics_url())
        assert series["demo_sync_seconds_count"] == 1
        assert 0 < series["demo_sync_seconds_sum"] < 200
        assert series["demo_trainer_cpu_seconds_total"] > 0
        assert series['demo_trainer_memory_bytes{kind="process"}'] > 50 << 20
        assert series['demo_trainer_memory_bytes{kind="device"}'] == 0
        assert series["demo_datadir_free_bytes"] > 0


def test_a_snapshot_shows_its_size_and_when_it_was_written(pair: Pair) -> None:
    path = Path(pair.keeps.ask(lambda client: client.save_snapshot()))
    size = path.stat().st_size

    def is_shown() -> bool:
        series = read_metrics(pair.keeps.metrics_url())
        saved_s = series["demo_snapshot_last_success_timestamp_seconds"]
        return series["demo_snapshot_bytes"] == size and 0 < saved_s <= time.time()

    wait_until_sync(is_shown, LONG_S)


@pytest.mark.parametrize("who", ["trains", "keeps"])
def test_the_phases_of_real_rounds_add_up_to_their_latency(pair: Pair, who: str) -> None:
    node: RunningNode = getattr(pair, who)
    recorded = [view for view in node.rounds() if view.outcome in (Outcome.RECORDED, Outcome.LATE)]
    assert len(recorded) >= 2
    for view in recorded:
        phases = [part.phase for part in view.phases]
        assert phases == [phase for phase in ALL if phase in phases]
        assert sum(part.end_ms - part.begin_ms for part in view.phases) == view.latency_ms
        ends = [part.end_ms for part in view.phases]
        assert [part.begin_ms for part in view.phases[1:]] == ends[:-1]
        assert phases[0] is Phase.TRAIN  # by the clock, where nothing was trained
    assert any(view.samples for view in recorded) == (who == "trains")


def test_what_two_nodes_exchange_is_told_apart(pair: Pair) -> None:
    series = read_metrics(pair.keeps.metrics_url())
    for direction, protocols in (
        ("in", ("gossip", "payload", "sync", "other")),
        ("out", ("gossip", "sync", "other")),
    ):
        for protocol in protocols:
            labels = f'direction="{direction}",protocol="{protocol}"'
            assert series[f"demo_network_bytes_total{{{labels}}}"] > 0, labels
    assert series["demo_peers_known"] >= 1
    assert series['demo_dials_total{result="connected"}'] >= 1
    assert series['demo_peer_connections{direction="out"}'] == 1
    assert series['demo_peer_connections{direction="in"}'] == 0
    assert series['demo_peer_changes_total{change="connected"}'] >= 1
    assert series['demo_gossip_mesh_peers{topic="headers"}'] == 1
    assert series['demo_pulls_total{kind="payload",result="ok"}'] >= 1
    assert series["demo_peer_rtt_seconds_count"] >= 1
    assert series['demo_gossip_arrival_seconds_count{topic="headers"}'] >= 1
    assert series['demo_gossip_arrival_seconds_count{topic="proposals"}'] >= 1
