"""What this node counts of its sending, where it has no turn in most rounds."""

from typing import Any, cast

import pytest

from demo_node.ports import Slice
from demo_node.sending import Sending
from demo_protocol.manifest import Learning
from tests.builders import manifest

SIZE, UPLINK = 10_000, 250_000.0


class Alone:
    """A mesh that knows nobody, and has seen one slice of every round."""

    def __init__(self) -> None:
        self.slices: list[Slice] = []

    def peers(self) -> list[Any]:
        return []

    def take_uplink(self) -> Slice:
        best = max(self.slices, key=lambda seen: seen.bytes_per_s, default=Slice())
        self.slices = []
        return best


@pytest.mark.parametrize("every", [1, 3, 10])
def test_what_is_passed_on_is_of_one_round_however_seldom_a_nodes_turn_comes(every: int) -> None:
    mesh = Alone()
    sending = Sending(
        manifest(learning=Learning(k=64, samples_start=8)),
        cast(Any, mesh),
        fixed=0,
        take_uplink=mesh.take_uplink,
        find_cap=lambda: 0.0,
    )
    for round_ in range(5 * every + 1):
        sending.begin_round(round_)
        if round_ % every == 0:
            sending.choose()
            sending.on_sent(b"own %d" % round_)
            sending.on_given(b"own %d" % round_, SIZE)
        for other in range(2):
            sending.on_given(b"another's %d, %d" % (round_, other), SIZE)
        # In most rounds its receivers are slow, in every tenth acknowledgements come all at once.
        rate = 100 * UPLINK if round_ % 10 == 9 else UPLINK
        mesh.slices.append(Slice(0.25, int(rate / 4)))
    view = sending.view()
    assert view.passed_on_bytes == 2 * SIZE
    assert view.uplink_bits_per_s == 8 * UPLINK


def test_rounds_that_were_slept_through_share_what_was_passed_on() -> None:
    mesh = Alone()
    sending = Sending(manifest(), cast(Any, mesh), fixed=1, take_uplink=None, find_cap=lambda: 0.0)
    sending.begin_round(3)
    sending.on_given(b"another's", SIZE)
    sending.begin_round(3)
    sending.begin_round(8)
    sending.choose()
    assert sending.view().passed_on_bytes == SIZE // 5
