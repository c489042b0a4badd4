"""What a metered node refuses, whom, and how often."""

from typing import Any, cast

from demo_node.ports import Blob, BlobRequest, PeerView
from demo_node.sparing import REFUSED_MAX, REMEMBERED_MAX, Sparing

OWN, OTHERS = bytes([1]) * 32, bytes([2]) * 32


def peer(number: int) -> bytes:
    return number.to_bytes(32)


class Connected:
    """A mesh of which only the peers are of interest."""

    def __init__(self, *peers: bytes) -> None:
        self.found = list(peers)

    def peers(self) -> list[PeerView]:
        return [PeerView(each, "", True) for each in self.found]


def make(*peers: bytes) -> Sparing:
    return Sparing(cast(Any, Connected(*peers)), OWN.__eq__)


def ask(sparing: Sparing, asking: bytes, kind: Blob, key: bytes, times: int = 1) -> list[bool]:
    return [sparing.refuses(asking, BlobRequest(kind, key)) for _ in range(times)]


def test_others_payloads_are_refused_so_often_and_then_given() -> None:
    sparing = make(peer(1), peer(2))
    assert ask(sparing, peer(1), Blob.PAYLOAD, OWN, 3) == [False] * 3
    refused = [True] * REFUSED_MAX
    assert ask(sparing, peer(1), Blob.PAYLOAD, OTHERS, 4) == [*refused, False, False]
    assert ask(sparing, peer(2), Blob.PAYLOAD, OTHERS, 3) == [*refused, False]
    assert ask(sparing, peer(1), Blob.PAYLOAD, bytes(32), 3) == [*refused, False]
    assert ask(sparing, peer(1), Blob.RECORDS, OTHERS) == [False]


def test_where_nobody_else_is_connected_nothing_is_refused() -> None:
    sparing = make(peer(1))
    assert ask(sparing, peer(1), Blob.PAYLOAD, OTHERS) == [False]
    assert ask(sparing, peer(1), Blob.STATE_CHUNK, OTHERS) == [False]
    assert not sparing.hides_snapshot(peer(1))


def test_a_newcomer_that_finds_no_other_holder_is_refused_no_block_after_that() -> None:
    sparing = make(peer(1), peer(2))
    heads = [sparing.hides_snapshot(peer(1)) for _ in range(REFUSED_MAX + 1)]
    assert heads == [True] * REFUSED_MAX + [False]
    assert ask(sparing, peer(1), Blob.STATE_CHUNK, OTHERS) == [True]  # who else has it may give it
    assert ask(sparing, peer(1), Blob.STATE_LEAVES, OTHERS, 3) == [True] * REFUSED_MAX + [False]
    assert ask(sparing, peer(1), Blob.STATE_CHUNK, bytes(32)) == [False]
    assert not sparing.hides_snapshot(peer(1))
    assert ask(sparing, peer(2), Blob.STATE_CHUNK, bytes(32)) == [True]
    assert ask(sparing, peer(1), Blob.PAYLOAD, OTHERS) == [True]


def test_refusals_are_forgotten_before_they_are_too_many() -> None:
    sparing = make(peer(1), peer(2))
    assert ask(sparing, peer(1), Blob.PAYLOAD, OTHERS, 2) == [True] * 2
    for number in range(REMEMBERED_MAX):
        ask(sparing, peer(1), Blob.PAYLOAD, number.to_bytes(32))
    assert len(sparing._refused) == REMEMBERED_MAX
    assert ask(sparing, peer(1), Blob.PAYLOAD, OTHERS) == [True]
    for number in range(REMEMBERED_MAX + 1):
        ask(sparing, peer(number), Blob.INITIAL, OTHERS, REFUSED_MAX + 1)
    assert len(sparing._helped) == REMEMBERED_MAX
