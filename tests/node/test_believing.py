"""What strangers gave is looked at before anything of it counts (rules 21 and 22)."""

import asyncio
from typing import cast

import pytest

from demo_node.believing import Strangers
from demo_node.ports import BlobRequest, Clock
from demo_node.pull import Puller
from demo_node.sim.keys import cheap_verify
from demo_node.sim.whole.virtual_loop import run_virtual
from demo_node.walking import HEAD_S, SILENT_S, HeadAsker, Walk
from demo_protocol.answers import HeadAnswer, Link, encode_bundle, encode_head, encode_records
from demo_protocol.chain import make_bundle
from demo_protocol.events import Bundle
from demo_protocol.joining import Offer
from tests.builders import MANIFEST, RUN_ID, Tree, header


def walk_of(tree: Tree, *junk: bytes) -> Walk:
    """All records of a tree, each with some more headers than it lists."""
    walk = Walk(cast(Puller, None), RUN_ID)
    for record in tree.chain.records.values():
        if record.proposal:
            bundle = make_bundle(record)
            walk.links[record.hash] = Link(record.hash, record.parent, record.round)
            walk.bundles[record.hash] = Bundle(bundle.proposal, (*bundle.headers, *junk))
    return walk


@pytest.mark.parametrize("voters", [2, 4])
@pytest.mark.parametrize("is_common", [True, False])
def test_a_snapshot_that_not_all_stand_on_needs_two_thirds_of_its_voters(
    voters: int, is_common: bool
) -> None:
    tree, said = Tree(), list[str]()
    first = tree.start(4)
    carrier = tree.grow(first, 1, range(4))
    tree.grow(carrier, 2, range(voters))
    unsigned = header(3, 2, vote=carrier).raw[:-1] + b"?"
    walk = walk_of(tree, b"", b"no header", b"x" * 5_000, unsigned)
    puller, clock = cast(Puller, None), cast(Clock, None)
    strangers = Strangers(MANIFEST, puller, clock, said.append, cheap_verify, lambda: 4)
    offer = Offer(carrier, (), is_common)
    is_taken = asyncio.run(strangers.may_take(offer, tree.state(first), walk))
    assert is_taken == (is_common or voters == 4)
    assert bool(said) != is_taken


class Giver:
    """Peers that answer whatever they are asked for with the same."""

    def __init__(self, raw: bytes | None) -> None:
        self.raw = raw
        self.asked = 0

    async def ask(
        self, holder: bytes, request: BlobRequest, bytes_max: int, timeout_s: float
    ) -> bytes | None:
        self.asked += 1
        return self.raw


def records_of(tree: Tree, *records: bytes) -> bytes:
    return encode_records(encode_bundle(make_bundle(tree.chain[record])) for record in records)


def test_what_is_no_chain_is_not_followed_and_one_who_gives_it_is_asked_once() -> None:
    tree = Tree()
    records = [tree.start(3)]
    for round_ in range(1, 6):
        records.append(tree.grow(records[-1], round_, range(3)))
    gap, another = records_of(tree, records[1], records[5]), records_of(tree, records[2])
    for raw in (None, b"", b"junk", gap, another):
        giver = Giver(raw)
        walk = Walk(cast(Puller, giver), RUN_ID)
        heads = [(b"a", head_at(records[5])), (b"b", head_at(records[5]))]
        asyncio.run(walk.follow(heads, floor_round=0, steps_max=50))
        assert not walk.links
        assert giver.asked == 2


def test_a_chain_is_followed_to_the_floor_to_what_is_named_and_nowhere_beyond_the_most() -> None:
    tree = Tree()
    records = [tree.start(3)]
    for round_ in range(1, 6):
        records.append(tree.grow(records[-1], round_, range(3)))

    class Archive(Giver):
        async def ask(
            self, holder: bytes, request: BlobRequest, bytes_max: int, timeout_s: float
        ) -> bytes | None:
            return records_of(tree, request.key)

    def follow(floor_round: int, steps_max: int = 50, **named: bytes) -> int:
        walk = Walk(cast(Puller, Archive(None)), RUN_ID)
        heads = [(b"a", head_at(records[5], **named))]
        asyncio.run(walk.follow(heads, floor_round=floor_round, steps_max=steps_max))
        return len(walk.links)

    assert follow(-1) == 6
    assert follow(3) == 3
    assert follow(3, final=records[1]) == 5
    assert follow(3, snapshot_record=records[0]) == 6
    assert follow(3, final=b"?" * 32) == 6, "nobody has it: to the genesis"
    assert follow(-1, steps_max=2) == 2


def head_at(record: bytes, final: bytes = b"", snapshot_record: bytes = b"") -> HeadAnswer:
    return HeadAnswer(
        head=record,
        round=5,
        snapshot_record=snapshot_record,
        height=6,
        syncing=False,
        final=final,
    )


class Frozen(Giver):
    """One peer answers, one hangs."""

    def holders(self) -> list[bytes]:
        return [b"lively", b"frozen"]

    async def ask(
        self, holder: bytes, request: BlobRequest, bytes_max: int, timeout_s: float
    ) -> bytes | None:
        if holder == b"frozen" and self.raw:
            await asyncio.sleep(timeout_s + 1)
        return encode_head(head_at(b"h" * 32))


def test_who_hangs_is_waited_for_once() -> None:
    async def scenario() -> None:
        loop, frozen = asyncio.get_running_loop(), Frozen(b"frozen")
        asker = HeadAsker(cast(Puller, frozen))
        took_s = []
        for _ in range(3):
            begin_s = loop.time()
            assert [holder for holder, _ in await asker.ask()] == [b"lively"]
            took_s.append(loop.time() - begin_s)
        assert took_s == pytest.approx([HEAD_S + SILENT_S, SILENT_S, SILENT_S])
        frozen.raw = None  # it thaws
        assert len(await asker.ask()) == 2
        frozen.raw = b"frozen"
        begin_s = loop.time()
        await asker.ask()
        assert loop.time() - begin_s > HEAD_S, "it has answered in between"

    run_virtual(scenario())
