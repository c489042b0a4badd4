import asyncio
import hashlib
from pathlib import Path

import pytest

from demo_node.ports import Archive, RoundStore
from demo_node.store.addresses import AddressBook
from demo_node.store.archive import FileArchive
from demo_node.store.chainlog import ChainLog
from demo_node.store.disk import Disk, FileDisk
from demo_node.store.memory import MemoryDisk
from demo_node.store.payloads import PayloadStore
from demo_node.store.round_store import FileRoundStore
from demo_node.store.signed import SignedLog
from demo_node.store.snapshots import SnapshotStore
from demo_protocol.errors import LocalFault
from tests.store.builders import RUN, corpus, name, pieces, snapshot_info, tensors


def round_store(disk: Disk, folder: Path) -> FileRoundStore:
    signed = SignedLog(disk, folder / "signed.log", RUN, 0)
    chain = ChainLog(disk, folder / "chain.log", RUN)
    return FileRoundStore(signed, chain, PayloadStore(disk, folder / "payloads"))


async def use(store: RoundStore) -> None:
    key = await store_payload(store)
    await store.persist_signed("header", 1, name(1), b"signed")
    with pytest.raises(LocalFault):
        await store.persist_signed("header", 1, name(2), b"other")
    await store.keep_record(name(1), name(0), 1, b"bundle")
    assert await store.read_record(name(1)) == (b"bundle", name(0))
    assert await store.read_record(name(2)) == (None, b"")
    assert await store.read_payload(key) == b"payload"
    await store.forget_payloads_before(2, needed_from=2)
    assert await store.read_payload(key) is None


async def store_payload(store: RoundStore) -> bytes:
    key = hashlib.sha256(b"payload").digest()
    await store.keep_payload(1, key, b"payload")
    return key


def test_a_round_finds_what_it_wrote() -> None:
    disk = MemoryDisk()
    for folder in (Path("/d"), Path("/d/payloads")):
        disk.make_folder(folder)
    asyncio.run(use(round_store(disk, Path("/d"))))


def test_files_are_given_back(tmp_path: Path) -> None:
    store = round_store(FileDisk(), tmp_path)
    store.close()
    with pytest.raises(LocalFault, match="closed"):
        asyncio.run(store.keep_record(name(1), name(0), 1, b"bundle"))


def test_a_joiner_gets_snapshot_corpus_and_addresses(tmp_path: Path) -> None:
    disk = FileDisk()
    snapshots, text = SnapshotStore(disk, tmp_path, RUN), corpus()
    book = AddressBook(disk, tmp_path / "peers.json")
    book.add("/ip4/2.2.2.2/tcp/1/p2p/B", 1)
    book.add("/ip4/1.1.1.1/tcp/1/p2p/A", 2)
    archive = FileArchive(snapshots, book, lambda: ["/ip4/1.1.1.1/tcp/1/p2p/A"])
    port: Archive = archive

    assert archive.snapshots() == []
    saved = asyncio.run(snapshots.save(snapshot_info(4), pieces(tensors())))
    assert archive.snapshots() == [(name(4), saved.root)]
    assert asyncio.run(archive.read_state_leaves(saved.root)) == b"".join(saved.leaves)
    assert asyncio.run(archive.read_state_leaves(bytes(32))) is None
    assert asyncio.run(archive.read_state_chunk(saved.leaves[0])) == saved.info.chain_state
    assert asyncio.run(archive.read_state_chunk(saved.leaves[1])) == bytes([7]) * 48
    assert asyncio.run(archive.read_state_chunk(bytes(32))) is None
    assert asyncio.run(port.read_corpus(text.leaves[3])) is None
    archive.corpus = text
    assert asyncio.run(archive.read_corpus(text.leaves[3])) == text.block(3)
    assert archive.addresses() == ["/ip4/1.1.1.1/tcp/1/p2p/A", "/ip4/2.2.2.2/tcp/1/p2p/B"]
