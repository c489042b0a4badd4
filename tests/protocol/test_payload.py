"""Rule T8 and the wire form of payloads."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_protocol.errors import Reject
from demo_protocol.payload import Payload, decode_payload, encode_payload, payload_bytes
from demo_protocol.schema import TensorSpec, build_schema
from tests.learn.builders import make_payload

SCHEMA = build_schema([TensorSpec("a", (100, 70)), TensorSpec("b", (5,))])  # 5 chunks
K_MAX = 200


def assert_equal(a: Payload, b: Payload) -> None:
    assert a.k == b.k
    assert a.positions.dtype == b.positions.dtype == np.uint16
    assert np.array_equal(a.positions, b.positions)
    assert np.array_equal(a.negative, b.negative)
    assert np.array_equal(a.scales, b.scales)


@given(k=st.integers(1, K_MAX), seed=st.integers(0, 2**32 - 1))
def test_decoding_inverts_encoding_and_the_length_is_the_stated_one(k: int, seed: int) -> None:
    payload = make_payload(SCHEMA, k, seed)
    raw = encode_payload(payload)
    assert len(raw) == payload_bytes(SCHEMA, k)
    assert_equal(decode_payload(raw, SCHEMA, K_MAX), payload)


def test_all_4096_coefficients_can_be_sent() -> None:
    payload = make_payload(SCHEMA, 4096, 1)
    assert_equal(decode_payload(encode_payload(payload), SCHEMA, 4096), payload)


def test_t4_a_heartbeat_has_no_payload() -> None:
    assert payload_bytes(SCHEMA, 0) == 0
    with pytest.raises(Reject):
        decode_payload(b"", SCHEMA, K_MAX)


@given(st.binary(max_size=600))
def test_garbage_is_only_ever_rejected(raw: bytes) -> None:
    with pytest.raises(Reject):
        decode_payload(raw, SCHEMA, K_MAX)


@given(seed=st.integers(0, 1000), at=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_what_decodes_encodes_to_the_same_bytes(seed: int, at: int, flip: int) -> None:
    raw = bytearray(encode_payload(make_payload(SCHEMA, 7, seed)))
    raw[at % len(raw)] ^= flip
    try:
        payload = decode_payload(bytes(raw), SCHEMA, K_MAX)
    except Reject:
        return
    assert encode_payload(payload) == raw


@given(st.binary(min_size=1, max_size=20), st.integers(1, 20))
def test_t8_any_other_length_is_rejected(more: bytes, fewer: int) -> None:
    raw = encode_payload(make_payload(SCHEMA, 8, 1))
    for wrong in (raw + more, raw[:-fewer]):
        with pytest.raises(Reject, match="bytes"):
            decode_payload(wrong, SCHEMA, K_MAX)


def test_k_beyond_the_manifest_is_rejected_before_the_length_is_looked_at() -> None:
    raw = encode_payload(make_payload(SCHEMA, 33, 1))
    with pytest.raises(Reject, match="k 33 is not in 1 to 32"):
        decode_payload(raw, SCHEMA, 32)
    with pytest.raises(Reject, match="k 0 is not"):
        decode_payload(b"\1\0\0", SCHEMA, 32)


def test_an_unknown_version_is_rejected() -> None:
    raw = encode_payload(make_payload(SCHEMA, 8, 1))
    with pytest.raises(Reject, match="version"):
        decode_payload(b"\2" + raw[1:], SCHEMA, K_MAX)


@pytest.mark.parametrize("order", [[5, 5, 9], [5, 4, 9], [9, 8, 7]])
def test_a_position_twice_or_out_of_order_is_rejected(order: list[int]) -> None:
    payload = make_payload(SCHEMA, 3, 1)
    payload.positions[2] = order
    with pytest.raises(Reject, match="ascend"):
        decode_payload(encode_payload(payload), SCHEMA, K_MAX)


def test_spare_bits_must_be_zero() -> None:
    raw = encode_payload(make_payload(SCHEMA, 3, 1))
    chunk = 5 + 1 + 1  # positions, signs, scale: 36 and 3 bits in 5 and 1 bytes
    assert len(raw) == 3 + 5 * chunk
    for at, bit in ((3 + 4, 0x80), (3 + 5, 0x08)):
        wrong = bytearray(raw)
        wrong[at] ^= bit
        with pytest.raises(Reject, match="spare"):
            decode_payload(bytes(wrong), SCHEMA, K_MAX)


def test_golden_payloads_have_these_bytes() -> None:
    path = Path(__file__).parents[1] / "vectors" / "payload.json"
    cases = json.loads(path.read_bytes())
    assert len(cases) == 4
    for case in cases:
        schema = build_schema(TensorSpec(n, tuple(s)) for n, s in case["tensors"].items())
        payload = decode_payload(bytes.fromhex(case["bytes"]), schema, case["k"])
        assert payload.k == case["k"]
        assert payload.positions.tolist() == case["positions"]
        assert payload.negative.astype(int).tolist() == case["negative"]
        assert payload.scales.tolist() == case["scales"]
        assert encode_payload(payload).hex() == case["bytes"]
