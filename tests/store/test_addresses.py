from pathlib import Path

import pytest

from demo_node.store.addresses import KNOWN_MAX, PER_PEER_MAX, AddressBook
from demo_node.store.disk import FileDisk

DISK = FileDisk()


def test_addresses_come_back_newest_first(tmp_path: Path) -> None:
    book = AddressBook(DISK, tmp_path / "peers.json")
    book.add("/ip4/1.1.1.1/tcp/1/p2p/A", 10)
    book.add("/ip4/2.2.2.2/tcp/1/p2p/B", 30)
    book.add("/ip4/3.3.3.3/tcp/1/p2p/C", 20)
    book.add("/ip4/2.2.2.2/tcp/1/p2p/B", 5)  # an older sighting changes nothing
    book.remove("/ip4/3.3.3.3/tcp/1/p2p/C")
    book.remove("unknown")
    book.save()
    again = AddressBook(DISK, tmp_path / "peers.json")
    assert again.newest() == ["/ip4/2.2.2.2/tcp/1/p2p/B", "/ip4/1.1.1.1/tcp/1/p2p/A"]


def test_the_book_is_bounded_and_forgets_the_longest_unseen(tmp_path: Path) -> None:
    book = AddressBook(DISK, tmp_path / "peers.json")
    for number in range(KNOWN_MAX + 5):
        book.add(f"/ip4/1.1.1.1/tcp/{number}/p2p/{number}", number)
    assert len(book.newest()) == KNOWN_MAX
    assert "/ip4/1.1.1.1/tcp/4/p2p/4" not in book.newest()
    assert "/ip4/1.1.1.1/tcp/5/p2p/5" in book.newest()


def test_of_one_peer_only_the_last_addresses_are_kept(tmp_path: Path) -> None:
    """Its port changes at each start; the dead ones would crowd the others out."""
    book = AddressBook(DISK, tmp_path / "peers.json")
    book.add("/ip4/1.1.1.1/tcp/1/p2p/OTHER", 0)
    for number in range(PER_PEER_MAX + 3):
        book.add(f"/ip4/1.1.1.1/tcp/{number}/p2p/SAME", number)
    assert len(book.newest()) == PER_PEER_MAX + 1
    assert f"/ip4/1.1.1.1/tcp/{PER_PEER_MAX + 2}/p2p/SAME" in book
    assert "/ip4/1.1.1.1/tcp/2/p2p/SAME" not in book
    assert "/ip4/1.1.1.1/tcp/1/p2p/OTHER" in book


def test_an_unchanged_book_is_not_written(tmp_path: Path) -> None:
    book = AddressBook(DISK, tmp_path / "peers.json")
    book.save()
    assert not (tmp_path / "peers.json").exists()


@pytest.mark.parametrize("address", ["", "x" * 300, "/ip4/\n"])
def test_absurd_addresses_are_ignored(tmp_path: Path, address: str) -> None:
    book = AddressBook(DISK, tmp_path / "peers.json")
    book.add(address, 1)
    assert book.newest() == []


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b'{"peers":3}', b'{"peers":[{"address":1,"seen_ms":2}]}', b"\xff"]
)
def test_a_damaged_file_counts_as_empty(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "peers.json").write_bytes(raw)
    assert AddressBook(DISK, tmp_path / "peers.json").newest() == []


def test_a_disk_that_takes_nothing_is_tried_again_the_next_time(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    book = AddressBook(DISK, tmp_path / "folder" / "peers.json")
    (tmp_path / "folder").rmdir()
    (tmp_path / "folder").touch()  # stands for whatever a disk may have against it
    book.add("/ip4/1.1.1.1/tcp/1/p2p/A", 1)
    book.save()
    (tmp_path / "folder").unlink()
    (tmp_path / "folder").mkdir()
    book.save()
    again = AddressBook(DISK, tmp_path / "folder" / "peers.json")
    assert again.newest() == ["/ip4/1.1.1.1/tcp/1/p2p/A"]
