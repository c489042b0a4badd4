"""Rule T8 and the wire form of payloads."""

import json
import tracemalloc
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_protocol.errors import Reject
from demo_protocol.payload import (
    PREFIX_BYTES,
    Payload,
    decode_payload,
    encode_payload,
    fixed_bytes,
    payload_bytes_range,
    rice_bits,
    typical_payload_bytes,
)
from demo_protocol.schema import SLOTS, TensorSpec, build_schema
from tests.learn.builders import make_payload

SCHEMA = build_schema([TensorSpec("a", (100, 70)), TensorSpec("b", (5,))])  # 5 chunks
K_MAX = 200


def assert_equal(a: Payload, b: Payload) -> None:
    assert a.k == b.k
    assert a.positions.dtype == b.positions.dtype == np.uint16
    assert np.array_equal(a.positions, b.positions)
    assert np.array_equal(a.negative, b.negative)
    assert np.array_equal(a.scales, b.scales)


def alike(positions: list[int], scales: list[int], *, negative: bool = False) -> Payload:
    """The same positions in every chunk."""
    chunks = np.tile(np.array(positions, dtype=np.uint16), (SCHEMA.chunks, 1))
    signs = np.full(chunks.shape, negative)
    return Payload(len(positions), chunks, signs, np.array(scales, dtype=np.uint8))


@given(k=st.integers(1, K_MAX), seed=st.integers(0, 2**32 - 1))
def test_decoding_inverts_encoding_and_the_length_is_a_possible_one(k: int, seed: int) -> None:
    payload = make_payload(SCHEMA, k, seed)
    raw = encode_payload(payload)
    assert len(raw) in payload_bytes_range(SCHEMA, k)
    assert_equal(decode_payload(raw, SCHEMA, K_MAX), payload)


def test_all_4096_coefficients_can_be_sent() -> None:
    payload = make_payload(SCHEMA, SLOTS, 1)
    raw = encode_payload(payload)
    assert_equal(decode_payload(raw, SCHEMA, SLOTS), payload)
    assert payload_bytes_range(SCHEMA, SLOTS).start <= len(raw)


@pytest.mark.parametrize("k", [1, 4, 31, 32, 128, 2047, 4096])
def test_t8_no_payload_is_longer_or_shorter_than_the_stated_bounds(k: int) -> None:
    lengths = payload_bytes_range(SCHEMA, k)
    first, last = list(range(k)), list(range(SLOTS - k, SLOTS))
    shortest = encode_payload(alike(first, [128] * 5))
    longest = encode_payload(alike(last, [0, 128, 0, 128, 0], negative=True))
    assert len(shortest) == lengths.start
    # Bits are counted, and gaps at the end of a chunk may stay below a whole quotient.
    assert lengths.stop - 1 - 5 * k // 8 - 2 <= len(longest) < lengths.stop


def test_t8_the_longest_payload_has_exactly_the_greatest_length() -> None:
    r = rice_bits(3)
    assert r == 9
    widest = [7 << r, (7 << r) + 1, (7 << r) + 2]
    raw = encode_payload(alike(widest, [0, 128, 0, 128, 0]))
    assert len(raw) == payload_bytes_range(SCHEMA, 3).stop - 1


@pytest.mark.parametrize(("k", "r"), [(1, 10), (4, 9), (8, 8), (32, 6), (128, 4), (600, 2)])
def test_the_parameter_follows_from_k_and_is_the_best_one_for_uniform_positions(
    k: int, r: int
) -> None:
    assert rice_bits(k) == r
    positions = np.sort(np.argsort(np.random.default_rng(1).random((400, SLOTS)))[:, :k])
    gaps = np.diff(positions, prepend=-1) - 1
    bits = [int((gaps >> other).sum()) + gaps.size * (1 + other) for other in range(12)]
    assert min(bits) >= 0.995 * bits[r]


@pytest.mark.parametrize("k", [4, 8, 32, 128])
def test_the_typical_length_is_that_of_uniform_positions_and_like_scales(k: int) -> None:
    schema = build_schema([TensorSpec("a", (64 * 50, 64 * 10))])
    payload = make_payload(schema, k, 3, code_min=100, code_max=102)
    ratio = len(encode_payload(payload)) / typical_payload_bytes(schema, k)
    assert ratio == pytest.approx(1, abs=0.02)


def test_t4_a_heartbeat_has_no_payload() -> None:
    assert list(payload_bytes_range(SCHEMA, 0)) == [0]
    assert typical_payload_bytes(SCHEMA, 0) == 0
    with pytest.raises(Reject):
        decode_payload(b"", SCHEMA, K_MAX)


@given(st.binary(max_size=600))
def test_garbage_is_only_ever_rejected(raw: bytes) -> None:
    with pytest.raises(Reject):
        decode_payload(raw, SCHEMA, K_MAX)


@given(k=st.integers(1, 40), body=st.binary(max_size=600))
def test_garbage_behind_a_sound_prefix_is_rejected_or_has_one_encoding(k: int, body: bytes) -> None:
    raw = b"\2" + k.to_bytes(2, "little") + body
    try:
        payload = decode_payload(raw, SCHEMA, K_MAX)
    except Reject:
        return
    assert encode_payload(payload) == raw


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
def test_bytes_too_many_or_too_few_are_rejected(more: bytes, fewer: int) -> None:
    raw = encode_payload(make_payload(SCHEMA, 8, 1))
    for wrong in (raw + more, raw[:-fewer]):
        with pytest.raises(Reject, match="codes"):
            decode_payload(wrong, SCHEMA, K_MAX)


def test_t8_an_impossible_length_is_rejected_before_anything_is_unpacked() -> None:
    raw = encode_payload(make_payload(SCHEMA, 8, 1))
    lengths = payload_bytes_range(SCHEMA, 8)
    for wrong in (raw[: lengths.start - 1], raw.ljust(lengths.stop, b"\1")):
        with pytest.raises(Reject, match="bytes;"):
            decode_payload(wrong, SCHEMA, K_MAX)


def test_k_beyond_the_manifest_is_rejected_before_the_length_is_looked_at() -> None:
    raw = encode_payload(make_payload(SCHEMA, 33, 1))
    with pytest.raises(Reject, match="k 33 is not in 1 to 32"):
        decode_payload(raw, SCHEMA, 32)
    with pytest.raises(Reject, match="k 0 is not"):
        decode_payload(b"\2\0\0", SCHEMA, 32)


@pytest.mark.parametrize("version", [0, 1, 3])
def test_an_unknown_version_is_rejected(version: int) -> None:
    raw = encode_payload(make_payload(SCHEMA, 8, 1))
    with pytest.raises(Reject, match="version"):
        decode_payload(bytes([version]) + raw[1:], SCHEMA, K_MAX)


def test_a_position_twice_or_out_of_order_cannot_be_said() -> None:
    """A gap is never negative: what a sender makes of such positions is something else."""
    for order in ([5, 5, 9], [5, 4, 9]):
        raw = encode_payload(alike(order, [7] * 5))
        with pytest.raises(Reject):
            decode_payload(raw, SCHEMA, K_MAX)


def test_a_position_beyond_the_chunk_is_rejected() -> None:
    beyond = encode_payload(alike([5, 6, SLOTS], [7] * 5))
    with pytest.raises(Reject, match="beyond"):
        decode_payload(beyond, SCHEMA, K_MAX)


def test_a_scale_code_out_of_range_is_rejected() -> None:
    raw = encode_payload(alike([0], [7] * 5))
    middle = PREFIX_BYTES + fixed_bytes(SCHEMA, 1)
    codes = np.unpackbits(np.frombuffer(raw[middle:], np.uint8), bitorder="little")
    quotient = int(np.flatnonzero(codes)[0])
    longer = np.concatenate([np.zeros(128 - quotient, np.uint8), codes])
    wrong = raw[:middle] + np.packbits(longer, bitorder="little").tobytes()
    with pytest.raises(Reject, match="scale code"):
        decode_payload(wrong.rstrip(b"\0"), SCHEMA, K_MAX)


def test_spare_bits_must_be_zero() -> None:
    raw = encode_payload(make_payload(SCHEMA, 3, 1))
    used = 5 * (1 + 3 * (1 + 9))
    assert used % 8 == 3
    for bit in range(used % 8, 8):
        wrong = bytearray(raw)
        wrong[PREFIX_BYTES + used // 8] ^= 1 << bit
        with pytest.raises(Reject, match="spare"):
            decode_payload(bytes(wrong), SCHEMA, K_MAX)


@pytest.mark.parametrize("last", [None, b"\0", b"\xff", b"\x80"])
def test_memory_is_bounded_by_the_length_whatever_the_bytes_say(last: bytes | None) -> None:
    """`last`: what follows a sound payload up to the greatest length; None: nothing."""
    schema = build_schema([TensorSpec("a", (64 * 40, 64 * 40))])
    sound = encode_payload(make_payload(schema, 32, 1, code_min=100, code_max=102))
    room = payload_bytes_range(schema, 32).stop - 1 - len(sound)
    raw = sound if last is None else sound + last * room
    tracemalloc.start()
    with nullcontext() if last is None else pytest.raises(Reject):
        decode_payload(raw, schema, 32)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * len(raw)


def golden() -> list[dict[str, Any]]:
    path = Path(__file__).parents[1] / "vectors" / "payload.json"
    cases: list[dict[str, Any]] = json.loads(path.read_bytes())
    assert [case["k"] for case in cases] == [1, 2, 7, 16, 32]
    return cases


@pytest.mark.parametrize("case", golden(), ids=lambda case: f"k {case['k']}")
def test_golden_payloads_have_these_bytes(case: dict[str, Any]) -> None:
    schema = build_schema(TensorSpec(n, tuple(s)) for n, s in case["tensors"].items())
    payload = decode_payload(bytes.fromhex(case["bytes"]), schema, case["k"])
    assert payload.k == case["k"]
    assert payload.positions.tolist() == case["positions"]
    assert payload.negative.astype(int).tolist() == case["negative"]
    assert payload.scales.tolist() == case["scales"]
    assert encode_payload(payload).hex() == case["bytes"]
