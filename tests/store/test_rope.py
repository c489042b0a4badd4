"""A rope reads as the bytes that were put into it."""

from hypothesis import given
from hypothesis import strategies as st

from demo_node.store.rope import SHARED_BYTES_MIN, Rope


@given(st.lists(st.binary(max_size=9), max_size=6), st.integers(0, 60), st.integers(0, 60))
def test_it_reads_as_bytes_do(pieces: list[bytes], begin: int, end: int) -> None:
    rope, whole = Rope(), b"".join(pieces)
    for piece in pieces:
        rope.append(piece)
    assert len(rope) == len(whole)
    assert rope.read(begin, end) == whole[begin:end]
    assert rope.read(begin) == whole[begin:]
    rope.truncate(end)
    assert rope.read() == whole[:end]
    rope.append(b"more")
    assert rope.read() == whole[:end] + b"more"


def test_equal_pieces_of_two_ropes_are_kept_once() -> None:
    shared: dict[bytes, bytes] = {}
    for _ in range(2):
        Rope(bytes(SHARED_BYTES_MIN), shared).append(bytes(7))
    assert [len(piece) for piece in shared] == [SHARED_BYTES_MIN]
