"""Rule E7: the 8-bit scale code."""

from hypothesis import given
from hypothesis import strategies as st

from demo_protocol.manifest import Learning
from demo_protocol.scale import SCALE_VALUES, compute_unit_exponent, decode_scale, encode_scale


def test_e7_every_code_is_an_ascending_integer_and_encodes_to_itself() -> None:
    values = [decode_scale(code) for code in range(256)]
    assert values == sorted(set(values))
    assert (values[0], values[255]) == (16, 31 << 15)
    assert values == [(16 + code % 16) << (code // 16) for code in range(256)]
    assert [encode_scale(value) for value in values] == list(range(256))


@given(st.floats(0, 1e9, width=32))
def test_e7_no_other_code_is_nearer(magnitude: float) -> None:
    gap = abs(decode_scale(encode_scale(magnitude)) - magnitude)
    assert gap == min(abs(int(value) - magnitude) for value in SCALE_VALUES)


@given(st.integers(1, 10**9), st.sampled_from(["steps", "accumulate"]))
def test_the_unit_follows_the_learning_rate_within_a_factor_of_two(lr: int, local: str) -> None:
    learning = Learning(local=local, lr_ppb=lr, inner_lr_ppb=lr)
    bits = {"steps": 8, "accumulate": 20}[local]
    unit = 2.0 ** -(compute_unit_exponent(learning) - bits)
    assert unit <= lr / 1e9 < 2 * unit
