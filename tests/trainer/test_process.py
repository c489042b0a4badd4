"""The trainer child: its start, and what crosses the socket."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import uvloop

from demo_node.history import History
from demo_node.native import find_codec
from demo_node.observe.meter import Meter
from demo_node.ports import Trained
from demo_node.trainer.client import TrainerClient
from demo_node.trainer.forkserver import check_device
from demo_node.trainer.pieces import PIECE_BYTES
from demo_node.trainer.settings import (
    UnknownState,
    compute_threads,
)
from demo_node.trainer.tensors import encode_tensors
from demo_protocol.errors import ConfigError, Reject
from demo_protocol.manifest import Learning, Model
from tests.builders import manifest
from tests.observe.test_metrics import exposition
from tests.trainer import builders, processes
from tests.trainer.builders import ENDLESS, GENESIS, apply_order, record, train_order
from tests.trainer.node import Node, with_node
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def test_the_child_computes_what_the_learner_computes(tmp_path: Path) -> None:
    local = builders.learner()

    async def test(node: Node) -> None:
        sent = local.train(train_order())
        digest = local.apply(apply_order(sent))
        assert await node.client.apply(apply_order(sent)) == digest
        assert await node.client.evaluate(record(1)) == local.evaluate(record(1))
        assert await node.client.generate(record(1), 9) == local.generate(record(1), 9)
        snapshot = b"".join([piece async for piece in node.client.snapshot(record(1))])
        assert snapshot == b"".join(local.snapshot(record(1)))
        assert await node.client.leaves(record(1)) == local.leaves(record(1))
        assert await node.client.tensor_digests(record(1)) == local.tensor_digests(record(1))
        assert await node.client.load(record(8), snapshot) == digest
        await node.client.forget([record(1)])
        with pytest.raises(UnknownState):
            await node.client.evaluate(record(1))

    with_node(tmp_path, test)


def test_what_was_sent_is_restored_or_released(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        first = await node.client.train(train_order())
        assert (first.k, first.samples, first.steps) == (2, 12, 3)
        await node.client.restore(0)
        again = await node.client.train(train_order(round=1))
        await node.client.release(1)
        assert (again.k, again.samples, again.steps) == (2, 12, 3)
        assert len(again.payload) > 0
        less = await node.client.train(train_order(round=2, k=1))
        assert (less.k, less.payload[:3]) == (1, b"\2\1\0")
        heartbeat = await node.client.train(train_order(round=2, sample_count=0))
        assert (heartbeat.k, heartbeat.payload) == (0, b"")

    with_node(tmp_path, test)


def test_payloads_and_states_of_many_megabytes_cross(tmp_path: Path) -> None:
    large = replace(
        manifest(learning=Learning(k=1400)),
        model=Model(layers=2, width=512, hidden=512, heads=8, context=8),
    )

    async def test(node: Node) -> None:
        trained = await node.client.train(train_order(sample_count=4, k=1400))
        assert len(trained.payload) > 3 * PIECE_BYTES
        digest = await node.client.apply(apply_order(trained, trained, trained))
        pieces = [piece async for piece in node.client.snapshot(record(1))]
        assert max(map(len, pieces)) < 4 << 20
        assert await node.client.load(record(2), b"".join(pieces)) == digest

    with_node(tmp_path, test, large)


def test_a_bad_payload_is_its_senders_fault(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        with pytest.raises(Reject):
            await node.client.apply(replace(apply_order(), payloads=(b"\1\2",)))
        await node.client.apply(apply_order())

    with_node(tmp_path, test)


def test_giving_up_on_training_stops_it(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(node.client.train(train_order(sample_count=ENDLESS)), 0.1)
        # Training is done one at a time: this one could not begin beside the other.
        assert (await asyncio.wait_for(node.client.train(train_order()), 10)).samples == 12

    with_node(tmp_path, test)


def test_signals_meant_for_the_service_leave_the_trainer_to_its_node(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        for sent in (signal.SIGTERM, signal.SIGINT):
            os.kill(node.supervisor.pid, sent)
        assert (await node.client.train(train_order())).samples == 12
        assert node.count("trainer.died") == 0

    with_node(tmp_path, test)


def find_sockets(folder: str) -> list[Path]:
    return list(Path(folder).glob("trainer-*/trainer.sock"))


def test_the_socket_is_private_and_goes_with_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Short: AF_UNIX takes some hundred bytes, pytest's folders alone come near.
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        pids: list[int] = []

        async def test(node: Node) -> None:
            (socket,) = find_sockets(folder)
            assert stat.S_IMODE(socket.stat().st_mode) == 0o600
            assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
            pids.append(node.supervisor.pid)

        with_node(tmp_path, test)
        assert not processes.is_alive(pids[0])
        assert not list(Path(folder).glob("trainer-*"))


def test_deadlines_are_by_the_nodes_clock(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        node.ahead_ms = 7_200_000  # it knows of a time zone that this machine does not
        late = await node.client.train(train_order(seconds=60))
        assert (late.k, late.samples) == (0, 0)
        ahead = train_order(seconds=60)
        ahead = replace(ahead, deadline_ms=ahead.deadline_ms + node.ahead_ms)
        assert (await node.client.train(ahead)).samples == 12
        begin_s = time.monotonic()
        soon = replace(ahead, deadline_ms=node.now_ms() + 300, sample_count=ENDLESS)
        assert (await node.client.train(soon)).samples > 0
        assert time.monotonic() - begin_s < 30

    with_node(tmp_path, test)


def test_it_trains_for_that_part_of_the_time_and_is_idle_for_the_rest(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        calm = TrainerClient(node.supervisor, node.now_ms, train_percent=1)
        order = replace(train_order(seconds=60), sample_count=ENDLESS)
        assert (await calm.train(order)).samples > 0
        assert node.now_ms() < order.deadline_ms - 30_000

    with_node(tmp_path, test)


def test_the_log_says_which_codec_is_used(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        codec = find_codec()
        (ready,) = (fields for name, fields in node.events if name == "trainer.ready")
        assert ready["codec"] == (codec.level if codec else "torch")

    with_node(tmp_path, test)


def test_the_trainer_gives_way_as_much_as_is_asked(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, node.supervisor.pid) == min(own + 10, 19)
        node.supervisor._settings = replace(node.supervisor._settings, nice=3)
        os.kill(node.supervisor.pid, signal.SIGKILL)
        await wait_until(lambda: node.count("trainer.ready") == 2)
        assert os.getpriority(os.PRIO_PROCESS, node.supervisor.pid) == min(own + 3, 19)

    with_node(tmp_path, test)


def read_nonfinite(*rounds: Trained) -> tuple[float, float]:
    """What /metrics says of these rounds: gradients and deltas."""
    meter = Meter()
    history = History(manifest(), meter)
    for trained in rounds:
        history.on_trained(trained, 0)
    meter.on_figures(history.figures())
    series = exposition(meter)
    gradients, deltas = (f'demo_train_nonfinite_total{{kind="{k}"}}' for k in ("gradient", "delta"))
    return series[gradients], series[deltas]


def test_what_the_trainer_has_to_say_reaches_the_node_and_metrics(tmp_path: Path) -> None:
    sound = safetensors.torch.load(b"".join(builders.learner().snapshot(GENESIS)))
    huge = {name: tensor.abs().clamp_min(1e-3) * 1e30 for name, tensor in sound.items()}

    async def test(node: Node) -> None:
        assert node.supervisor.micro_batch == 4
        await node.client.load(record(1), encode_tensors(huge))
        trained = await node.client.train(train_order(base=record(1)))
        assert (trained.k, trained.samples) == (0, 0)
        (said,) = [fields for name, fields in node.events if name == "training.diverged"]
        assert (said["round"], said["in_a_row"]) == (0, 1)
        then = await node.client.train(train_order(round=1))
        assert (then.k, then.samples) == (2, 12)
        assert read_nonfinite(trained, then) == (3, 0)
        assert node.count("trainer.died") == 0

    with_node(tmp_path, test)


def test_a_delta_that_is_not_finite_reaches_the_metrics_alone(tmp_path: Path) -> None:
    beyond = manifest(learning=Learning(k=2, inner_weight_decay_ppm=10**48))

    async def test(node: Node) -> None:
        trained = await node.client.train(train_order(sample_count=4))
        assert (trained.k, trained.payload, trained.samples) == (0, b"", 0)
        assert node.count("training.diverged") == 1
        assert read_nonfinite(trained) == (0, 1)

    with_node(tmp_path, test, beyond)


@pytest.mark.parametrize("name", ["cuda:99", "mps"])
def test_a_device_that_is_not_there_is_named_before_anything_is_joined(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device '{name}' is not available here"):
        check_device(name)
    check_device("cpu")


def test_settings_that_cannot_work_are_the_operators_to_fix(tmp_path: Path) -> None:
    node = Node(tmp_path, manifest())
    (tmp_path / "corpus").write_bytes(b"too short")

    async def main() -> None:
        await asyncio.wait_for(node.supervisor.run(), 30)

    with pytest.raises(ConfigError, match="the manifest says"):
        uvloop.run(main())


def test_the_node_process_does_without_torch() -> None:
    code = (
        "import sys, demo_node.trainer.client, demo_node.trainer.supervisor;"
        " sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nodes_share_the_cores_of_a_machine() -> None:
    cores = compute_threads()
    assert compute_threads(cores) == compute_threads(10 * cores) == 1
