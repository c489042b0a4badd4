"""The decoder against the schema, and its parts against their definitions."""

import pytest
import torch
from torch import Tensor

from demo_node.learn.model import Decoder, Norm, compute_rope, load_state, rotate
from demo_protocol.presets import PRESETS
from demo_protocol.schema import compute_schema
from tests.learn.builders import make_state

TINY = PRESETS["tiny"].model


def make_decoder() -> Decoder:
    decoder = Decoder(TINY)
    load_state(decoder, make_state(compute_schema(TINY)))
    return decoder


def make_tokens(batch: int = 2, length: int = 64) -> Tensor:
    return torch.randint(0, 256, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("preset", ["tiny", "small", "base"])
def test_parameters_are_those_of_the_schema(preset: str) -> None:
    model = PRESETS[preset].model
    decoder = Decoder(model, torch.device("meta"))
    found = {name: tuple(p.shape) for name, p in decoder.named_parameters()}
    assert found == compute_schema(model).shapes


def test_parameters_lie_in_one_row_that_a_state_fills_at_once() -> None:
    decoder, state = make_decoder(), make_state(compute_schema(TINY))
    assert list(decoder.flat) == sorted(name for name, _ in decoder.named_parameters())
    storages = {p.untyped_storage().data_ptr() for p in decoder.parameters()}
    assert storages == {decoder.flat.row.untyped_storage().data_ptr()}
    for name, parameter in decoder.named_parameters():
        assert torch.equal(parameter, state[name])
        assert parameter.requires_grad
    assert not decoder.flat.row[decoder.flat.layout.padding].any()
    with pytest.raises(TypeError, match="stays on the device"):
        decoder.to("cpu")


def test_an_untrained_model_is_nearly_uniform() -> None:
    loss = make_decoder().loss(make_tokens(8, 65)).item()
    assert loss == pytest.approx(5.545, abs=0.3)  # ln 256


def test_a_position_sees_no_later_byte() -> None:
    decoder, tokens = make_decoder(), make_tokens()
    before = decoder(tokens)
    tokens[:, 40] = (tokens[:, 40] + 1) % 256
    after = decoder(tokens)
    assert torch.equal(before[:, :40], after[:, :40])
    assert not torch.allclose(before[:, 40:], after[:, 40:])


def test_rope_makes_products_depend_on_distance_only() -> None:
    cos, sin = compute_rope(32, 16)
    x, y = torch.randn(2, 16, generator=torch.Generator().manual_seed(1))
    rotated = rotate(x.expand(1, 1, 32, 16), cos, sin)[0, 0]
    other = rotate(y.expand(1, 1, 32, 16), cos, sin)[0, 0]
    assert (rotated[9] @ other[4]).item() == pytest.approx(
        (rotated[25] @ other[20]).item(), abs=1e-4
    )
    assert rotated.norm(dim=1).allclose(x.norm(), atol=1e-4)
    assert torch.equal(rotated[0], x)


def test_norm_divides_by_the_root_mean_square() -> None:
    norm = Norm(4)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    x = torch.tensor([1.0, -1.0, 3.0, 5.0])
    assert norm(x).allclose(x / 3.0 * norm.weight, atol=1e-5)  # rms 3


def test_more_positions_than_the_context_are_refused() -> None:
    with pytest.raises(AssertionError, match="context 64"):
        make_decoder()(make_tokens(1, 65))


def test_loading_a_state_without_a_tensor_is_an_error() -> None:
    state = make_state(compute_schema(TINY))
    del state["norm.weight"]
    with pytest.raises(KeyError, match=r"norm\.weight"):
        load_state(Decoder(TINY), state)
