"""What a trainer tells about its work, and that telling changes nothing of it."""

import itertools
import os
import signal
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from demo_node.learn.demo import Encoder, measure_norm
from demo_node.ports import Norms
from demo_node.trainer.settings import TrainerSettings
from demo_node.trainer.supervisor import Supervisor
from demo_node.trainer.usage import CpuTotal, read_usage
from demo_protocol.payload import Payload, encode_payload
from demo_protocol.schema import Schema
from tests.trainer.builders import apply_order, learner, record, train_order
from tests.trainer.node import Node, with_node
from tests.waiting import wait_until

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def test_norms_say_what_was_done_and_what_is_left() -> None:
    one = learner()
    norms = one.train(train_order()).norms
    assert norms is not None
    # All of the first delta is in the residual; the transform keeps lengths.
    before = norms.residual / norms.residual_ratio
    assert before == pytest.approx(norms.delta, rel=1e-5)
    left = torch.linalg.vector_norm(one._encoder.residual.double()).item()
    assert norms.residual == pytest.approx(left, rel=1e-6)
    assert 0 < norms.residual_ratio < 1
    again = one.train(train_order(round=1)).norms
    assert again is not None
    assert again.residual != norms.residual


def test_a_heartbeat_has_no_norms() -> None:
    assert learner().train(train_order(sample_count=0)).norms is None


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_norms_that_memory_is_too_short_for_cost_nothing_but_themselves(
    failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three that are measured one fails; payload and residual are those of a round without."""
    measured = itertools.count()

    def fail_once(tensors: Iterable[torch.Tensor]) -> float:
        if next(measured) == failing:
            raise torch.OutOfMemoryError("out of memory: tried to allocate 2 GiB")
        return measure_norm(tensors)

    heard: list[str] = []
    one, other = learner(on_event=lambda name, **_: heard.append(name)), learner()
    monkeypatch.setattr("demo_node.trainer.norms.measure_norm", fail_once)
    trained = one.train(train_order())
    assert (trained.k, trained.samples, trained.norms) == (2, 12, None)
    assert one.train(train_order(round=1)).norms is not None
    monkeypatch.undo()
    assert other.train(train_order()).payload == trained.payload
    other.train(train_order(round=1))
    assert torch.equal(one._encoder.residual, other._encoder.residual)
    assert next(measured) == 6
    assert not heard


def test_a_payload_that_cannot_be_written_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    one = learner()
    before: list[torch.Tensor] = []

    def lack_memory(_payload: Payload, _schema: Schema) -> bytes:
        raise MemoryError

    def note(tensors: Iterable[torch.Tensor]) -> float:
        before.append(torch.cat([tensor.flatten() for tensor in tensors]))
        return 1.0

    monkeypatch.setattr("demo_node.trainer.norms.measure_norm", note)
    monkeypatch.setattr("demo_node.trainer.learner.encode_payload", lack_memory)
    assert one.train(train_order()).k == 0
    _delta, accumulated = before
    assert accumulated.any()
    # But for the last bit: what was taken is subtracted and added again.
    torch.testing.assert_close(one._encoder.residual.flatten(), accumulated)
    one.restore(0)
    torch.testing.assert_close(one._encoder.residual.flatten(), accumulated)


def test_measuring_changes_no_bit_of_what_is_sent_or_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same deltas through a bare encoder, which nobody measures."""
    one = learner()
    bare = Encoder(one.schema, one.manifest.learning, torch.device("cpu"))
    deltas: list[dict[str, torch.Tensor]] = []
    accumulate = one._encoder.accumulate

    def noted(delta: dict[str, torch.Tensor]) -> None:
        deltas.append({name: tensor.clone() for name, tensor in delta.items()})
        accumulate(delta)

    monkeypatch.setattr(one._encoder, "accumulate", noted)
    for round_ in range(3):
        trained = one.train(train_order(round=round_, sample_first=12 * round_))
        bare.accumulate(deltas[-1])
        assert trained.payload == encode_payload(bare.encode(one.manifest.learning.k, round_))
        assert torch.equal(one._encoder.residual, bare.residual)


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1.0, 1e15])
def test_a_norm_is_that_of_all_elements_whatever_their_size(scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(shape, generator=generator) * scale for shape in ((70, 300), (5,), ())]
    kept = [tensor.clone() for tensor in tensors]
    whole = torch.cat([tensor.double().flatten() for tensor in tensors])
    expected = torch.linalg.vector_norm(whole).item()
    assert measure_norm(tensors) == pytest.approx(expected, rel=1e-5, abs=0)
    assert all(map(torch.equal, tensors, kept))


def test_norms_cross_the_socket(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        norms = (await node.client.train(train_order())).norms
        expected = learner().train(train_order()).norms
        assert isinstance(norms, Norms)
        assert expected is not None
        assert norms.gradient == pytest.approx(expected.gradient, rel=1e-3)
        assert norms.delta == pytest.approx(expected.delta, rel=1e-3)
        assert norms.residual == pytest.approx(expected.residual, rel=1e-3)
        assert norms.residual_ratio == pytest.approx(expected.residual_ratio, rel=1e-3)
        assert (await node.client.train(train_order(round=1, sample_count=0))).norms is None

    with_node(tmp_path, test)


def usage_of(node: Node) -> dict[tuple[str, ...], float]:
    return {(f.name, *f.labels): f.value for f in node.supervisor.figures()}


CPU_S = ("demo_trainer_cpu_seconds_total",)
RESIDENT = ("demo_trainer_memory_bytes", "process")
DEVICE = ("demo_trainer_memory_bytes", "device")


@on_linux
def test_processor_time_of_dead_trainers_stays_in_the_total(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        await node.client.apply(replace(apply_order(), record=record(1)))
        first = usage_of(node)
        assert first[CPU_S] > 0.01  # forked with torch in it; it has rehearsed a step
        assert first[RESIDENT] > 50 << 20
        assert first[DEVICE] == 0  # there is no graphics card
        os.kill(node.supervisor.pid, signal.SIGKILL)
        await wait_until(lambda: node.count("trainer.ready") == 2)
        heir = read_usage(node.supervisor.pid)
        assert heir is not None
        second = usage_of(node)
        assert second[CPU_S] >= first[CPU_S] + heir.cpu_s

    with_node(tmp_path, test)


def test_a_trainer_that_is_gone_takes_no_memory_and_its_time_stays() -> None:
    total = CpuTotal()
    seen = []
    for pid, cpu_s in ((7, 1.0), (7, 2.5), (8, 0.5), (8, 3.0), (9, 4.0)):
        total.see(pid, cpu_s)
        seen.append(total.seconds)
    assert seen == [1.0, 2.5, 3.0, 5.5, 9.5]


def test_what_a_process_uses_is_read_from_proc(tmp_path: Path) -> None:
    folder = tmp_path / "41"
    folder.mkdir()
    rest = "S 1 41 41 0 -1 4194304 1 0 0 0 250 50 0 0 20 0 3 0 1000 99999 {pages} 5 6"
    (folder / "stat").write_text("41 (a (odd) name) " + rest.format(pages=12))
    usage = read_usage(41, tmp_path)
    assert usage is not None
    assert usage.cpu_s == 300 / os.sysconf("SC_CLK_TCK")
    assert usage.resident_bytes == 12 * os.sysconf("SC_PAGE_SIZE")
    assert read_usage(42, tmp_path) is None


@on_linux
def test_this_very_process_can_be_read() -> None:
    usage = read_usage(os.getpid())
    assert usage is not None
    assert usage.cpu_s > 0
    assert usage.resident_bytes > 1 << 20


def test_without_a_trainer_nothing_is_taken() -> None:
    supervisor = Supervisor(TrainerSettings(manifest=b"", corpus=Path("corpus")))
    figures = {(f.name, *f.labels): f.value for f in supervisor.figures()}
    assert figures == {CPU_S: 0, RESIDENT: 0, DEVICE: 0}
