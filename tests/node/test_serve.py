"""What a node answers before it has a chain: it points on."""

import asyncio
import threading
from pathlib import Path
from typing import cast

import pytest

from demo_node import serve
from demo_node.arrivals import Arrivals
from demo_node.copies import Copies
from demo_node.ports import Blob, BlobRequest, RoundStore
from demo_node.serve import Server
from demo_node.sim.whole.virtual_loop import run_virtual
from demo_node.store.addresses import AddressBook
from demo_node.store.archive import FileArchive
from demo_node.store.datadir import DataDir
from demo_node.store.memory import MemoryDisk
from demo_node.store.snapshots import SnapshotStore
from demo_node.tensors import TensorDigests
from demo_protocol.answers import decode_head, decode_peers, decode_time, encode_chain_state
from demo_protocol.manifest import decode_manifest
from demo_protocol.roster import ChainState
from demo_protocol.round import Round
from tests.builders import MANIFEST, RUN_ID, Tree, view
from tests.node.spread import Shelf

OTHER = "/ip4/192.0.2.7/tcp/4001/p2p/12D3KooWOther"
HOME, WORLD = "/ip4/192.168.0.9/tcp/4001", "/ip4/8.8.8.8/tcp/4001"
KEYLESS = (Blob.MANIFEST, Blob.HEAD, Blob.PEERS, Blob.TIME)


def make_server(seen_at: str = HOME, *met: str) -> Server:
    disk, datadir = MemoryDisk(), DataDir(Path("/d"))
    for folder in (datadir.path, datadir.snapshots):
        disk.make_folder(folder)
    book = AddressBook(disk, datadir.peers)
    for age, address in enumerate((OTHER, *met)):
        book.add(address, 1 + age)
    archive = FileArchive(SnapshotStore(disk, datadir.snapshots, RUN_ID), book, list)
    return Server(MANIFEST, archive, lambda: 1_234, {bytes(32): seen_at}.__getitem__)


def ask(kind: Blob, key: bytes = b"") -> bytes | None:
    return run_virtual(make_server().answer(bytes(32), BlobRequest(kind, key, 1)))


def ignore(payload_hash: bytes, size: int) -> None:
    """What was given is of no interest."""


def test_a_node_without_a_chain_yet_gives_the_manifest_the_time_and_who_else_to_ask() -> None:
    assert decode_manifest(ask(Blob.MANIFEST) or b"") == MANIFEST
    assert decode_time(ask(Blob.TIME) or b"") == 1_234
    assert decode_peers(ask(Blob.PEERS) or b"") == (OTHER,)


def test_who_asks_from_the_internet_is_not_told_who_is_at_home() -> None:
    answered = make_server(WORLD).answer(bytes(32), BlobRequest(Blob.PEERS, b"", 1))
    assert decode_peers(run_virtual(answered) or b"") == ()


def test_who_was_met_at_home_lately_does_not_crowd_out_whom_everybody_may_know() -> None:
    public = "/ip4/8.8.4.4/tcp/4001/p2p/12D3KooWPublic"
    home = [f"/ip4/10.0.0.{n}/tcp/4001/p2p/12D3KooW{n}" for n in range(70)]
    answered = make_server(WORLD, public, *home).answer(bytes(32), BlobRequest(Blob.PEERS, b"", 1))
    assert decode_peers(run_virtual(answered) or b"") == (public,)


def test_a_node_without_a_chain_yet_says_that_it_is_syncing_itself() -> None:
    head = decode_head(ask(Blob.HEAD) or b"")
    assert head.syncing
    assert (head.head, head.height, head.snapshot_root) == (RUN_ID, 0, b"")


def test_what_it_does_not_have_yet_it_does_not_give() -> None:
    for kind in set(Blob) - set(KEYLESS):
        assert ask(kind, bytes(32)) is None


def test_what_the_chain_says_is_encoded_once_for_all_who_ask_and_off_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tree = Tree()
    first = tree.start(4)
    second = tree.grow(first, 1, range(4))
    encoded: list[bytes] = []

    def encode(state: ChainState) -> bytes:
        assert threading.current_thread() is not threading.main_thread()
        encoded.append(state.record)
        return encode_chain_state(state)

    monkeypatch.setattr(serve, "encode_chain_state", encode)
    server, machine = make_server(), Round(view(root=tree.state(first)))
    server.open(
        machine,
        cast(RoundStore, Shelf()),
        cast(TensorDigests, None),
        frozenset(),
        Arrivals(),
        Copies(),
        ignore,
    )

    async def ask_twice(record: bytes) -> None:
        request = BlobRequest(Blob.CHAIN_STATE, record, 1)
        given = await asyncio.gather(*(server.answer(bytes(32), request) for _ in range(2)))
        assert given == [encode_chain_state(tree.state(record))] * 2

    async def scenario() -> None:
        await ask_twice(first)
        await ask_twice(first)
        machine.view.move_start(tree.state(second))
        await ask_twice(second)

    asyncio.run(scenario())  # the virtual loop has no threads
    assert encoded == [first, second]
