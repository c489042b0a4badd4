"""A peer's snapshot is kept only where everything that it says can be believed."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from demo_node.believing import Say
from demo_node.mesh.memory import MemoryNetwork
from demo_node.ports import Blob, BlobRequest
from demo_node.pull import Puller
from demo_node.sim.keys import cheap_verify, peer_name
from demo_node.sim.whole.model_learner import ModelLearner
from demo_node.sim.whole.virtual_loop import VirtualClock, run_virtual
from demo_node.starting import StartFinder
from demo_node.store.memory import MemoryDisk
from demo_node.store.snapshots import SnapshotStore
from demo_protocol.answers import (
    HeadAnswer,
    encode_bundle,
    encode_chain_state,
    encode_head,
    encode_records,
)
from demo_protocol.chain import make_bundle
from demo_protocol.limits import STATE_CHUNK_BYTES
from demo_protocol.manifest import carries_root
from demo_protocol.merkle import compute_leaf, compute_leaves
from demo_protocol.schedule import round_start_ms
from demo_protocol.state_root import compute_state_root
from tests.builders import MANIFEST, RUN_ID, Tree, header, schema_of, view

HOLDER, FOLDER = peer_name(1), Path("/snapshots")
DIGEST = b"8 bytes!"
PARAMETERS = DIGEST * (schema_of(MANIFEST.model).parameters * 4 // len(DIGEST))
EVERY = MANIFEST.agreement.snapshot_every


class RootedTree(Tree):
    """A chain whose records carry the roots of what a peer can give."""

    def root_due(self, parent: bytes) -> bytes:
        leaves = compute_leaves(PARAMETERS, STATE_CHUNK_BYTES)
        is_due = carries_root(self.run.agreement, self.state(parent).height + 1)
        return compute_state_root(self.state(parent), leaves) if is_due else b""


def grow_rooted(authors: Iterable[int] = range(4)) -> tuple[Tree, list[bytes]]:
    """Two records more than it takes until one carries a root."""
    tree, authors = RootedTree(), list(authors)
    records = [tree.grow(tree.genesis, 0, authors, joins=authors)]
    for round_ in range(1, EVERY + 2):
        records.append(tree.grow(records[-1], round_, authors))
    return tree, records


class LyingPuller(Puller):
    """One peer that answers with what it is given to answer with."""

    def __init__(self, answers: dict[tuple[Blob, bytes], bytes]) -> None:
        super().__init__(MemoryNetwork().add(peer_name(99)))
        self.answers = answers
        self.asked: list[Blob] = []

    def holders(self, first: Iterable[bytes] = (), *, only: bool = False) -> list[bytes]:
        return [HOLDER]

    def networks(self) -> dict[bytes, str]:
        return {HOLDER: "one"}

    async def ask(
        self, holder: bytes, request: BlobRequest, bytes_max: int, timeout_s: float = 20.0
    ) -> bytes | None:
        self.asked.append(request.kind)
        return self.answers.get((request.kind, request.key))


def give_state(state: bytes, parameters: bytes, root: bytes) -> dict[tuple[Blob, bytes], bytes]:
    """Answers of a peer that has this state, which it says has this root."""
    size = STATE_CHUNK_BYTES
    chunks = [state, *(parameters[at : at + size] for at in range(0, len(parameters), size))]
    leaves = [compute_leaf(chunk) for chunk in chunks]
    given = {(Blob.STATE_CHUNK, leaf): c for leaf, c in zip(leaves, chunks, strict=True)}
    return {(Blob.STATE_LEAVES, root): b"".join(leaves), **given}


def give_head(tree: Tree, records: list[bytes], root: bytes) -> dict[tuple[Blob, bytes], bytes]:
    """Answers of a peer that stands at the last of these, with a snapshot before the one with a
    root."""
    head = records[-1]
    answer = HeadAnswer(
        head=head,
        round=tree.state(head).round,
        snapshot_record=records[EVERY - 2],
        height=tree.state(head).height,
        syncing=False,
        snapshot_root=root,
    )
    bundles = [encode_bundle(make_bundle(tree.chain[record])) for record in records]
    return {(Blob.HEAD, b""): encode_head(answer), (Blob.RECORDS, head): encode_records(bundles)}


def make_finder(
    puller: LyingPuller, learner: ModelLearner, say: Say = print
) -> tuple[StartFinder, SnapshotStore]:
    disk, clock = MemoryDisk(), VirtualClock()
    disk.make_folder(FOLDER)
    store = SnapshotStore(disk, FOLDER, RUN_ID)
    finder = StartFinder(
        MANIFEST, store, puller, learner, clock, say, lambda *_, **__: None, verify=cheap_verify
    )
    return finder, store


LIES = ["", "which root", "who is in", "what is inside", "which digest", "nothing at all"]


@pytest.mark.parametrize("lie", LIES)
def test_a_snapshot_that_lies_is_neither_kept_nor_loaded(lie: str) -> None:
    async def scenario() -> None:
        await VirtualClock().sleep_until_ms(round_start_ms(MANIFEST.schedule, EVERY + 5))
        tree, records = grow_rooted()
        held, wanted = records[1], records[EVERY - 2]
        seen = view(me=9)
        seen.chain = tree.chain
        root = tree.chain[records[EVERY - 1]].state_root
        assert root
        state, parameters = encode_chain_state(tree.state(wanted)), PARAMETERS
        match lie:
            case "which root":  # all of it fits together, but no record carries it
                parameters = PARAMETERS[:-8] + b"another!"
                leaves = compute_leaves(parameters, STATE_CHUNK_BYTES)
                root = compute_state_root(tree.state(wanted), leaves)
            case "who is in":
                state = encode_chain_state(tree.state(held))
            case "what is inside":
                parameters = PARAMETERS[:-8] + b"another!"
            case "which digest":
                seen.pool.add_header(header(2, 10, base=wanted, digest=b"another!"))
            case _:
                pass
        given = {} if lie == "nothing at all" else give_state(state, parameters, root)
        puller = LyingPuller(give_head(tree, records, root) | given)
        learner = ModelLearner(MANIFEST, VirtualClock(), HOLDER)
        learner.states[held] = b"our own."
        finder, store = make_finder(puller, learner)
        found = await finder.find_beyond(seen, records[2], records[-1])
        assert learner.states[held] == b"our own."
        if lie:
            assert found is None
            assert store.newest()[0] is None
            assert learner.states.keys() == {held}
        else:
            assert found is not None
            assert found.state == tree.state(wanted)
            assert found.digest == DIGEST
            assert learner.states.keys() == {held, wanted}

    run_virtual(scenario())


@pytest.mark.parametrize("lie", ["", "who is in", "another state", "no list", "no state"])
def test_a_joiner_begins_where_the_chains_state_was_checked_against_the_root(lie: str) -> None:
    async def scenario() -> None:
        await VirtualClock().sleep_until_ms(round_start_ms(MANIFEST.schedule, EVERY + 5))
        tree, records = grow_rooted()
        wanted = records[EVERY - 2]
        root = tree.chain[records[EVERY - 1]].state_root
        given = give_state(encode_chain_state(tree.state(wanted)), PARAMETERS, root)
        nobody = encode_chain_state(replace(tree.state(wanted), known={}))
        match lie:
            case "who is in":
                given = give_state(nobody, PARAMETERS, root)
            case "another state":
                leaf = compute_leaf(encode_chain_state(tree.state(wanted)))
                given[Blob.STATE_CHUNK, leaf] = nobody
            case "no list":
                del given[Blob.STATE_LEAVES, root]
            case "no state":
                del given[Blob.STATE_CHUNK, compute_leaf(encode_chain_state(tree.state(wanted)))]
            case _:
                pass
        puller = LyingPuller(give_head(tree, records, root) | given)
        learner = ModelLearner(MANIFEST, VirtualClock(), HOLDER)
        finder, store = make_finder(puller, learner)
        start = await finder.choose(0)
        assert learner.states == {}, "the parameters come later"
        if lie:
            assert (start.state.record, start.promise) == (RUN_ID, None)
            return
        assert start.state == tree.state(wanted)
        assert start.promise is not None
        assert start.promise.root == root
        fulfilled = await finder.fulfil(start)
        assert fulfilled is not None
        assert fulfilled.digest == DIGEST
        kept = store.newest()[0]
        assert kept is not None
        assert kept.info.record == wanted
        assert learner.states == {wanted: DIGEST}

    run_virtual(scenario())


@pytest.mark.parametrize("is_named", [True, False])
def test_rule_25_only_a_chain_that_a_voter_stands_on_is_gone_to(is_named: bool) -> None:
    async def scenario() -> None:
        await VirtualClock().sleep_until_ms(round_start_ms(MANIFEST.schedule, EVERY + 5))
        tree = Tree()
        seen = view(me=9, root=tree.state(tree.start(4)))
        seen.round = EVERY + 5
        other, records = grow_rooted(range(3))
        voted = records[-1] if is_named else b"?" * 32
        seen.votes.add(peer_name(1), EVERY + 5, voted)
        root = other.chain[records[EVERY - 1]].state_root
        puller = LyingPuller(give_head(other, records, root))
        learner = ModelLearner(MANIFEST, VirtualClock(), HOLDER)
        finder, _ = make_finder(puller, learner)
        assert await finder.find_elsewhere(seen) is None
        assert (Blob.STATE_LEAVES in puller.asked) == is_named

    run_virtual(scenario())
