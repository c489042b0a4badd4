"""One row for all tensors, and chunks out of it and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from demo_node.learn.flat import Flat, find_layout
from demo_protocol.errors import LocalFault
from demo_protocol.presets import PRESETS
from demo_protocol.schema import TensorSpec, build_schema, compute_schema
from tests.learn.builders import cut, make_delta, make_schema, make_state

shapes = st.lists(st.integers(0, 140), max_size=3).map(tuple)


@given(st.lists(shapes, min_size=1, max_size=4))
def test_tensors_come_back_from_chunks(shapes: list[tuple[int, ...]]) -> None:
    schema = build_schema(TensorSpec(f"t{i}", shape) for i, shape in enumerate(shapes))
    tensors = make_delta(schema, 1)
    chunks = cut(tensors, schema)
    assert chunks.shape == (schema.chunks, 64, 64)
    assert chunks.count_nonzero() == sum(int(t.count_nonzero()) for t in tensors.values())
    layout = find_layout(schema)
    found = Flat(layout.join(chunks), layout)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert not found.row[layout.padding].any()
    assert len(layout.padding) == layout.size - schema.parameters


def test_blocks_of_a_matrix_lie_in_row_major_order() -> None:
    schema = make_schema()
    tensors = {name: torch.zeros(shape) for name, shape in schema.shapes.items()}
    tensors["a.weight"][70, 129] = 1.0  # block row 1, block column 2 of 2 x 3
    assert cut(tensors, schema)[5, 6, 1] == 1.0
    tensors["b.weight"][64, 3] = 2.0
    assert cut(tensors, schema)[7, 0, 3] == 2.0
    tensors["d.bias"].fill_(3.0)
    assert cut(tensors, schema)[8, 1, 6] == 3.0  # after the 70 elements of c.bias


def test_tensors_share_the_row_and_are_themselves_where_they_are_one_already() -> None:
    schema = make_schema()
    flat = Flat.of(make_state(schema), schema)
    flat["b.weight"][3, 4] = 7.0
    assert 7.0 in flat.row
    assert Flat.of(flat, schema) is flat
    assert Flat.of(dict(flat), schema) is not flat
    assert list(flat) == [spec.name for spec in schema.tensors]
    assert len(flat) == len(schema.tensors)


def test_tensors_of_every_preset_are_contiguous_and_only_vectors_are_padded() -> None:
    for preset in ("tiny", "small", "base"):
        schema = compute_schema(PRESETS[preset].model)
        layout = find_layout(schema)
        views = layout.view(torch.zeros(layout.size))
        assert all(view.is_contiguous() for view in views.values())
        assert layout.padding.min() > schema.span_first * 4096


def test_a_tensor_of_another_shape_is_refused_and_not_repeated() -> None:
    schema = make_schema()
    with pytest.raises(LocalFault, match=r"c\.bias"):
        Flat.of(make_state(schema) | {"c.bias": torch.ones(1)}, schema)


def test_the_layout_of_a_schema_is_made_once() -> None:
    assert find_layout(make_schema()) is find_layout(make_schema())
