"""A state is fetched by its root: how far it is is told, and what cannot be one is refused."""

import asyncio
import re
from pathlib import Path

import numpy as np

from demo_node.mesh.memory import MemoryNetwork
from demo_node.observer import Figure
from demo_node.ports import Blob, BlobRequest
from demo_node.pull import Puller
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.virtual_loop import run_virtual
from demo_node.snapshot_fetching import FetchedState, SnapshotFetcher
from demo_node.store.memory import MemoryDisk
from demo_node.store.snapshots import SnapshotStore
from demo_protocol.answers import encode_chain_state
from demo_protocol.limits import STATE_CHUNK_BYTES
from demo_protocol.manifest import Model
from demo_protocol.merkle import compute_leaf, compute_leaves, compute_root
from demo_protocol.roster import ChainState
from demo_protocol.schema import compute_schema
from tests.builders import RUN_ID, Tree

SCHEMA = compute_schema(Model(layers=2, width=192, hidden=768, heads=2, context=16))
PARAMETERS = np.arange(SCHEMA.parameters, dtype=np.float32).tobytes()
CHUNK_S = 1.5


def make_state() -> ChainState:
    tree = Tree()
    return tree.state(tree.start(3))


class Scene:
    """Three peers that have one state, and one that fetches it."""

    def __init__(self, said: bytes, parameters: bytes = PARAMETERS) -> None:
        leaves = compute_leaves(parameters, STATE_CHUNK_BYTES)
        self.leaves = (compute_leaf(said), *leaves)
        self.root = compute_root(self.leaves)
        size = STATE_CHUNK_BYTES
        self.chunks = {leaf: parameters[i * size : (i + 1) * size] for i, leaf in enumerate(leaves)}
        self.chunks[self.leaves[0]] = said
        self.lines: list[str] = []
        self.events: list[tuple[str, dict[str, object]]] = []
        self.disk = MemoryDisk()
        self.disk.make_folder(Path("/s"))
        self.network = MemoryNetwork()

    async def answer(self, asking: bytes, request: BlobRequest) -> bytes | None:
        """What each of them says."""
        if request.kind is Blob.STATE_LEAVES:
            return b"".join(self.leaves) if request.key == self.root else None
        await asyncio.sleep(CHUNK_S)
        return self.chunks.get(request.key)

    async def make(self) -> SnapshotFetcher:
        """Everybody is connected."""
        mesh = self.network.add(peer_name(99))
        for index in range(3):
            peer = self.network.add(peer_name(index))
            await peer.join(bytes(32), lambda topic, sender, message: True, self.answer)
        self.network.connect_all()
        self.puller = Puller(mesh)
        return SnapshotFetcher(
            SCHEMA,
            SnapshotStore(self.disk, Path("/s"), RUN_ID),
            self.puller,
            self.lines.append,
            lambda name, **fields: self.events.append((name, fields)),
        )

    async def fetch(self, root: bytes | None = None) -> FetchedState | None:
        """From whoever is connected."""
        fetcher = await self.make()
        return await fetcher.fetch(root or self.root, self.puller.holders)


def test_what_came_is_what_the_root_names_and_how_far_it_was_is_told() -> None:
    async def scenario() -> None:
        state = make_state()
        scene = Scene(encode_chain_state(state))
        fetcher = await scene.make()
        figures: list[Figure] = []

        async def look() -> None:
            await asyncio.sleep(2.5 * CHUNK_S)
            figures.extend(fetcher.figures())

        looking = asyncio.create_task(look())
        fetched = await fetcher.fetch(scene.root, scene.puller.holders)
        await looking
        assert fetched is not None
        assert fetched.state == state
        assert fetched.part.read_file().endswith(PARAMETERS)
        shown = {figure.name: figure.value for figure in figures}
        assert 0.4 < shown["demo_snapshot_fetch_ratio"] < 0.8
        assert shown["demo_snapshot_fetch_sources"] == 3
        assert {figure.value for figure in fetcher.figures()} == {0}
        assert all(
            re.fullmatch(r"snapshot \d+ % from 3 peers, \d+\.\d MB/s", line)
            for line in scene.lines[:-1]
        )
        assert len(scene.lines) >= 2
        assert re.fullmatch(
            r"snapshot of round 0 is here: 4\.9 MB from 3 peers in \d+\.\d s", scene.lines[-1]
        )
        ((name, fields),) = scene.events
        assert (name, fields["peers"], fields["bytes_before"]) == ("snapshot.fetched", 3, 0)
        assert fields["bytes"] == len(PARAMETERS) + len(encode_chain_state(state))

    run_virtual(scenario())


def test_a_root_that_nobody_has_is_not_waited_for() -> None:
    async def scenario() -> None:
        scene = Scene(encode_chain_state(make_state()))
        async with asyncio.timeout(1):
            assert await scene.fetch(bytes(32)) is None
        assert scene.lines == []

    run_virtual(scenario())


def test_what_does_not_begin_with_what_a_chain_says_is_refused_and_nothing_stays_of_it() -> None:
    async def scenario() -> None:
        scene = Scene(b"\xff no chain state")
        assert await scene.fetch() is None
        assert "refused" in scene.lines[-1]
        assert scene.disk.names(Path("/s")) == []
        assert scene.events == []

    run_virtual(scenario())


def test_a_state_of_another_size_has_a_list_of_another_length_which_nobody_takes() -> None:
    async def scenario() -> None:
        scene = Scene(encode_chain_state(make_state()), PARAMETERS + bytes(STATE_CHUNK_BYTES))
        assert await scene.fetch() is None
        assert {name for name, _ in scene.events} <= {"answer.rejected"}

    run_virtual(scenario())
