"""What a graphics card is asked for: as much whatever the tensors are, and nobody waits for it.

Shown on torch's device without values, where whoever reads one fails, and by what is dispatched.
test_cuda.py shows it where there is a card.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from demo_node.learn import digest as learn_digest
from demo_node.learn import exact
from demo_node.learn.demo import Encoder
from demo_node.learn.digest import compute_digest, mix_at_once
from demo_node.learn.exact import apply_update
from demo_node.learn.flat import Flat, find_layout
from demo_protocol.fp32 import Step, round_to_fp32_bits
from demo_protocol.manifest import Learning
from demo_protocol.schema import Schema, TensorSpec, build_schema
from tests.learn.builders import make_payload, make_schema, make_state
from tests.learn.recorder import Recorder

META = torch.device("meta")
LEARNING = Learning(k=8)
STEP = Step(round_to_fp32_bits(1, 100), round_to_fp32_bits(999, 1000))

FEW = build_schema(
    [
        TensorSpec("a", (64, 6400), 2),
        TensorSpec("b", (6336, 64), 2),
        TensorSpec("c", (4040,)),
    ]
)
MANY = build_schema(
    [
        *(TensorSpec(f"m{i}", (64, 64), 2) for i in range(199)),
        *(TensorSpec(f"v{i}", (40,)) for i in range(101)),
    ]
)


@pytest.fixture(autouse=True)
def no_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's device without values knows no autocast."""
    monkeypatch.setattr(exact, "pinned_precision", lambda _device: torch.no_grad())


def test_the_two_schemas_differ_in_tensors_alone() -> None:
    assert (len(FEW.tensors), len(MANY.tensors)) == (3, 300)
    assert FEW.chunks == MANY.chunks == 200
    assert all(len(find_layout(schema).padding) for schema in (FEW, MANY))


def encode(schema: Schema) -> Recorder:
    encoder = Encoder(schema, LEARNING, META)
    delta = Flat.zeros(encoder.layout, META)
    encoder.layout.lines(META)
    recorder = Recorder()
    with recorder, torch.no_grad():
        encoder.accumulate(delta)
        encoder._choose(8)
    assert not recorder.moved
    return recorder


def apply(schema: Schema) -> Recorder:
    state = Flat.zeros(find_layout(schema), META)
    payloads = [make_payload(schema, k, k) for k in (8, 8, 5)]
    apply_update(state, payloads, schema, STEP)  # constants are there from now on
    recorder = Recorder()
    with recorder:
        after = apply_update(state, payloads, schema, STEP)
    assert after.row.device == META
    # Positions, signs and values, of the payloads of either k.
    assert recorder.moved == ["_to_copy"] * 6
    return recorder


def fingerprint(schema: Schema) -> Recorder:
    state = Flat.of(make_state(schema), schema)
    recorder = Recorder()
    with recorder:
        mix_at_once(state)
    return recorder


@pytest.mark.parametrize("work", [encode, apply, fingerprint])
def test_as_much_is_asked_for_whatever_the_tensors_are(work: Callable[[Schema], Recorder]) -> None:
    few, many = work(FEW), work(MANY)
    assert len(few.launched) > 10
    assert few.launched == many.launched
    assert not few.waited
    assert not many.waited


def test_e12_a_card_computes_the_same_digest_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn_digest, "_BLOCK", 1000)
    state = make_state(make_schema())
    assert mix_at_once(Flat.of(state, make_schema())) == compute_digest(state)
    assert mix_at_once(dict(reversed(state.items()))) == compute_digest(state)


@pytest.mark.parametrize(
    ("work", "told"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: x[x > 1], "index"),
        (lambda x: bool((x > 1).any()), "is_nonzero"),
        (lambda x: torch.nonzero(x), "nonzero"),
        (lambda x: x.masked_select(x > 1), "masked_select"),
    ],
)
def test_a_wait_would_be_noticed(work: Callable[[Tensor], object], told: str) -> None:
    with Recorder() as recorder:
        work(torch.arange(4))
    assert set(recorder.waited) & {told, "_local_scalar_dense"}


def test_a_copy_to_another_device_would_be_noticed() -> None:
    with Recorder() as recorder:
        torch.arange(4).to(META)
    assert recorder.moved == ["_to_copy"]
