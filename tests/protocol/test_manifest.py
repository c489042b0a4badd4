"""A run is its manifest: canonical bytes, one hash, and nothing that makes no working run."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_protocol.errors import ConfigError
from demo_protocol.limits import MANIFEST_BYTES_MAX
from demo_protocol.manifest import (
    Agreement,
    Data,
    Learning,
    Manifest,
    Model,
    compute_run_id,
    decode_manifest,
    encode_manifest,
    validate_manifest,
)
from demo_protocol.presets import PRESETS
from demo_protocol.schedule import Schedule
from tests.builders import manifest, schedule


def test_decoding_inverts_encoding() -> None:
    assert decode_manifest(encode_manifest(manifest())) == manifest()


def test_the_canonical_form_is_sorted_json_without_spaces_of_integers_and_strings() -> None:
    raw = encode_manifest(manifest())
    tree = json.loads(raw, parse_float=lambda text: pytest.fail(f"a float: {text}"))
    assert raw == json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()


def test_rule_5_the_run_id_is_a_hash_of_the_canonical_bytes() -> None:
    tagged = b"demo-node/run/1\0" + encode_manifest(manifest())
    assert compute_run_id(manifest()) == hashlib.sha256(tagged).digest()


@pytest.mark.parametrize(
    "other",
    [
        replace(manifest(), seed=2),
        replace(manifest(), name="other"),
        manifest(schedule_=schedule(genesis_ms=0)),
        manifest(agreement=Agreement(probation=4)),
    ],
)
def test_another_manifest_is_another_run(other: Manifest) -> None:
    assert compute_run_id(other) != compute_run_id(manifest())


def edit(path: str, value: Any) -> bytes:
    """The canonical bytes of a manifest with one key changed, or removed (None)."""
    tree = json.loads(encode_manifest(manifest()))
    *outer, key = path.split(".")
    node = tree
    for name in outer:
        node = node[name]
    if value is None:
        del node[key]
    else:
        node[key] = value
    return json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"not json", "not JSON"),
        (b"[" * 100_000, "bytes, at most"),
        (b"[" * 50_000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "protocol version None"),
        (edit("version", 1), "protocol version 1"),
        (edit("seed", None), "'seed' is missing"),
        (edit("seed", "1"), "manifest.seed: must be of type int"),
        (edit("seed", True), "manifest.seed: must be of type int"),
        (edit("seed", 1.0), "manifest.seed: must be of type int"),
        (edit("sead", 1), "unknown key 'sead'"),
        (edit("model", []), "manifest.model: must be an object"),
        (edit("model.pears", 1), "manifest.model: unknown key 'pears'"),
        (encode_manifest(manifest()) + b" ", "canonical"),
        (encode_manifest(manifest()).decode().encode("utf-16"), "canonical"),
    ],
)
def test_what_is_no_manifest_is_refused_with_one_line_that_says_why(
    raw: bytes, message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        decode_manifest(raw)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_manifest_of_another_protocol_version_has_its_own_exit_code() -> None:
    with pytest.raises(ConfigError) as refused:
        decode_manifest(edit("version", 1))
    assert refused.value.exit_code == 76


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_garbage_is_never_a_manifest(raw: bytes) -> None:
    with pytest.raises(ConfigError):
        decode_manifest(raw)


def test_the_limit_leaves_room_for_any_manifest() -> None:
    longest = replace(manifest(), name="\U0001f9ea" * 64)
    assert len(encode_manifest(longest)) < MANIFEST_BYTES_MAX / 10


SCHEDULE, AGREEMENT = schedule(), Agreement()
MODEL, LEARNING, DATA = manifest().model, manifest().learning, manifest().data


@pytest.mark.parametrize(
    ("key", "part"),
    [
        ("name", ""),
        ("name", "x" * 65),
        ("name", "a\nb"),
        ("seed", 2**32),
        ("schedule.genesis_ms", replace(SCHEDULE, genesis_ms=-1)),
        ("schedule.round_ms", replace(SCHEDULE, round_ms=99)),
        ("schedule.train_bps", replace(SCHEDULE, train_bps=0)),
        ("schedule.contribute_bps", replace(SCHEDULE, contribute_bps=0)),
        ("schedule.propose_bps", replace(SCHEDULE, propose_bps=2_500)),
        ("schedule.slots", replace(SCHEDULE, slots=0)),
        ("schedule.slot_offset_ms", replace(SCHEDULE, slots=4, slot_offset_ms=150)),
        ("schedule.skew_max_ms", replace(SCHEDULE, skew_max_ms=3_000)),
        ("agreement.late_rounds", replace(AGREEMENT, late_rounds=0)),
        ("agreement.expire_rounds", replace(AGREEMENT, expire_rounds=1)),
        ("agreement.forget_rounds", replace(AGREEMENT, forget_rounds=399)),
        ("agreement.probation", replace(AGREEMENT, probation=-1)),
        ("agreement.final_depth", replace(AGREEMENT, final_depth=2)),
        ("agreement.final_min_peers", replace(AGREEMENT, final_min_peers=0)),
        ("agreement.overlap_rounds", replace(AGREEMENT, overlap_rounds=2)),
        ("agreement.contributors", replace(AGREEMENT, contributors=1001)),
        ("agreement.admission", replace(AGREEMENT, admission="invite")),
        ("agreement.payload_window_rounds", replace(AGREEMENT, payload_window_rounds=25)),
        ("model.width", replace(MODEL, width=100)),
        ("model.heads", replace(MODEL, heads=0)),
        ("model.heads", replace(MODEL, heads=64)),
        ("model.vocabulary", replace(MODEL, vocabulary=257)),
        ("learning.local", replace(LEARNING, local="sgd")),
        ("learning.semantics", replace(LEARNING, semantics="reference")),
        ("learning.k", replace(LEARNING, k=4_097)),
        ("learning.k", replace(LEARNING, k=0)),
        ("learning.lr_ppb", replace(LEARNING, lr_ppb=0)),
        ("data.kind", replace(DATA, kind="url")),
        ("data.root", replace(DATA, root="0X" * 32)),
        ("data.train_bytes", replace(DATA, train_bytes=16)),
        ("data.block_bytes", replace(DATA, block_bytes=1_000)),
    ],
)
def test_a_value_that_makes_no_working_run_is_named(key: str, part: Any) -> None:
    field = {
        Schedule: "schedule",
        Agreement: "agreement",
        Model: "model",
        Learning: "learning",
        Data: "data",
    }.get(type(part), key)
    broken = replace(manifest(), **{field: part})
    with pytest.raises(ConfigError, match=f"manifest key {key}: must be"):
        validate_manifest(broken)
    with pytest.raises(ConfigError, match=f"manifest key {key}: must be"):
        decode_manifest(encode_manifest(broken))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_presets_are_valid(name: str) -> None:
    preset = PRESETS[name]
    text = replace(DATA, train_bytes=10**7, heldout_bytes=10**4)
    run = replace(manifest(), model=preset.model, learning=preset.learning, data=text)
    validate_manifest(run)
