"""Messages between a node and its trainer go in pieces of one size."""

import pytest

from demo_node.trainer.pieces import PIECE_BYTES, iterate_pieces


@pytest.mark.parametrize("sizes", [[], [0], [5], [PIECE_BYTES], [3, PIECE_BYTES, 0, 7], [1] * 9])
def test_pieces_are_full_and_joined_give_the_parts(sizes: list[int]) -> None:
    parts = [bytes([i]) * size for i, size in enumerate(sizes)]
    pieces = list(iterate_pieces(parts))
    assert b"".join(pieces) == b"".join(parts)
    assert all(len(piece) == PIECE_BYTES for piece in pieces[:-1])
    assert b"" not in pieces
