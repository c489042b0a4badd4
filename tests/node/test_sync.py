"""Texts of a node that gets to where the others are."""

import pytest

from demo_node.sync import tell_apart

ID = "0123456789abcdef" * 4


@pytest.mark.parametrize("at", [0, 7, 15, 16, 30, 55, 63])
def test_two_run_ids_are_cut_such_that_one_sees_the_difference(at: int) -> None:
    other = ID[:at] + "x" + ID[at + 1 :]
    a, b = tell_apart(ID, other)
    assert a != b
    assert "x" in b
    assert max(len(a), len(b)) <= 17
