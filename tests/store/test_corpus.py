import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from demo_node.store.corpus import (
    Corpus,
    CorpusAssembler,
    build_corpus,
    compute_corpus_path,
    load_corpus,
    save_corpus,
)
from demo_node.store.disk import FileDisk
from demo_protocol.errors import ConfigError, LocalFault, Reject
from demo_protocol.merkle import compute_leaf, compute_root
from tests.store.builders import corpus

DISK = FileDisk()


def fetch(assembler: CorpusAssembler, source: Corpus, leaves: list[bytes]) -> None:
    for leaf in leaves:
        block = source.get(leaf)
        assert block is not None
        assembler.add_block(block)


def leaf_list(source: Corpus) -> bytes:
    raw = source.get(source.root)
    assert raw is not None
    return raw


def test_train_and_heldout_are_the_whole_text() -> None:
    made = corpus()
    assert bytes(made.train) + bytes(made.heldout) == made.text
    assert len(made.heldout) == 500
    assert b"".join(made.block(i) for i in range(len(made.leaves))) == made.text


def test_peers_get_leaves_by_the_root_and_blocks_by_their_leaf() -> None:
    made = corpus()
    assert leaf_list(made) == b"".join(made.leaves)
    assert compute_root(made.leaves) == made.root
    for index, leaf in enumerate(made.leaves):
        assert made.get(leaf) == made.block(index)
    assert made.get(bytes(32)) is None


def test_one_changed_byte_is_another_corpus() -> None:
    assert corpus(seed=0).root != corpus(seed=1).root


def test_a_saved_corpus_is_loaded_only_intact(tmp_path: Path) -> None:
    made = corpus()
    path = save_corpus(DISK, tmp_path, made)
    assert path == compute_corpus_path(tmp_path, made.data)
    assert path.read_bytes() == made.text
    assert load_corpus(DISK, tmp_path, made.data) == made
    changed = bytearray(made.text)
    changed[4321] ^= 1
    for raw in (bytes(changed), made.text[:-1], b""):
        path.write_bytes(raw)
        assert load_corpus(DISK, tmp_path, made.data) is None
    path.unlink()
    assert load_corpus(DISK, tmp_path, made.data) is None


def test_blocks_in_any_order_give_the_file(tmp_path: Path) -> None:
    source = corpus()
    assembler = CorpusAssembler(DISK, tmp_path, source.data)
    assert not assembler.leaves
    assembler.add_leaves(leaf_list(source))
    missing = assembler.missing()
    assert missing == list(source.leaves)
    random.Random(1).shuffle(missing)
    fetch(assembler, source, missing)
    assert assembler.held_bytes == len(source.text)
    assert assembler.finish() == source
    assert load_corpus(DISK, tmp_path, source.data) == source
    assert os.listdir(tmp_path) == [f"{source.data.root}.bin"]


def test_assembly_goes_on_after_a_crash_with_a_torn_block(tmp_path: Path) -> None:
    source = corpus()
    assembler = CorpusAssembler(DISK, tmp_path, source.data)
    assembler.add_leaves(leaf_list(source))
    fetch(assembler, source, assembler.missing()[:4])
    assembler.close()
    part = tmp_path / f"{source.data.root}.part"
    os.truncate(part, part.stat().st_size - 10)

    again = CorpusAssembler(DISK, tmp_path, source.data)
    assert again.leaves
    assert again.missing() == list(source.leaves[3:])
    assert again.held_bytes == 3 * source.data.block_bytes
    again.add_leaves(leaf_list(source))  # a second list is welcome and changes nothing
    fetch(again, source, again.missing())
    assert again.finish() == source


def test_repeated_blocks_are_fetched_once(tmp_path: Path) -> None:
    source = build_corpus("stdlib-bytes", bytes(4096), b"end", 1024)
    assembler = CorpusAssembler(DISK, tmp_path, source.data)
    assembler.add_leaves(leaf_list(source))
    assert len(assembler.missing()) == 2
    fetch(assembler, source, assembler.missing())
    assert assembler.finish() == source


def test_lists_and_blocks_of_another_text_are_rejected(tmp_path: Path) -> None:
    source, other = corpus(), corpus(seed=1)
    assembler = CorpusAssembler(DISK, tmp_path, source.data)
    with pytest.raises(Reject):
        assembler.add_block(source.block(0))  # nothing is known to belong yet
    for raw in (leaf_list(other), leaf_list(source)[:-1], leaf_list(source)[:-32], b""):
        with pytest.raises(Reject, match="list of blocks"):
            assembler.add_leaves(raw)
    assembler.add_leaves(leaf_list(source))
    for block in (other.block(0), source.block(0)[:-1], b"", bytes(5000)):
        with pytest.raises(Reject, match="block"):
            assembler.add_block(block)
    assert assembler.held_bytes == 0
    with pytest.raises(LocalFault, match="not complete"):
        assembler.finish()
    assembler.close()


def test_a_manifest_whose_lengths_are_wrong_is_found_out(tmp_path: Path) -> None:
    source = corpus()
    far, near = (replace(source.data, train_bytes=source.data.train_bytes + n) for n in (4096, 1))
    assembler = CorpusAssembler(DISK, tmp_path, far)
    with pytest.raises(Reject, match="list of blocks"):
        assembler.add_leaves(leaf_list(source))
    assembler.close()
    assembler = CorpusAssembler(DISK, tmp_path, near)
    assembler.add_leaves(leaf_list(source))
    fetch(assembler, source, assembler.missing())
    with pytest.raises(ConfigError, match="wrong length"):
        assembler.finish()
    assembler.close()


def test_a_block_changed_on_disk_is_fetched_again(tmp_path: Path) -> None:
    source = corpus()
    assembler = CorpusAssembler(DISK, tmp_path, source.data)
    assembler.add_leaves(leaf_list(source))
    fetch(assembler, source, assembler.missing())
    assembler.close()
    part = tmp_path / f"{source.data.root}.part"
    raw = bytearray(part.read_bytes())
    raw[-1500] ^= 1  # in the last block but one
    part.write_bytes(raw)
    again = CorpusAssembler(DISK, tmp_path, source.data)
    assert again.missing() == [compute_leaf(source.block(7))]
    fetch(again, source, again.missing())
    assert again.finish() == source
    assert os.listdir(tmp_path) == [f"{source.data.root}.bin"]


def test_a_list_of_blocks_changed_on_disk_is_fetched_again(tmp_path: Path) -> None:
    source = corpus()
    assembler = CorpusAssembler(DISK, tmp_path, source.data)
    assembler.add_leaves(leaf_list(source))
    fetch(assembler, source, assembler.missing()[:6])
    assembler.close()
    part = tmp_path / f"{source.data.root}.part"
    raw = bytearray(part.read_bytes())
    raw[100] ^= 1  # in the first entry
    part.write_bytes(raw)
    again = CorpusAssembler(DISK, tmp_path, source.data)
    assert not again.leaves
    again.add_leaves(leaf_list(source))
    assert again.missing() == [compute_leaf(source.block(index)) for index in (6, 7, 8)]
    fetch(again, source, again.missing())
    assert again.finish() == source
