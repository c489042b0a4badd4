"""Where the parameters that a run began with come from."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from demo_node.materials import ensure_initial
from demo_node.mesh.memory import MemoryNetwork
from demo_node.ports import Blob, BlobRequest, OnBlob
from demo_node.pull import Puller
from demo_node.sim.whole.virtual_loop import run_virtual
from demo_node.store.addresses import AddressBook
from demo_node.store.archive import FileArchive
from demo_node.store.datadir import DataDir
from demo_node.store.disk import FileDisk
from demo_node.store.initial import InitialState, adopt_initial, compute_bytes_max
from demo_node.store.snapshots import SnapshotStore
from demo_protocol.errors import ConfigError
from demo_protocol.schema import compute_schema
from tests.builders import MANIFEST

DISK = FileDisk()
RAW = b"the parameters that a run began with"
SHA256 = hashlib.sha256(RAW).digest()
RUN = replace(MANIFEST, initial=SHA256.hex())
TOO_LONG = bytes(compute_bytes_max(compute_schema(MANIFEST.model).parameters) + 1)


def ensure(folder: Path, given: Sequence[bytes | None]) -> tuple[InitialState | None, list[int]]:
    """What comes of asking peers that give these answers, and how often each was asked."""
    asked = [0] * len(given)

    def answering(index: int) -> OnBlob:
        async def answer(peer: bytes, request: BlobRequest) -> bytes | None:
            assert request == BlobRequest(Blob.INITIAL, SHA256)
            asked[index] += 1
            return given[index]

        return answer

    async def run() -> InitialState | None:
        network = MemoryNetwork()
        mine = network.add(bytes(32))
        for index in range(len(given)):
            other = network.add(bytes([index + 1]) * 32)
            await other.join(b"", lambda *_: True, answering(index))
        network.connect_all()
        puller = Puller(mine)
        return await ensure_initial(DISK, DataDir(folder), RUN, puller, lambda line: None)

    return run_virtual(run()), asked


def test_it_is_fetched_from_whoever_gives_the_very_file(tmp_path: Path) -> None:
    found, asked = ensure(tmp_path, [None, RAW + b"!", TOO_LONG, RAW])
    assert found is not None
    assert found.read() == RAW == DataDir(tmp_path).initial.read_bytes()
    assert asked[-1] == 1


def test_it_is_asked_for_once_only(tmp_path: Path) -> None:
    adopt_initial(DISK, DataDir(tmp_path).initial, RAW, SHA256)
    found, asked = ensure(tmp_path, [RAW])
    assert found is not None
    assert asked == [0]


def test_a_damaged_file_is_fetched_again(tmp_path: Path) -> None:
    DataDir(tmp_path).initial.write_bytes(RAW + b"!")
    found, asked = ensure(tmp_path, [RAW])
    assert found is not None
    assert (found.read(), asked) == (RAW, [1])


def test_where_nobody_has_it_one_line_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"file with SHA-256 {SHA256.hex()}.*later") as caught:
        ensure(tmp_path, [None, RAW[:-1]])
    assert caught.value.exit_code == 75
    assert not DataDir(tmp_path).initial.exists()


def test_who_has_it_gives_it_by_its_hash(tmp_path: Path) -> None:
    initial = adopt_initial(DISK, DataDir(tmp_path).initial, RAW, SHA256)

    async def run() -> list[bytes | None]:
        snapshots = SnapshotStore(DISK, tmp_path / "snapshots", bytes(32))
        archive = FileArchive(snapshots, AddressBook(DISK, tmp_path / "peers.json"), list)
        before = await archive.read_initial(SHA256)
        archive.initial = initial
        return [before, await archive.read_initial(SHA256), await archive.read_initial(bytes(32))]

    assert asyncio.run(run()) == [None, RAW, None]
