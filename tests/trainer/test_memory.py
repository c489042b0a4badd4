"""What fits: the numbers before anything is allocated, and one real lack of memory."""

import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from demo_node.learn.model import Decoder
from demo_node.trainer.device import Devices
from demo_node.trainer.memory import (
    Needs,
    check_fits,
    compute_needs,
    find_host_room,
    find_room,
    show_bytes,
)
from demo_node.trainer.pb import trainer_pb2 as pb
from demo_node.trainer.server import TrainerService
from demo_node.trainer.settings import DoesNotFit
from demo_protocol.manifest import Learning, Model, encode_manifest
from demo_protocol.schema import compute_schema
from tests.builders import manifest
from tests.trainer.builders import CPU, write_corpus

CARD = torch.device("cuda:0")

ROOT = Path(__file__).parents[2]
CRAMPED = Path(__file__).with_name("cramped_trainer.py")


def write_machine(root: Path, groups: str, files: dict[str, str]) -> None:
    """A machine with 8 GB available, as /proc and /sys tell it."""
    for name, text in {
        "proc/meminfo": "MemTotal:  16000000 kB\nMemAvailable:    8000000 kB\n",
        "proc/self/cgroup": groups,
        **files,
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_the_machine_limits_where_nothing_else_does(tmp_path: Path) -> None:
    write_machine(tmp_path, "0::/user\n", {"sys/fs/cgroup/user/memory.max": "max\n"})
    room = find_host_room(tmp_path)
    assert (room.bytes, room.where) == (8_000_000 << 10, "this machine")


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        pytest.param(
            "0::/pod/box\n",
            {
                "sys/fs/cgroup/pod/box/memory.max": "max\n",
                "sys/fs/cgroup/pod/memory.max": "3000\n",
                "sys/fs/cgroup/pod/memory.current": "2500\n",
                "sys/fs/cgroup/pod/memory.stat": "anon 2000\ninactive_file 400\n",
            },
            id="v2, in a parent",
        ),
        pytest.param(
            "5:cpu:/\n4:memory:/box\n0::/\n",
            {
                "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "3000\n",
                "sys/fs/cgroup/memory/box/memory.usage_in_bytes": "2100\n",
            },
            id="v1",
        ),
    ],
)
def test_a_control_group_leaves_its_limit_less_what_is_used(
    groups: str, files: dict[str, str], tmp_path: Path
) -> None:
    write_machine(tmp_path, groups, files)
    room = find_host_room(tmp_path)
    assert (room.bytes, room.where) == (900, "this process's control group")


def test_a_limit_of_the_process_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_machine(tmp_path, "", {"proc/self/status": "Name:\tx\nVmSize:\t  3000 kB\n"})
    limits = {resource.RLIMIT_AS: 5000 << 10, resource.RLIMIT_DATA: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limits[which], 0))
    assert find_host_room(tmp_path).bytes == 2000 << 10
    assert "ulimit -v" in find_host_room(tmp_path).where


def test_a_card_has_what_is_free_and_not_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (6 << 30, 8 << 30))
    assert find_room(CARD).bytes == 6 << 30
    assert find_room(CARD, 1024).bytes == 1 << 30
    assert find_room(CARD, 1 << 20).bytes == 6 << 30


NEEDS = Needs(parameters=2_000_000_000, train=40 * 10**9, apply=70 * 10**9)


def test_a_model_that_cannot_fit_is_refused_with_the_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (45 * 10**9, 80 * 10**9))
    with pytest.raises(DoesNotFit) as both:
        check_fits(NEEDS, Devices(CARD, CARD), 0)
    said = str(both.value)
    assert "110.0 GB for 8 states of 2,000,000,000 parameters" in said
    assert "the card cuda:0 has 45.0 GB free: use" in said
    small_host = replace(NEEDS, apply=10**18)
    with pytest.raises(DoesNotFit, match=r"1000000000\.0 GB for 8 states"):
        check_fits(small_host, Devices(CARD, CPU.apply), 0)
    check_fits(replace(NEEDS, apply=10**6), Devices(CARD, CPU.apply), 0)
    with pytest.raises(DoesNotFit, match=r"has 31\.5 GB free"):
        check_fits(replace(NEEDS, apply=10**6), Devices(CARD, CPU.apply), 30_000)


def test_what_a_model_needs_grows_with_its_parameters_and_its_optimizer() -> None:
    schema = compute_schema(Model(layers=2, width=512, hidden=1024, heads=8, context=8))
    steps = compute_needs(schema, Learning())
    state = 4 * schema.parameters
    # Weights, gradient, delta, reader, two moments, residual, its copy; eight states, an update.
    assert 8 * state <= steps.train < 8.1 * state
    assert 9 * state < steps.apply < 9.5 * state
    assert compute_needs(schema, Learning(local="accumulate")).train == steps.train - 2 * state


@pytest.mark.parametrize(
    ("count", "shown"), [(30_000_000, "30 MB"), (1_540_000_000, "1.5 GB"), (0, "0 MB")]
)
def test_bytes_for_people(count: int, shown: str) -> None:
    assert show_bytes(count) == shown


def run_cramped(folder: Path, run_changes: Model, room_mb: int) -> dict[str, str]:
    """A process that may only take so much more memory than torch already has."""
    run = replace(
        manifest(learning=Learning(k=2, micro_batch=64, samples_start=64)), model=run_changes
    )
    run = replace(run, data=replace(run.data, train_bytes=400_000, heldout_bytes=2_000))
    (folder / "manifest").write_bytes(encode_manifest(run))
    write_corpus(folder, run)
    done = subprocess.run(
        [sys.executable, str(CRAMPED), str(folder), str(room_mb)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


@pytest.mark.slow
def test_real_short_memory_halves_and_still_contributes(tmp_path: Path) -> None:
    # 64 samples of 1024 positions keep some 1.3 GB of activations for backward.
    found = run_cramped(tmp_path, Model(layers=4, width=64, hidden=256, heads=1, context=1024), 700)
    assert 1 <= int(found["micro_batch"]) < 64
    assert found["events"].startswith("trainer.micro_batch_halved")
    assert (found["k"], int(found["samples"])) == ("2", 64)


def test_real_lack_of_memory_refuses_with_the_numbers(tmp_path: Path) -> None:
    found = run_cramped(tmp_path, Model(layers=4, width=512, hidden=2048, heads=8, context=8), 200)
    assert "this model needs about" in found["refused"]
    assert "this process's address space (ulimit -v) has" in found["refused"]


def test_where_not_one_sample_fits_the_start_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks(_decoder: Decoder, _batch: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] can't allocate memory: you tried")

    monkeypatch.setattr(Decoder, "loss", lacks)
    corpus = write_corpus(tmp_path, manifest())
    request = pb.ConfigureRequest(
        manifest=encode_manifest(manifest()), corpus=str(corpus), device="cpu"
    )
    with pytest.raises(DoesNotFit, match=r"and more for one sample at a time; .* free: use"):
        TrainerService()._make_learner(request)
