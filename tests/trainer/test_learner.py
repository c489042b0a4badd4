"""One node's learning, in process."""

import hashlib
import threading
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from demo_node.learn.model import Decoder
from demo_node.trainer.device import Devices, check_devices, choose_devices, limit_memory
from demo_node.trainer.learner import DIVERGED_OFTEN, LocalLearner
from demo_node.trainer.pieces import PIECE_BYTES, iterate_pieces
from demo_node.trainer.settings import UnknownState
from demo_protocol.errors import ConfigError, Reject
from demo_protocol.limits import STATE_CHUNK_BYTES
from demo_protocol.manifest import Learning, Manifest
from demo_protocol.merkle import compute_leaves
from demo_protocol.payload import decode_payload
from demo_protocol.scale import SCALE_VALUES
from tests.builders import manifest
from tests.trainer.builders import (
    CPU,
    ENDLESS,
    GENESIS,
    apply_order,
    corpus_bytes,
    learner,
    record,
    train_order,
)


def test_replicas_that_apply_the_same_payloads_are_equal() -> None:
    one, other = learner(), learner()
    sent = [one.train(train_order()), other.train(train_order(sample_first=100))]
    first = one.apply(apply_order(*sent))
    assert first == other.apply(apply_order(*reversed(sent)))
    assert first != one.apply(apply_order(sent[0], number=2))
    assert first != one.load(GENESIS, None)


def test_one_flipped_bit_of_a_payload_changes_the_digest() -> None:
    one = learner()
    sent = one.train(train_order())
    flipped = bytearray(sent.payload)
    flipped[6] ^= 1  # after version, k and two 12-bit positions: the first sign
    digest = one.apply(apply_order(sent))
    other = one.apply(apply_order(replace(sent, payload=bytes(flipped)), number=2))
    assert digest != other


def test_apply_while_train_runs_gives_what_it_gives_alone() -> None:
    alone, busy = learner(), learner()
    sent = alone.train(train_order())
    expected = alone.apply(apply_order(sent))
    applied: list[bytes] = []
    stop = threading.Event()
    order = train_order(sample_count=ENDLESS)
    trained: list[int] = []
    training = threading.Thread(
        target=lambda: trained.append(busy.train(order, should_stop=stop.is_set).k)
    )
    training.start()
    for number in range(1, 6):
        applied.append(busy.apply(apply_order(sent, number=number)))
    still_training = training.is_alive()
    stop.set()
    training.join()
    assert still_training
    assert set(applied) == {expected}


def test_apply_of_a_held_record_computes_nothing() -> None:
    one = learner()
    digest = one.apply(apply_order(one.train(train_order())))
    assert one.apply(apply_order(parent=record(77))) == digest


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


def sent_coefficients(one: LocalLearner, payload: bytes) -> torch.Tensor:
    """What a payload says, as a residual's shape."""
    sent = decode_payload(payload, one.schema, 4096)
    values = torch.from_numpy(SCALE_VALUES[sent.scales]).float()[:, None] * one._encoder.unit
    signs = 1 - 2 * torch.from_numpy(sent.negative).float()
    slots = torch.from_numpy(sent.positions.astype("int64"))
    return torch.zeros_like(one._encoder.residual).scatter_(1, slots, signs * values)


def test_restore_adds_back_exactly_what_was_sent() -> None:
    one = learner()
    trained = one.train(train_order(round=3))
    left = one._encoder.residual.clone()
    one.restore(3)
    assert torch.equal(one._encoder.residual, left + sent_coefficients(one, trained.payload))
    restored = one._encoder.residual.clone()
    one.restore(3)
    assert torch.equal(one._encoder.residual, restored)


def test_what_counted_is_not_added_back() -> None:
    one = learner()
    one.train(train_order(round=3))
    left = one._encoder.residual.clone()
    one.release(3)
    one.restore(3)
    assert torch.equal(one._encoder.residual, left)


def never(_device: torch.device) -> bool:
    return False


@pytest.mark.parametrize(
    "train",
    [
        pytest.param(lambda one: one.train(train_order(sample_count=0)), id="no samples"),
        pytest.param(lambda one: one.train(train_order(seconds=-1)), id="deadline is past"),
        pytest.param(lambda one: one.train(train_order(), lambda: True), id="told to stop"),
    ],
)
def test_without_work_there_is_a_heartbeat(train: Callable[[LocalLearner], object]) -> None:
    one = learner()
    assert getattr(train(one), "k", None) == 0
    assert not one._encoder.residual.any()


def test_whose_arithmetic_is_wrong_sends_heartbeats() -> None:
    one = learner(devices=choose_devices("cpu", is_exact=never))
    trained = one.train(train_order())
    assert (trained.k, trained.payload, trained.samples) == (0, b"", 0)


def test_a_device_that_fails_the_known_answer_leaves_updates_to_the_cpu() -> None:
    card, cpu = torch.device("cuda"), torch.device("cpu")
    assert check_devices(card, lambda device: device == cpu) == Devices(card, cpu)

    def lacks_an_operation(device: torch.device) -> bool:
        if device == card:
            raise NotImplementedError
        return True

    assert check_devices(card, lacks_an_operation) == Devices(card, cpu)
    assert not check_devices(card, never).can_contribute


def test_the_cpu_passes_the_known_answer_test() -> None:
    assert choose_devices("cpu") == CPU


@pytest.mark.parametrize("name", ["tpu", "cuda:99", ""])
def test_devices_that_are_not_there_are_the_operators_to_fix(name: str) -> None:
    with pytest.raises(ConfigError):
        choose_devices(name)


def test_who_runs_out_of_samples_returns_early() -> None:
    trained = learner().train(train_order(sample_count=10))
    assert (trained.samples, trained.steps, trained.tokens) == (10, 3, 160)


def ticking_learner(tick_ms: int) -> LocalLearner:
    """Its clock is at 0 and moves by `tick_ms` each time it is read."""
    now_ms = -tick_ms

    def read() -> int:
        nonlocal now_ms
        now_ms += tick_ms
        return now_ms

    run = manifest()
    corpus = torch.frombuffer(bytearray(corpus_bytes(run)), dtype=torch.uint8)
    made = LocalLearner(run, corpus, CPU, now_ms=read)
    made.load(GENESIS, None)
    return made


def test_training_ends_when_no_further_step_fits() -> None:
    trained = ticking_learner(10_000).train(train_order(deadline_ms=45_000, sample_count=1000))
    assert trained.steps == 5  # begun at 0, 10, 20, 30 and 40 s


def test_after_a_stall_the_next_round_trains_again() -> None:
    one = ticking_learner(1_000)
    one._trainer._step_ns.append(3_600_000_000_000)
    assert one.train(train_order(deadline_ms=5_000, sample_count=1000)).steps == 1


def test_a_candidate_trains_on_its_own_draws() -> None:
    member, candidate = learner(), learner()
    other = candidate.train(train_order(probation_key=bytes(range(32))))
    assert other.samples == 12
    assert other.loss_micronats != member.train(train_order()).loss_micronats


def test_training_together_learns() -> None:
    nodes = [learner(Learning(k=64)) for _ in range(2)]
    before = nodes[0].evaluate(GENESIS)
    base = GENESIS
    for number in range(1, 9):
        sent = [
            node.train(train_order(round=number, base=base, sample_first=number * 128 + 64 * i))
            for i, node in enumerate(nodes)
        ]
        digests = {node.apply(apply_order(*sent, number=number, parent=base)) for node in nodes}
        assert len(digests) == 1
        base = record(number)
        for node in nodes:
            node.release(number)
    assert nodes[0].evaluate(base) == nodes[1].evaluate(base) < before - 0.2
    assert nodes[0].generate(base, 20) == nodes[1].generate(base, 20) != b""


def test_accumulated_gradients_are_sent_too() -> None:
    one = learner(Learning(k=2, local="accumulate"))
    trained = one.train(train_order())
    assert (trained.k, trained.samples) == (2, 12)
    assert one.apply(apply_order(trained)) != one.load(GENESIS, None)


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


@pytest.mark.parametrize("sizes", [[], [0], [5], [PIECE_BYTES], [3, PIECE_BYTES, 0, 7], [1] * 9])
def test_pieces_are_full_and_joined_give_the_parts(sizes: list[int]) -> None:
    parts = [bytes([i]) * size for i, size in enumerate(sizes)]
    pieces = list(iterate_pieces(parts))
    assert b"".join(pieces) == b"".join(parts)
    assert all(len(piece) == PIECE_BYTES for piece in pieces[:-1])
    assert b"" not in pieces


AMPLE = 1 << 40
"""Bytes."""


class Heard:
    """What a learner had to say."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def __call__(self, name: str, **fields: object) -> None:
        self.events.append((name, fields))

    def names(self) -> list[str]:
        return [name for name, _fields in self.events]


def heard_learner() -> tuple[LocalLearner, Heard]:
    heard = Heard()
    one = learner(on_event=heard)
    return one, heard


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    """What happens to losses, one entry per batch; nothing where the list is empty."""
    planned: list[Callable[[torch.Tensor], torch.Tensor]] = []
    real = Decoder.loss

    def loss(decoder: Decoder, batch: torch.Tensor) -> torch.Tensor:
        found = real(decoder, batch)
        return planned.pop(0)(found) if planned else found

    monkeypatch.setattr(Decoder, "loss", loss)
    return planned


Fails = list[Callable[[torch.Tensor], torch.Tensor]]


def diverge(loss: torch.Tensor) -> torch.Tensor:
    return loss * float("nan")


def lack_memory(_loss: torch.Tensor) -> torch.Tensor:
    raise torch.OutOfMemoryError("out of memory: tried to allocate 2 GiB")


@pytest.mark.parametrize("fail", [diverge, lack_memory])
def test_a_round_that_comes_to_nothing_is_a_heartbeat_and_leaves_no_trace(
    fail: Callable[[torch.Tensor], torch.Tensor], fails: Fails
) -> None:
    (one, heard), fresh = heard_learner(), learner()
    # The second batch: the optimizer has moments by then. Memory lacks down to a single sample.
    fails.extend([lambda loss: loss, *[fail] * 3])
    trained = one.train(train_order(round=5))
    assert (trained.k, trained.payload, trained.samples) == (0, b"", 0)
    expected = "training.diverged" if fail is diverge else "training.out_of_memory"
    assert expected in heard.names()
    assert not one._encoder.residual.any()
    fails.clear()
    one._trainer.micro_batch = 4
    assert one.train(train_order(round=6)).payload == fresh.train(train_order(round=6)).payload


def test_a_diverged_delta_never_reaches_the_residual(fails: Fails) -> None:
    one, heard = heard_learner()
    # The step goes wrong, the loss before it was fine.
    fails.append(lambda loss: (loss - loss.detach()) * float("inf") + loss.detach())
    assert one.train(train_order(sample_count=4)).k == 0
    assert heard.names() == ["training.diverged"]
    assert torch.isfinite(one._encoder.residual).all()
    assert one.train(train_order(round=1)).k == 2
    assert torch.isfinite(one._encoder.residual).all()


def test_who_diverges_again_and_again_is_told_clearly(fails: Fails) -> None:
    one, heard = heard_learner()
    for round_ in range(DIVERGED_OFTEN):
        fails.extend([diverge] * 3)
        one.train(train_order(round=round_))
    assert heard.names() == ["training.diverged"] * DIVERGED_OFTEN + ["training.keeps_diverging"]
    assert f"{DIVERGED_OFTEN} rounds in a row" in str(heard.events[-1][1]["detail"])
    one.train(train_order(round=8))
    fails.append(diverge)
    one.train(train_order(round=9))
    assert heard.events[-1][1]["in_a_row"] == 1


def test_short_memory_halves_the_micro_batch_and_the_round_still_counts(fails: Fails) -> None:
    one, heard = heard_learner()
    fails.extend([lambda loss: loss, lack_memory])
    trained = one.train(train_order())
    assert (trained.k, trained.samples, trained.steps) == (2, 12, 3)
    (event,) = heard.events
    assert event[0] == "trainer.micro_batch_halved"
    assert (event[1]["before"], event[1]["samples"], one.micro_batch) == (4, 2, 2)


def test_a_rehearsal_finds_the_micro_batch_and_changes_nothing_else(fails: Fails) -> None:
    (one, heard), fresh = heard_learner(), learner()
    one.rehearse(AMPLE)
    assert (one.micro_batch, heard.events) == (4, [])
    assert one.train(train_order()).payload == fresh.train(train_order()).payload
    fails.extend([lambda loss: loss, lack_memory])  # one sample is measured first
    fresh.rehearse(AMPLE)
    assert fresh.micro_batch == 2


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


def test_a_cards_memory_is_capped_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    capped: list[tuple[float, object]] = []
    card = torch.device("cuda:1")
    properties = types.SimpleNamespace(total_memory=8 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: properties)
    monkeypatch.setattr(
        torch.cuda,
        "set_per_process_memory_fraction",
        lambda fraction, device: capped.append((fraction, device)),
    )
    limit_memory(card, 2048)
    limit_memory(card, 1 << 20)
    limit_memory(card, 0)
    limit_memory(torch.device("cpu"), 2048)
    assert capped == [(0.25, card), (1.0, card)]


def test_without_a_turn_what_was_learned_waits_in_the_residual() -> None:
    """And goes out with the next turn, decayed like momentum."""
    silent, heard = learner(), learner()
    trained = silent.train(train_order(round=3, sends=False))
    sent = heard.train(train_order(round=3))
    assert (trained.k, trained.payload, trained.samples) == (0, b"", sent.samples)
    whole = heard._encoder.residual + sent_coefficients(heard, sent.payload)
    assert torch.allclose(silent._encoder.residual, whole, atol=1e-6)
    before = silent._encoder.residual.clone()
    silent.restore(3)  # nothing was sent
    assert torch.equal(silent._encoder.residual, before)
