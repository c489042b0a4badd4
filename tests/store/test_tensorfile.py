import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_node.store.tensorfile import HeaderRewriter, NotTensors, decode_header
from tests.store.builders import tensors


def rewritten(raw: bytes, size: int, metadata: dict[str, str]) -> bytes:
    rewriter = HeaderRewriter(metadata)
    out = b"".join(rewriter.feed(raw[at : at + size]) for at in range(0, len(raw), size))
    rewriter.finish()
    return out


@given(st.integers(1, 300), st.dictionaries(st.text(max_size=8), st.text(max_size=30), max_size=4))
def test_metadata_is_added_and_tensors_stay_whatever_the_pieces(
    size: int, metadata: dict[str, str]
) -> None:
    raw = tensors()
    out = rewritten(raw, size, metadata)
    header, before = decode_header(out), decode_header(raw)
    assert header.metadata == {"format": "pt", **metadata}
    assert out[header.header_bytes :] == raw[before.header_bytes :]
    assert header.header_bytes % 8 == 0


def test_the_result_is_a_file_that_safetensors_reads() -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    loaded = numpy.load(rewritten(tensors(fill=0, numel=5), 64, {"a": "b"}))
    assert loaded["embed.weight"].tolist() == [0.0] * 5


def test_a_file_that_ends_early_or_late_is_refused() -> None:
    with pytest.raises(NotTensors, match="ends too early"):
        rewritten(tensors()[:-1], 10, {})
    with pytest.raises(NotTensors, match="ends too early"):
        rewritten(tensors()[:20], 10, {})
    with pytest.raises(NotTensors, match="longer than its header"):
        rewritten(tensors() + b"x", 10, {})


@given(st.binary(max_size=60))
def test_garbage_raises_not_tensors_and_nothing_else(raw: bytes) -> None:
    length = len(raw).to_bytes(8, "little")
    for whole in (raw, length + raw):
        with pytest.raises(NotTensors):
            decode_header(whole)


@pytest.mark.parametrize(
    "tree",
    [
        {"__metadata__": []},
        {"__metadata__": {"a": 1}},
        {"t": []},
        {"t": {"data_offsets": [4, 0]}},
        {"t": {"data_offsets": [0, "4"]}},
        {"t": {"data_offsets": [-4, 4]}},
    ],
)
def test_headers_of_wrong_shape_are_refused(tree: object) -> None:
    text = json.dumps(tree).encode()
    with pytest.raises(NotTensors):
        decode_header(len(text).to_bytes(8, "little") + text)


def test_an_absurd_header_length_is_refused_before_anything_is_held() -> None:
    with pytest.raises(NotTensors):
        HeaderRewriter({}).feed((1 << 40).to_bytes(8, "little"))
