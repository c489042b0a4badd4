"""`demo-node bench codec`: what is compared, and how it is told."""

import json

import pytest
import torch
from click.testing import CliRunner

from demo_node.bench import codec
from demo_node.bench.codec import Ours, Plain, draw_gradients, draw_payload, measure_peak
from demo_node.cli.bench import bench
from demo_protocol.payload import decode_payload, encode_payload
from demo_protocol.presets import PRESETS
from demo_protocol.schema import compute_schema

TINY = PRESETS["tiny"].model


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MODELS", dict.fromkeys(codec.MODELS, TINY))


def run(*arguments: str) -> str:
    before = torch.get_num_threads()
    try:
        result = CliRunner().invoke(bench, ["codec", *arguments])
    finally:
        torch.set_num_threads(before)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_document_has_a_row_for_each_size_path_and_number_of_peers() -> None:
    text = run("--json", "--params", "1M", "--peers", "2", "--peers", "3", "--turns", "1")
    document = json.loads(text)
    assert document.keys() == {"schema", "machine", "rows", "bytes_per_parameter"}
    assert document["bytes_per_parameter"].keys() == {"32", "8", "4"}
    rows = document["rows"]
    assert [(row["peers"], row["path"]) for row in rows] == [
        (2, "fast"),
        (3, "fast"),
        (2, "torch"),
        (3, "torch"),
    ]
    for row in rows:
        assert row["params"] == compute_schema(TINY).parameters
        assert (row["k"], row["threads"]) == (32, 1)
        for side in ("ours_ms", "plain_ms"):
            times = row[side]
            parts = times["encode"] + row["peers"] * times["decode_per_peer"] + times["apply"]
            assert parts == pytest.approx(times["total"])
        assert row["ratio"] == row["ours_ms"]["total"] / row["plain_ms"]["total"]


def test_the_table_fits_a_terminal_of_80_columns() -> None:
    text = run("--quick", "--path", "torch")
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "bytes a parameter" in text


def test_both_sides_get_the_same_gradients_and_as_many_payloads() -> None:
    schema = compute_schema(TINY)
    gradients = draw_gradients(schema, 1)
    ours, plain = Ours(schema, gradients, 8, 3), Plain(schema, gradients, 8, 3)
    sent = ours.encode()
    assert isinstance(sent, bytes)
    assert decode_payload(sent, schema, 8).k == 8
    theirs = plain.encode()
    assert isinstance(theirs, list)
    assert len(theirs) == len(schema.tensors)
    decoded = ours.decode(3)
    assert isinstance(decoded, list)
    assert len(decoded) == 3


def test_payloads_of_others_are_sound_and_differ() -> None:
    schema = compute_schema(TINY)
    raws = {encode_payload(draw_payload(schema, 32, seed)) for seed in range(4)}
    assert len(raws) == 4
    for raw in raws:
        decode_payload(raw, schema, 32)


def test_the_peak_is_what_was_held_on_top() -> None:
    size = 64 << 20
    peak = measure_peak(lambda: torch.ones(size // 4))
    if peak is None:
        pytest.skip("this system does not tell")
    assert 0.95 * size <= peak < 1.2 * size  # pages are counted late, by tens
