"""The layout of tensors in chunks, and the presets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_protocol.manifest import Model
from demo_protocol.payload import typical_payload_bytes
from demo_protocol.presets import PRESETS
from demo_protocol.schema import SLOTS, TensorSpec, build_schema, compute_schema


def test_tiny_has_147776_parameters_in_37_chunks() -> None:
    schema = compute_schema(PRESETS["tiny"].model)
    assert (schema.parameters, schema.chunks) == (147_776, 37)


@pytest.mark.parametrize(
    ("name", "layers", "width", "hidden", "context", "millions"),
    [
        ("tiny", 2, 64, 256, 64, 0.148),
        ("small", 4, 128, 512, 128, 1.082),
        ("base", 8, 320, 896, 512, 10.245),
        ("gpu", 14, 832, 2432, 1024, 123.985),
    ],
)
def test_a_preset_is_as_large_as_it_says(
    name: str, layers: int, width: int, hidden: int, context: int, millions: float
) -> None:
    model = PRESETS[name].model
    assert (model.layers, model.width, model.hidden) == (layers, width, hidden)
    assert model.context == context
    assert compute_schema(model).parameters == pytest.approx(millions * 1e6, rel=5e-3)
    assert model.width % (2 * model.heads) == 0


def test_t8_payloads_stay_below_their_bytes_per_parameter() -> None:
    base, tiny = (compute_schema(PRESETS[name].model) for name in ("base", "tiny"))
    for k, most in ((32, 0.0097), (8, 0.0031), (4, 0.0019)):
        assert typical_payload_bytes(base, k) / base.parameters <= most
    assert typical_payload_bytes(tiny, 128) / tiny.parameters <= 0.035


def test_the_tied_embedding_is_listed_once_and_names_are_sorted() -> None:
    names = [spec.name for spec in compute_schema(PRESETS["small"].model).tensors]
    assert names == sorted(set(names))
    assert sum("embedding" in name for name in names) == 1


shapes = st.lists(st.integers(0, 150), min_size=0, max_size=3).map(tuple)


@given(st.lists(shapes, min_size=1, max_size=6))
def test_every_element_has_a_slot_of_its_own(shapes: list[tuple[int, ...]]) -> None:
    schema = build_schema(TensorSpec(f"t{i}", shape) for i, shape in enumerate(shapes))
    chunk = 0
    for grid in schema.grids:
        assert grid.first == chunk
        assert grid.down * 64 - 64 < grid.rows <= grid.down * 64
        assert grid.across * 64 - 64 < grid.columns <= grid.across * 64
        chunk += grid.down * grid.across
    assert schema.span_first == chunk
    offset = 0
    for span in schema.spans:
        assert span.offset == offset
        offset += span.size
    assert offset <= (schema.chunks - chunk) * SLOTS < offset + SLOTS
    laid = sum(g.rows * g.columns for g in schema.grids) + offset
    assert laid == schema.parameters == sum(spec.size for spec in schema.tensors)


def test_a_scalar_is_a_vector_of_one_and_leading_dimensions_are_merged() -> None:
    schema = build_schema([TensorSpec("scalar", ()), TensorSpec("cube", (4, 16, 70))])
    assert schema.spans[0].size == 1
    assert (schema.grids[0].rows, schema.grids[0].columns, schema.grids[0].across) == (64, 70, 2)


def test_equal_names_are_refused() -> None:
    with pytest.raises(ValueError, match="same name"):
        build_schema([TensorSpec("a", (1,)), TensorSpec("a", (2,))])


def test_the_order_of_construction_does_not_matter() -> None:
    specs = [TensorSpec("b", (64, 64)), TensorSpec("a", (3,)), TensorSpec("c", (65, 2))]
    assert build_schema(specs) == build_schema(reversed(specs))


def test_init_bits_follow_the_fan_in() -> None:
    wide = compute_schema(Model(layers=2, width=1024, hidden=1024, heads=16, context=64))
    narrow = compute_schema(Model(layers=2, width=64, hidden=64, heads=1, context=64))
    for a, b in zip(wide.tensors, narrow.tensors, strict=True):
        assert a.init_bits is None or (b.init_bits is not None and a.init_bits == b.init_bits + 2)
