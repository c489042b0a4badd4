"""What a node answers before it has a chain: it points on."""

from pathlib import Path

from demo_node.ports import Blob, BlobRequest
from demo_node.serve import Server
from demo_node.sim.whole.virtual_loop import run_virtual
from demo_node.store.addresses import AddressBook
from demo_node.store.archive import FileArchive
from demo_node.store.datadir import DataDir
from demo_node.store.memory import MemoryDisk
from demo_node.store.snapshots import SnapshotStore
from demo_protocol.answers import decode_head, decode_peers, decode_time
from demo_protocol.manifest import decode_manifest
from tests.builders import MANIFEST, RUN_ID

OTHER = "/ip4/192.0.2.7/tcp/4001/p2p/12D3KooWOther"
KEYLESS = (Blob.MANIFEST, Blob.HEAD, Blob.PEERS, Blob.TIME)


def ask(kind: Blob, key: bytes = b"") -> bytes | None:
    disk, datadir = MemoryDisk(), DataDir(Path("/d"))
    for folder in (datadir.path, datadir.snapshots):
        disk.make_folder(folder)
    book = AddressBook(disk, datadir.peers)
    book.add(OTHER, 1)
    archive = FileArchive(SnapshotStore(disk, datadir.snapshots, RUN_ID), book, list)
    server = Server(MANIFEST, archive, lambda: 1_234)
    return run_virtual(server.answer(bytes(32), BlobRequest(kind, key, 1)))


def test_a_node_without_a_chain_yet_gives_the_manifest_the_time_and_who_else_to_ask() -> None:
    assert decode_manifest(ask(Blob.MANIFEST) or b"") == MANIFEST
    assert decode_time(ask(Blob.TIME) or b"") == 1_234
    assert decode_peers(ask(Blob.PEERS) or b"") == (OTHER,)


def test_a_node_without_a_chain_yet_says_that_it_is_syncing_itself() -> None:
    head = decode_head(ask(Blob.HEAD) or b"")
    assert head.syncing
    assert (head.head, head.height, head.snapshot_root) == (RUN_ID, 0, b"")


def test_what_it_does_not_have_yet_it_does_not_give() -> None:
    for kind in set(Blob) - set(KEYLESS):
        assert ask(kind, bytes(32)) is None
