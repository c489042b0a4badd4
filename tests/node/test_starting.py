"""A peer's snapshot is kept only where everything that it says can be believed."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import safetensors.numpy

from demo_node.believing import Say
from demo_node.ports import Blob, BlobRequest
from demo_node.pull import Puller
from demo_node.sim.keys import cheap_verify, peer_name
from demo_node.sim.whole.model_learner import ModelLearner
from demo_node.sim.whole.virtual_loop import VirtualClock, run_virtual
from demo_node.starting import StartFinder
from demo_node.store.memory import MemoryDisk
from demo_node.store.snapshots import SnapshotInfo, SnapshotStore
from demo_protocol.answers import (
    HeadAnswer,
    encode_bundle,
    encode_chain_state,
    encode_head,
    encode_records,
)
from demo_protocol.round import make_bundle
from demo_protocol.schedule import round_start_ms
from tests.builders import MANIFEST, RUN_ID, Tree, header, view

HOLDER, FOLDER = peer_name(1), Path("/snapshots")
TENSORS = b"8 bytes!"


def make_store() -> SnapshotStore:
    disk = MemoryDisk()
    disk.make_folder(FOLDER)
    return SnapshotStore(disk, FOLDER, RUN_ID)


async def write(info: SnapshotInfo) -> bytes:
    """The file of a snapshot that says this of itself."""

    async def pieces() -> AsyncIterator[bytes]:
        yield safetensors.numpy.save({"digest": np.frombuffer(TENSORS, dtype=np.uint8)})

    store = make_store()
    raw = store.read(await store.save(info, pieces()))
    assert raw is not None
    return raw


class LyingPuller:
    """One peer that answers with what it is given to answer with."""

    def __init__(self, answers: dict[tuple[Blob, bytes], bytes]) -> None:
        self.answers = answers
        self.asked: list[Blob] = []

    def holders(self) -> list[bytes]:
        return [HOLDER]

    def networks(self) -> dict[bytes, str]:
        return {HOLDER: "one"}

    async def ask(
        self, holder: bytes, request: BlobRequest, bytes_max: int, timeout_s: float = 20.0
    ) -> bytes | None:
        self.asked.append(request.kind)
        return self.answers.get((request.kind, request.key))


def make_finder(
    puller: LyingPuller, store: SnapshotStore, learner: ModelLearner, say: Say
) -> StartFinder:
    clock, asked = VirtualClock(), cast(Puller, puller)
    return StartFinder(MANIFEST, store, asked, learner, clock, say, say, verify=cheap_verify)


WHY = {
    "who is in": "who is in",
    "which round": "its round",
    "which record": "another record",
    "which digest": "most headers",
    "what is inside": "not what it says",
}
"""What is said of each lie."""


@pytest.mark.parametrize("lie", ["", *WHY])
def test_a_snapshot_that_lies_is_neither_kept_nor_loaded(lie: str) -> None:
    async def scenario() -> None:
        await VirtualClock().sleep_until_ms(round_start_ms(MANIFEST.schedule, 4))
        tree = Tree()
        records = [tree.start(4)]
        for round_ in range(1, 4):
            records.append(tree.grow(records[-1], round_, range(4)))
        held, wanted = records[1], records[3]
        seen = view(me=9)
        seen.chain = tree.chain
        state = tree.state(wanted)
        info = SnapshotInfo(
            run_id=RUN_ID,
            record=wanted,
            round=state.round,
            height=state.height,
            digest=TENSORS,
            chain_state=encode_chain_state(state),
        )
        match lie:
            case "who is in":
                info = replace(info, chain_state=encode_chain_state(replace(state, known={})))
            case "which round":
                info = replace(info, round=10**9)
            case "which record":
                info = replace(info, record=held)
            case "what is inside":
                info = replace(info, digest=b"another!")
            case _:
                pass
        claim = b"another!" if lie in ("which digest", "what is inside") else TENSORS
        seen.pool.add_header(header(2, 4, base=wanted, digest=claim))
        raw = await write(info)
        name = hashlib.sha256(raw).digest()
        head = HeadAnswer(
            head=wanted,
            round=3,
            snapshot_record=wanted,
            snapshot_hash=name,
            snapshot_bytes=len(raw),
            height=4,
            syncing=False,
        )
        puller = LyingPuller({(Blob.HEAD, b""): encode_head(head), (Blob.SNAPSHOT, name): raw})
        store, said = make_store(), list[str]()
        learner = ModelLearner(MANIFEST, VirtualClock(), HOLDER)
        learner.states[held] = b"our own."
        finder = make_finder(puller, store, learner, said.append)
        found = await finder.find_beyond(seen, records[2], wanted)
        assert learner.states[held] == b"our own."
        if lie:
            assert found is None
            assert store.newest()[0] is None
            assert learner.states.keys() == {held}
            assert WHY[lie] in said[-1]
        else:
            assert found is not None
            assert found.state == state
            assert learner.states.keys() == {held, wanted}

    run_virtual(scenario())


@pytest.mark.parametrize("is_named", [True, False])
def test_rule_25_only_a_chain_that_a_voter_stands_on_is_gone_to(is_named: bool) -> None:
    async def scenario() -> None:
        await VirtualClock().sleep_until_ms(round_start_ms(MANIFEST.schedule, 14))
        tree = Tree()
        seen = view(me=9, root=tree.state(tree.start(4)))
        seen.round = 14
        other, name = Tree(), b"s" * 32
        grown = [other.start(3)]
        for round_ in range(1, 13):  # too far from the genesis to be replayed from there
            grown.append(other.grow(grown[-1], round_, range(3)))
        head = grown[-1]
        seen.votes.add(peer_name(1), 14, head if is_named else b"?" * 32)
        answer = HeadAnswer(
            head=head,
            round=12,
            snapshot_record=head,
            snapshot_hash=name,
            snapshot_bytes=1_000,
            height=10**6,
            syncing=False,
        )
        puller = LyingPuller(
            {
                (Blob.HEAD, b""): encode_head(answer),
                (Blob.RECORDS, head): encode_records(
                    encode_bundle(make_bundle(other.chain[record])) for record in grown
                ),
                (Blob.SNAPSHOT, name): b"",
            }
        )
        learner = ModelLearner(MANIFEST, VirtualClock(), HOLDER)
        finder = make_finder(puller, make_store(), learner, print)
        assert await finder.find_elsewhere(seen) is None
        assert (Blob.SNAPSHOT in puller.asked) == is_named

    run_virtual(scenario())
