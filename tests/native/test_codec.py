"""The compiled codec does what Python's and torch's does, on every level of processors."""

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from demo_node import native
from demo_node.learn import exact
from demo_node.learn.dct import compute_basis, forward_dct, sort_basis
from demo_node.learn.demo import Encoder
from demo_node.learn.exact import apply_update
from demo_node.learn.flat import Flat, find_layout
from demo_node.native import Codec, list_usable_levels, torch_only
from demo_node.native.build import LIBRARY, hash_sources
from demo_protocol.errors import ConfigError, LocalFault, Reject
from demo_protocol.fp32 import Step, round_to_fp32_bits
from demo_protocol.manifest import Learning
from demo_protocol.payload import (
    Payload,
    decode_payload,
    encode_payload,
    payload_bytes_range,
)
from demo_protocol.schema import SLOTS, TensorSpec, build_schema
from tests.learn import oracle
from tests.learn.builders import CPU, cut, make_delta, make_payload, make_schema, make_state

SCHEMA = make_schema()
STEP = Step(round_to_fp32_bits(1, 100), round_to_fp32_bits(999, 1000))
ONE_CHUNK = build_schema([TensorSpec("x", (64, 64), 2)])
LEARNING = Learning(k=16, beta_ppm=900_000, inner_lr_ppb=3_000_000)


LEVELS = list_usable_levels()

if not LEVELS:
    pytest.skip("the codec is not compiled here: make setup", allow_module_level=True)


@pytest.fixture(params=LEVELS)
def codec(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Codec:
    """What Encoder and apply_update use, too."""
    codec = Codec(ctypes.CDLL(str(LIBRARY)), request.param)
    monkeypatch.setattr(native, "_load", lambda choice: codec)
    return codec


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def words(tensors: Flat) -> bytes:
    return tensors.row.numpy().tobytes()


def test_the_library_was_made_from_these_sources() -> None:
    library = ctypes.CDLL(str(LIBRARY))
    library.sources.restype = ctypes.c_char_p
    assert library.sources().decode() == hash_sources(), "run make setup"


def test_the_fastest_level_is_chosen_unless_another_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for choice, level in (("", LEVELS[-1]), (LEVELS[0], LEVELS[0]), ("torch", None)):
        monkeypatch.setenv(native.CHOICE, choice)
        found = native.find_codec()
        assert (None if found is None else found.level) == level
    monkeypatch.setenv(native.CHOICE, "v99")
    with pytest.raises(ConfigError, match="DEMO_CODEC=v99: no such build runs here; name torch or"):
        native.find_codec()


def test_without_a_library_there_is_no_codec(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "missing.so")
    assert native._load.__wrapped__("") is None
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "broken.so")
    (tmp_path / "broken.so").write_bytes(b"no library")
    assert native._load.__wrapped__("") is None


def test_a_library_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "hash_sources", lambda: "others")
    assert native._load.__wrapped__("") is None
    with pytest.raises(ConfigError, match=r"name torch$"):
        native._load.__wrapped__(LEVELS[0])


def test_what_fails_in_a_thread_is_told_once_all_have_ended() -> None:
    ended: list[int] = []

    def work(begin: int, end: int) -> None:
        if begin == 0:
            raise MemoryError
        ended.append(end)

    with pytest.raises(MemoryError):
        native._share(work, 9, 3)
    assert sorted(ended) == [6, 9]
    native._share(lambda begin, end: ended.append(end - begin), 2, 99)
    assert ended[2:] == [1, 1]


def test_slots_out_of_order_are_not_packed() -> None:
    payload = make_payload(SCHEMA, 3, 1)
    payload.positions[2] = (5, 5, 9)
    codec = Codec(ctypes.CDLL(str(LIBRARY)), LEVELS[0])
    with pytest.raises(LocalFault, match="ascend"):
        codec.encode_payload(payload, SCHEMA)


# --- bytes ---------------------------------------------------------------------------------------


@given(
    k=st.sampled_from([1, 2, 3, 7, 32, 33, 500, 2048, 4096]),
    seed=st.integers(0, 2**32 - 1),
    level=st.sampled_from(LEVELS),
)
def test_bytes_are_the_same_and_come_back(k: int, seed: int, level: str) -> None:
    codec = Codec(ctypes.CDLL(str(LIBRARY)), level)
    payload = make_payload(SCHEMA, k, seed)
    raw = codec.encode_payload(payload, SCHEMA)
    assert raw == encode_payload(payload)
    found = codec.decode_payload(raw, SCHEMA, SLOTS)
    for mine, theirs in (
        (found.positions, payload.positions),
        (found.negative, payload.negative),
        (found.scales, payload.scales),
    ):
        assert mine.dtype == theirs.dtype
        assert np.array_equal(mine, theirs)


def verdict(decode: Callable[[], Payload]) -> tuple[str, bytes]:
    try:
        payload = decode()
    except Reject as error:
        return str(error), b""
    return "", payload.positions.tobytes() + payload.negative.tobytes() + payload.scales.tobytes()


def compare(raw: bytes, level: str) -> None:
    """Both take it alike, or both refuse it."""
    codec = Codec(ctypes.CDLL(str(LIBRARY)), level)
    mine = verdict(lambda: codec.decode_payload(raw, SCHEMA, 64))
    theirs = verdict(lambda: decode_payload(raw, SCHEMA, 64))
    assert bool(mine[0]) == bool(theirs[0]), (mine[0], theirs[0])
    assert mine[1] == theirs[1]


@given(
    k=st.integers(1, 64),
    seed=st.integers(0, 100),
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4),
    level=st.sampled_from(LEVELS),
)
def test_bytes_with_mistakes_are_judged_alike(
    k: int, seed: int, flips: list[tuple[int, int]], level: str
) -> None:
    raw = bytearray(encode_payload(make_payload(SCHEMA, k, seed)))
    for at, flip in flips:
        raw[at % len(raw)] ^= flip
    compare(bytes(raw), level)


@given(
    k=st.integers(1, 64),
    cut=st.integers(-9, 9),
    level=st.sampled_from(LEVELS),
    filler=st.sampled_from([b"\0", b"\1", b"\x80", b"\xff"]),
)
def test_bytes_cut_short_or_gone_on_with_are_judged_alike(
    k: int, cut: int, level: str, filler: bytes
) -> None:
    raw = encode_payload(make_payload(SCHEMA, k, 1))
    compare(raw[:cut] if cut < 0 else raw + filler * cut, level)


@given(st.integers(1, 64), st.randoms(use_true_random=False), st.sampled_from(LEVELS))
def test_any_bytes_of_a_possible_length_are_judged_alike(k: int, source, level: str) -> None:  # type: ignore[no-untyped-def]
    lengths = payload_bytes_range(SCHEMA, k)
    body = source.randbytes(source.randrange(lengths.start, lengths.stop) - 3)
    compare(b"\2" + k.to_bytes(2, "little") + body, level)


# --- encoding ------------------------------------------------------------------------------------


def test_t1_the_residual_takes_the_transformed_delta(codec: Codec) -> None:
    encoder = Encoder(SCHEMA, LEARNING, CPU)
    first, second = make_delta(SCHEMA, 1), make_delta(SCHEMA, 2)
    encoder.accumulate(first)
    encoder.accumulate(second)
    basis = compute_basis(64)
    expected = 0.9 * forward_dct(cut(first, SCHEMA).double(), basis)
    expected += forward_dct(cut(second, SCHEMA).double(), basis)
    assert torch.allclose(encoder.residual.view(-1, 64, 64).double(), expected, atol=1e-7)


@pytest.mark.parametrize("k", [1, 5, 16, 127, 300, 1024, 1025, 4095, 4096])
def test_t3_what_is_taken_is_what_torch_takes(codec: Codec, k: int) -> None:
    mine = Encoder(SCHEMA, LEARNING, CPU)
    mine.accumulate(make_delta(SCHEMA, 3))
    with torch_only():
        theirs = Encoder(SCHEMA, LEARNING, CPU)
    theirs.residual.copy_(mine.residual)
    payload, expected = mine.encode(k, 0), theirs.encode(k, 0)
    assert np.array_equal(payload.positions, expected.positions)
    assert np.array_equal(payload.negative, expected.negative)
    assert np.array_equal(payload.scales, expected.scales)
    assert torch.equal(mine.residual, theirs.residual)


@pytest.mark.parametrize("k", [1, 6, 64, 2000])
def test_of_equal_magnitudes_the_first_are_taken(codec: Codec, k: int) -> None:
    residual = np.full((3, SLOTS), -0.5, dtype=np.float32)
    residual[1] = 0
    residual[2, 100:] = 0.25
    payload = codec.take(residual, k, 2.0**-20)
    assert payload.positions.tolist()[0] == list(range(k))
    assert payload.positions.tolist()[1] == list(range(k))
    assert payload.positions.tolist()[2] == list(range(k))
    assert payload.negative[0].all()
    assert not payload.negative[1].any()


def test_scales_of_any_size_order_like_their_bits(codec: Codec) -> None:
    """From subnormal to huge, all in one chunk and one chunk after another."""
    magnitudes = 2.0 ** np.linspace(-140, 120, SLOTS)
    random = np.random.default_rng(1)
    residual = np.stack([random.permutation(magnitudes), random.permutation(magnitudes) * 2.0**-9])
    residual = residual.astype(np.float32)
    expected = np.sort(np.argsort(residual, axis=1)[:, -40:], axis=1)
    assert np.array_equal(codec.take(residual, 40, 1.0).positions, expected)


# --- the exact step ------------------------------------------------------------------------------


@pytest.mark.usefixtures("threads")
def test_the_step_is_torchs_and_the_oracles_bit_for_bit(codec: Codec) -> None:
    state = make_state(SCHEMA)
    ks = (20, 1, 64, 300, 4096)
    payloads = [make_payload(SCHEMA, k, seed) for seed, k in enumerate(ks)]
    found = set()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.add(
            words(apply_update(state, payloads[::-1] if count == 2 else payloads, SCHEMA, STEP))
        )
    with torch_only():
        theirs = apply_update(state, payloads, SCHEMA, STEP)
    assert found == {words(theirs)}
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    expected = oracle.apply(arrays, payloads, STEP.lr, STEP.decay)
    for name, array in expected.items():
        assert np.array_equal(theirs[name].numpy().view(np.uint32), array.view(np.uint32)), name


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from(LEVELS))
def test_any_votes_lead_to_torchs_bits(seed: int, peers: int, level: str) -> None:
    codec = Codec(ctypes.CDLL(str(LIBRARY)), level)
    random = np.random.default_rng(seed)
    schema = build_schema([TensorSpec("x", (64, 128), 2), TensorSpec("y", (9,), 2)])
    low = int(random.integers(0, 256))
    payloads = [
        make_payload(schema, int(random.integers(1, 200)), seed + p, code_min=low)
        for p in range(peers)
    ]
    flat = Flat.of(make_state(schema, 1), schema)
    after = torch.empty_like(flat.row)
    basis = exact._sorted_integer_basis()
    codec.apply(flat.row.numpy(), after.numpy(), flat.layout.places, payloads, STEP, basis)
    after[flat.layout.padding] = 0
    expected = torch.empty_like(flat.row)
    exact._apply_blocks(flat.row, expected, flat.layout, payloads, STEP)
    expected[flat.layout.padding] = 0
    assert after.numpy().tobytes() == expected.numpy().tobytes()


def test_e9_what_rounding_carries_to_1024_becomes_1023(codec: Codec) -> None:
    """195 times 21 in one slot: 4095, which a shift by two rounds to 1024."""
    payloads = [make_payload(SCHEMA, 300, seed, code_min=5, code_max=5) for seed in range(195)]
    for payload in payloads:
        payload.positions[:, 0] = 0
        payload.negative[:, 0] = False
    state = make_state(SCHEMA)
    found = apply_update(state, payloads, SCHEMA, STEP)
    with torch_only():
        assert words(found) == words(apply_update(state, payloads, SCHEMA, STEP))


def test_e8_the_median_of_many_payloads(codec: Codec) -> None:
    random = np.random.default_rng(1)
    for count in (1, 2, 3, 200, 2048):
        payloads = [make_payload(ONE_CHUNK, 1, int(random.integers(1 << 30))) for _ in range(count)]
        state = make_state(ONE_CHUNK)
        found = apply_update(state, payloads, ONE_CHUNK, STEP)
        with torch_only():
            assert words(found) == words(apply_update(state, payloads, ONE_CHUNK, STEP))


def test_the_state_before_and_padding_are_left_as_they_were(codec: Codec) -> None:
    flat = Flat.of(make_state(SCHEMA), SCHEMA)
    before = words(flat)
    after = apply_update(flat, [make_payload(SCHEMA, 300, 1)], SCHEMA, STEP)
    assert words(flat) == before
    assert not after.row[after.layout.padding].any()


def test_arrays_that_do_not_fit_never_reach_the_library(codec: Codec) -> None:
    residual = np.zeros((2, SLOTS), dtype=np.float32)
    with pytest.raises(AssertionError, match="contiguous"):
        codec.take(residual[:, ::2], 3, 1.0)
    with pytest.raises(AssertionError, match="another type"):
        codec.take(residual.astype(np.float64), 3, 1.0)
    layout = find_layout(SCHEMA)
    basis = sort_basis(compute_basis(64))
    with pytest.raises(AssertionError, match="another size"):
        codec.accumulate(residual, layout.places, residual, 0.9, basis)
    row = np.zeros(layout.size, dtype=np.float32)
    payload = make_payload(build_schema([TensorSpec("x", (64, 64))]), 5, 1)
    with pytest.raises(AssertionError, match="another size"):
        codec.apply(row, row.copy(), layout.places, [payload], STEP, basis)
