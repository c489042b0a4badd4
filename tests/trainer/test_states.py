"""States of the parameters: from a snapshot, from the manifest's file; their leaves and digests."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from demo_node.trainer.settings import UnknownState
from demo_protocol.errors import ConfigError, Reject
from demo_protocol.limits import STATE_CHUNK_BYTES
from demo_protocol.manifest import Manifest
from demo_protocol.merkle import compute_leaves
from tests.builders import manifest
from tests.trainer.builders import GENESIS, apply_order, learner, record, train_order


def test_states_are_dropped_by_forget_and_missed_by_name() -> None:
    one = learner()
    one.forget([GENESIS, record(5)])
    for use in (
        lambda: one.train(train_order()),
        lambda: one.apply(apply_order()),
        lambda: one.evaluate(GENESIS),
        lambda: one.snapshot(GENESIS),
    ):
        with pytest.raises(UnknownState):
            use()


def test_a_snapshot_loads_into_the_same_digest() -> None:
    one, other = learner(), learner()
    digest = one.apply(apply_order(one.train(train_order())))
    raw = b"".join(one.snapshot(record(1)))
    assert other.load(record(9), raw) == digest
    assert b"".join(other.snapshot(record(9))) == raw


def test_rule_21_leaves_are_over_the_tensors_of_the_file_in_their_order() -> None:
    one = learner()
    raw = b"".join(one.snapshot(GENESIS))
    tensors = raw[8 + int.from_bytes(raw[:8], "little") :]
    assert one.leaves(GENESIS) == compute_leaves(tensors, STATE_CHUNK_BYTES)
    loaded = safetensors.torch.load(raw)
    assert tensors == b"".join(loaded[name].numpy().tobytes() for name in sorted(loaded))
    with pytest.raises(UnknownState):
        one.leaves(record(1))


def test_rule_20_each_tensor_has_a_digest_of_its_own() -> None:
    one, other = learner(), learner()
    names = sorted(one.schema.shapes)
    assert one.tensor_digests(GENESIS) == other.tensor_digests(GENESIS)
    before = one.tensor_digests(GENESIS)
    assert len(before) == len(names)
    one._get(GENESIS).tensors[names[3]].view(torch.int32).reshape(-1)[0] ^= 1
    after = one.tensor_digests(GENESIS)
    assert [at for at in range(len(names)) if before[at] != after[at]] == [3]
    with pytest.raises(UnknownState):
        one.tensor_digests(record(1))


def test_garbage_is_no_snapshot() -> None:
    with pytest.raises(Reject):
        learner().load(record(1), b"\xff" * 100)


@pytest.mark.parametrize("broken", ["missing", "shape", "dtype", "nan"])
def test_tensors_that_are_no_state_are_rejected(broken: str) -> None:
    one = learner()
    tensors = safetensors.torch.load(b"".join(one.snapshot(GENESIS)))
    name = "norm.weight"
    match broken:
        case "missing":
            del tensors[name]
        case "shape":
            tensors[name] = tensors[name][:-1].clone()
        case "dtype":
            tensors[name] = tensors[name].bfloat16()
        case _:
            tensors[name][3] = float("nan")
    with pytest.raises(Reject):
        one.load(record(1), safetensors.torch.save(tensors))


def initial_run(raw: bytes) -> Manifest:
    return replace(manifest(), initial=hashlib.sha256(raw).hexdigest())


def test_state_0_comes_from_the_file_that_the_manifest_names(tmp_path: Path) -> None:
    one = learner()
    digest = one.apply(apply_order(one.train(train_order())))
    raw = b"".join(one.snapshot(record(1)))
    (tmp_path / "initial").write_bytes(raw)
    other = learner(run=initial_run(raw), initial=tmp_path / "initial")
    assert other.load(GENESIS, None) == digest != one.load(GENESIS, None)


def write_other(path: Path) -> bytes:
    path.write_bytes(b"something else")
    return b"what the manifest names"


def write_nothing(path: Path) -> bytes:
    return b"what the manifest names"


def write_no_state(path: Path) -> bytes:
    raw = safetensors.torch.save({"weight": torch.zeros(3)})
    path.write_bytes(raw)
    return raw


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (write_other, "is not the snapshot that this run begins from"),
        (write_nothing, "No such file"),
        (write_no_state, "does not fit the model"),
    ],
)
def test_another_file_than_the_manifest_names_is_the_operators_to_fix(
    write: Callable[[Path], bytes], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "initial"
    run = initial_run(write(path))
    with pytest.raises(ConfigError, match=said):
        learner(run=run, initial=path)
    with pytest.raises(ConfigError, match="missing"):
        learner(run=run)
