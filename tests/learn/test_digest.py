"""Rules E12 and E14 on tensors, and the known-answer test."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from demo_node.learn import digest as learn_digest
from demo_node.learn import exact
from demo_node.learn.digest import compute_digest, known_answer, sum_lanes
from demo_node.learn.exact import apply_update
from demo_node.learn.model import Decoder, load_state
from demo_node.native import torch_only
from demo_protocol import digest as protocol_digest
from demo_protocol.fp32 import Step
from demo_protocol.known_answer import (
    KNOWN_DIGESTS,
    PLANTED,
    compute_known_records,
    compute_known_state,
    known_schema,
)
from demo_protocol.payload import Payload, decode_payload, encode_payload
from demo_protocol.presets import PRESETS
from demo_protocol.schema import Schema, compute_schema
from tests.learn.builders import CPU, make_schema, make_state


def test_e12_tensors_have_the_digest_of_their_arrays() -> None:
    state = make_state(make_schema())
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    assert compute_digest(state) == protocol_digest.compute_digest(arrays)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50), st.integers(0, 2**33))
def test_e12_int32_lanes_of_a_card_give_the_same_sums(words: list[int], position: int) -> None:
    array = np.array(words, dtype=np.uint32)
    tensor = torch.from_numpy(array.view(np.int32))
    assert sum_lanes(tensor, position) == protocol_digest.sum_lanes(array, position)


def test_e12_a_card_may_work_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(1).integers(0, 2**32, 1000, dtype=np.uint32)
    monkeypatch.setattr(learn_digest, "_BLOCK", 64)
    found = sum_lanes(torch.from_numpy(array.view(np.int32)), 3)
    assert found == protocol_digest.sum_lanes(array, 3)


def test_e12_threads_do_not_change_the_digest() -> None:
    state = make_state(compute_schema(PRESETS["tiny"].model))
    before = torch.get_num_threads()
    digests = set()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        digests.add(compute_digest(state))
    torch.set_num_threads(before)
    assert len(digests) == 1


def test_e14_two_construction_orders_have_one_digest() -> None:
    model = PRESETS["tiny"].model
    state = make_state(compute_schema(model))
    decoder = Decoder(model)
    load_state(decoder, dict(reversed(state.items())))
    parameters = dict(decoder.named_parameters())
    assert compute_digest(parameters) == compute_digest(state)
    assert list(parameters) != sorted(parameters), "the test data would not notice"


def test_e14_the_state_is_the_parameters_without_buffers() -> None:
    decoder = Decoder(PRESETS["tiny"].model)
    assert [name for name, _ in decoder.named_buffers()] == ["cos", "sin"]
    assert decoder.state_dict().keys() == dict(decoder.named_parameters()).keys()


def test_the_known_answer_holds_on_this_processor() -> None:
    assert known_answer(CPU)


def test_the_known_answer_notices_a_step_that_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_one_bit(
        state: Mapping[str, Tensor], payloads: Sequence[Payload], schema: Schema, step: Step
    ) -> Mapping[str, Tensor]:
        moved = apply_update(state, payloads, schema, step)
        moved["vector"].view(torch.int32)[69] += 1
        return moved

    monkeypatch.setattr(learn_digest, "apply_update", off_by_one_bit)
    assert not known_answer(CPU)


def test_the_known_answer_notices_a_step_without_the_snap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exact, "SNAPPED_MAX", 0.0)
    with torch_only():
        assert not known_answer(CPU)


def test_the_known_records_cover_what_they_promise() -> None:
    schema = known_schema()
    records = compute_known_records(schema)
    assert len(records) == len(KNOWN_DIGESTS) == 3
    assert {payload.k for record in records for payload in record.payloads} == {
        1,
        7,
        16,
        32,
        128,
        4096,
    }
    assert any((payload.scales == 255).all() for payload in records[2].payloads)
    for record in records:
        for payload in record.payloads:
            decode_payload(encode_payload(payload), schema, 4096)
    for tensor in compute_known_state(schema).values():
        assert tuple(tensor.reshape(-1).view(np.uint32)[: len(PLANTED)]) == PLANTED
