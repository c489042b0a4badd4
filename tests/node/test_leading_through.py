"""Whether a peer's way leads through what is final here, as far as it is known (rule 19)."""

import pytest

from demo_node.believing import leads_through
from demo_protocol.finality import Final

FINAL = Final(b"final", 100, 90)
FORGET = 400


@pytest.mark.parametrize(
    ("trail", "leads"),
    [
        ({b"head": 120, b"final": 100}, True),
        ({b"head": 120, b"final": None}, True),  # named as a parent, not seen yet
        ({b"head": 120, b"other": 100}, False),
        ({b"head": 90}, False),  # it is behind: it cannot show the way
        ({b"head": 120, b"x": 110, b"y": None}, False),  # nobody can tell
        ({b"head": 501, b"x": 490, b"y": None}, True),  # a joiner: away for too long
        ({b"head": 500, b"x": 490, b"y": None}, False),
        ({b"head": None}, False),
        ({}, False),
    ],
)
def test_a_way_leads_through_what_is_final_here(
    trail: dict[bytes, int | None], leads: bool
) -> None:
    assert leads_through(trail, FINAL, FORGET) == leads
