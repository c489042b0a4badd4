"""Rule 23 on the wire: it round-trips, garbage is rejected, counts are bounded."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_protocol.errors import Reject
from demo_protocol.limits import (
    COMPARED_ROUNDS_MAX,
    FINGERPRINT_BYTES,
    HASH_BYTES,
    HEADER_BYTES_MAX,
    HEADERS_LISTED_MAX,
    HEADERS_PER_REQUEST_MAX,
    HEADERS_REPLY_BYTES_MAX,
    KEY_BYTES_MAX,
    RECORDS_LISTED_MAX,
    REQUEST_BYTES_MAX,
    SETS_REPLY_BYTES_MAX,
)
from demo_protocol.pb import wire_pb2
from demo_protocol.sets import (
    Difference,
    Summary,
    decode_difference,
    decode_header_names,
    decode_headers,
    decode_summary,
    encode_difference,
    encode_header_names,
    encode_headers,
    encode_summary,
)

marks = st.binary(min_size=FINGERPRINT_BYTES, max_size=FINGERPRINT_BYTES)
hashes = st.binary(min_size=HASH_BYTES, max_size=HASH_BYTES)
rounds = st.integers(0, 2**32 - 1)


@given(st.builds(Summary, rounds, st.lists(marks, max_size=9).map(tuple), marks))
def test_a_summary_round_trips(summary: Summary) -> None:
    assert decode_summary(encode_summary(summary)) == summary


@given(
    st.builds(
        Difference,
        hashes,
        rounds,
        st.lists(hashes, max_size=9).map(tuple),
        st.lists(hashes, max_size=9).map(tuple),
    )
)
def test_a_difference_round_trips(difference: Difference) -> None:
    assert decode_difference(encode_difference(difference)) == difference


@given(st.lists(hashes, max_size=9), st.lists(st.binary(max_size=50), max_size=9))
def test_headers_and_their_names_round_trip(names: list[bytes], raws: list[bytes]) -> None:
    assert decode_header_names(encode_header_names(names)) == names
    assert decode_headers(encode_headers(raws)) == tuple(raws)


@pytest.mark.parametrize(
    "decode", [decode_summary, decode_difference, decode_headers, decode_header_names]
)
@given(raw=st.binary(max_size=300))
def test_garbage_is_decoded_or_rejected_and_nothing_else(
    decode: Callable[[bytes], object], raw: bytes
) -> None:
    try:
        decode(raw)
    except Reject:
        return


MARK, NAME = bytes(FINGERPRINT_BYTES), bytes(HASH_BYTES)


@pytest.mark.parametrize(
    "summary",
    [
        Summary(0, (MARK,) * (COMPARED_ROUNDS_MAX + 1), MARK),
        Summary(0, (MARK, MARK[1:]), MARK),
        Summary(0, (MARK,), b""),
    ],
    ids=["rounds", "mark", "records"],
)
def test_a_summary_that_no_honest_peer_sends_is_rejected(summary: Summary) -> None:
    with pytest.raises(Reject):
        decode_summary(encode_summary(summary))


@pytest.mark.parametrize(
    "difference",
    [
        Difference(NAME, 0, (NAME,) * (HEADERS_LISTED_MAX + 1), ()),
        Difference(NAME, 0, (), (NAME,) * (RECORDS_LISTED_MAX + 1)),
        Difference(NAME[1:], 0, (), ()),
        Difference(NAME, 0, (NAME, b"x"), ()),
        Difference(NAME, 0, (), (b"x",)),
    ],
    ids=["headers", "records", "head", "header", "record"],
)
def test_a_difference_that_no_honest_peer_sends_is_rejected(difference: Difference) -> None:
    with pytest.raises(Reject):
        decode_difference(encode_difference(difference))


def test_headers_that_nobody_can_have_asked_for_are_rejected() -> None:
    with pytest.raises(Reject):
        decode_headers(encode_headers([b"x"] * (HEADERS_PER_REQUEST_MAX + 1)))
    with pytest.raises(Reject):
        decode_headers(encode_headers([bytes(HEADER_BYTES_MAX + 1)]))
    with pytest.raises(Reject):
        decode_header_names(NAME * (HEADERS_PER_REQUEST_MAX + 1))


def test_what_may_be_said_fits_what_may_be_sent() -> None:
    summary = encode_summary(Summary(2**32 - 1, (MARK,) * COMPARED_ROUNDS_MAX, MARK))
    for key in (summary, encode_header_names([NAME] * HEADERS_PER_REQUEST_MAX)):
        assert len(key) <= KEY_BYTES_MAX
        request = wire_pb2.BlobRequest(kind=2**32 - 1, key=key, limit=2**32 - 1)
        assert len(request.SerializeToString()) <= REQUEST_BYTES_MAX
    listed = (NAME,) * HEADERS_LISTED_MAX, (NAME,) * RECORDS_LISTED_MAX
    difference = encode_difference(Difference(NAME, 2**32 - 1, *listed))
    assert len(difference) <= SETS_REPLY_BYTES_MAX
    headers = encode_headers([bytes(HEADER_BYTES_MAX)] * HEADERS_PER_REQUEST_MAX)
    assert len(headers) <= HEADERS_REPLY_BYTES_MAX
