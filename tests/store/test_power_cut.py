"""The power goes at every operation on the disk; what comes back is old or new, never wrong.

Each test runs a script of writes again and again, cut one operation later each time, and opens
what `MemoryDisk.after_power_cut` leaves for several seeds.
"""

import asyncio
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from random import Random

import pytest

from demo_node.store.atomic import sweep_temporaries, write_atomic
from demo_node.store.chainlog import ChainLog
from demo_node.store.corpus import CorpusAssembler, load_corpus
from demo_node.store.memory import MemoryDisk, PowerCut
from demo_node.store.momentum import MomentumFile
from demo_node.store.payloads import PayloadStore
from demo_node.store.signed import SignedLog
from demo_node.store.snapshots import SnapshotStore
from demo_node.store.tensorfile import encode_header
from tests.store.builders import RUN, chain_entry, corpus, pieces, snapshot_info, tensors

FOLDER = Path("/d")
SEEDS = range(12)

Done = list[int]
"""What the script was told is safe before the power went."""


def cuts(
    script: Callable[[MemoryDisk, Done], object],
    prepared: MemoryDisk | None = None,
) -> Iterator[tuple[MemoryDisk, Done]]:
    for operations in range(10_000):
        disk = deepcopy(prepared or MemoryDisk())
        disk.make_folder(FOLDER)
        disk.operations_left = operations
        done: Done = []
        try:
            script(disk, done)
        except PowerCut:
            finished = False
        else:
            finished = True
        for seed in SEEDS:
            found = disk.after_power_cut(Random(seed))
            sweep_temporaries(found, FOLDER)
            yield found, done
        if finished:
            return
    pytest.fail("the script never ends")


def test_a_whole_file_is_old_or_new() -> None:
    def script(disk: MemoryDisk, done: Done) -> None:
        for number in range(3):
            write_atomic(disk, FOLDER / "file", iter([b"content ", b"%d" % number]))
            done.append(number)

    seen = 0
    for disk, done in cuts(script):
        seen += 1
        content = disk.read(FOLDER / "file") if disk.names(FOLDER) else None
        newest = done[-1] if done else -1
        allowed = [b"content %d" % n for n in (newest, newest + 1) if n >= 0]
        assert content in (allowed if done else [None, *allowed])
    assert seen > 100


def test_what_was_signed_is_never_forgotten_nor_changed() -> None:
    first = 310  # the log is rewritten for the first time in round 319

    prepared = MemoryDisk()
    prepared.make_folder(FOLDER)
    log = SignedLog(prepared, FOLDER / "signed.log", RUN, -1)
    for round_ in range(first):
        log.put("header", round_, b"header %d" % round_)

    def script(disk: MemoryDisk, done: Done) -> None:
        for start in (first, first + 20):
            log = SignedLog(disk, FOLDER / "signed.log", RUN, -1)
            for round_ in range(start, start + 20):
                log.put("header", round_, b"header %d" % round_)
                done.append(round_)

    floors = set()
    for disk, done in cuts(script, prepared):
        log = SignedLog(disk, FOLDER / "signed.log", RUN, -1)
        floors.add(log.floor)
        for round_ in [*range(first), *done]:
            held = log.get("header", round_)
            assert held == b"header %d" % round_ or (held is None and round_ <= log.floor)
    assert floors == {-1, 255}


def test_what_a_killed_process_left_unsynced_is_synced_before_it_is_said_again() -> None:
    for seed in SEEDS:
        disk = MemoryDisk()
        disk.make_folder(FOLDER)
        log = SignedLog(disk, FOLDER / "signed.log", RUN, 0)
        disk.operations_left = 1  # the write is done, its sync is not
        with pytest.raises(PowerCut):
            log.put("header", 1, b"header")
        disk.operations_left = None  # only the process died: the system still has the write
        again = SignedLog(disk, FOLDER / "signed.log", RUN, 0)
        assert again.get("header", 1) == b"header"
        again.put("header", 1, b"header")
        found = disk.after_power_cut(Random(seed))
        assert SignedLog(found, FOLDER / "signed.log", RUN, 0).get("header", 1) == b"header"


def test_synced_records_are_all_there_and_no_record_is_wrong() -> None:
    def script(disk: MemoryDisk, done: Done) -> None:
        log = ChainLog(disk, FOLDER / "chain.log", RUN)
        for number in range(12):
            log.append(chain_entry(number))
            if number % 3 == 0:
                log.sync()
                done.append(number)

    for disk, done in cuts(script):
        log = ChainLog(disk, FOLDER / "chain.log", RUN)
        found = list(log.entries())
        assert found == [chain_entry(number) for number in range(len(found))]
        assert len(found) > (done[-1] if done else -1)
        log.append(chain_entry(len(found)))
        assert len(list(ChainLog(disk, FOLDER / "chain.log", RUN).entries())) == len(found) + 1


def flip(disk: MemoryDisk, path: Path, position: int) -> None:
    content = bytearray(disk.read(path))
    content[position] ^= 1
    file = disk.create(path)
    file.write(bytes(content))
    file.sync()
    disk.sync_folder(path.parent)


def test_a_repair_that_is_cut_short_loses_nothing_more() -> None:
    prepared = MemoryDisk()
    prepared.make_folder(FOLDER)
    log = ChainLog(prepared, FOLDER / "chain.log", RUN)
    for number in range(6):
        log.append(chain_entry(number))
    flip(prepared, FOLDER / "chain.log", 150)  # in the first entry
    damaged = prepared.read(FOLDER / "chain.log", 72, 92)
    seen = 0
    for disk, _ in cuts(lambda disk, _: ChainLog(disk, FOLDER / "chain.log", RUN), prepared):
        seen += 1
        again = ChainLog(disk, FOLDER / "chain.log", RUN)
        assert list(again.entries()) == [chain_entry(number) for number in range(1, 6)]
        assert disk.read(again.aside) == damaged
    assert seen > 100


def test_after_a_repair_that_is_cut_short_no_forgotten_round_is_signed() -> None:
    prepared = MemoryDisk()
    prepared.make_folder(FOLDER)
    log = SignedLog(prepared, FOLDER / "signed.log", RUN, 0)
    for round_ in range(5):
        log.put("header", round_, b"header %d" % round_)
    content = prepared.read(FOLDER / "signed.log")
    flip(prepared, FOLDER / "signed.log", len(content) - 1)  # in the last entry
    floors = set()
    for disk, _ in cuts(lambda disk, _: SignedLog(disk, FOLDER / "signed.log", RUN, 5), prepared):
        again = SignedLog(disk, FOLDER / "signed.log", RUN, 6)
        floors.add(again.floor)
        assert again.get("header", 3) == b"header 3"
    assert floors == {5, 6}  # what the cut repair wrote down, or a repair of its own


def test_there_is_always_the_newest_complete_snapshot() -> None:
    def script(disk: MemoryDisk, done: Done) -> None:
        store = SnapshotStore(disk, FOLDER, RUN)
        for round_ in range(4):
            raw = tensors(fill=round_, numel=4)
            asyncio.run(store.save(snapshot_info(round_), pieces(raw, 80)))
            done.append(round_)

    for disk, done in cuts(script):
        store = SnapshotStore(disk, FOLDER, RUN)
        found, _ = store.newest()
        if done:
            assert found is not None
            assert found.info.round >= done[-1]
        if found is not None:
            assert found.info == snapshot_info(found.info.round)
            raw = store.read(found)
            assert raw is not None
            assert raw.endswith(bytes([found.info.round]) * 16)


def test_there_is_always_the_newest_whole_momentum_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo_node.store.momentum.BATCH_BYTES", 200)
    path = FOLDER / "momentum.safetensors"

    def content(round_: int) -> bytes:
        return encode_header({"residual": (100,)}, {"demo.round": str(round_)}) + bytes(400)

    def script(disk: MemoryDisk, done: Done) -> None:
        file = MomentumFile(disk, path)
        for round_ in range(3):
            asyncio.run(file.save(pieces(content(round_), 80)))
            done.append(round_)

    seen = set()
    for disk, done in cuts(script):
        round_ = MomentumFile(disk, path).read_round()
        newest = done[-1] if done else -1
        assert round_ in ((newest, newest + 1) if done else (None, 0))
        if round_ is not None:
            assert disk.read(path) == content(round_)
        seen.add((newest, round_))
    assert (0, 1) in seen  # a name that was not synced, and yet reached the device


def test_chunks_of_a_state_are_right_or_missing_and_synced_ones_stay() -> None:
    shapes = {"embed.weight": (12,)}
    source = MemoryDisk()
    source.make_folder(FOLDER)
    giver = SnapshotStore(source, FOLDER, RUN)
    whole = encode_header(shapes, {}) + bytes(range(48))
    given = asyncio.run(giver.save(snapshot_info(4), pieces(whole)))

    def script(disk: MemoryDisk, done: Done) -> None:
        store = SnapshotStore(disk, FOLDER, RUN)
        part = store.open_part(given.root, shapes)
        part.add_leaves(b"".join(given.leaves))
        for number, leaf in enumerate(given.leaves):
            part.add_block(giver.read_chunk(leaf) or b"")
            part.sync()
            done.append(number)
        store.adopt(snapshot_info(4), part)
        done.append(2)

    seen = set()
    for disk, done in cuts(script):
        store = SnapshotStore(disk, FOLDER, RUN)
        kept, _ = store.newest()
        if kept is not None:
            assert kept.sha256 == given.sha256
            continue
        assert 2 not in done
        part = store.open_part(given.root, shapes)
        here = set(given.leaves) - set(part.missing()) if part.leaves else set()
        assert here >= {given.leaves[number] for number in done}
        for leaf in here:
            assert part.read(leaf) == giver.read_chunk(leaf)
        seen.add(len(here))
        part.close()
    assert seen == {0, 1, 2}


def test_a_payload_is_right_or_missing() -> None:
    keys: dict[int, bytes] = {}

    def script(disk: MemoryDisk, done: Done) -> None:
        disk.make_folder(FOLDER / "payloads")
        store = PayloadStore(disk, FOLDER / "payloads")
        for round_ in range(6):
            keys[round_] = store.put(round_, b"payload %d" % round_)
            store.drop_before(round_ - 2)

    for disk, _ in cuts(script):
        store = PayloadStore(disk, FOLDER / "payloads")
        for round_, key in keys.items():
            assert store.get(key) in (None, b"payload %d" % round_)
            store.put(round_, b"payload %d" % round_)
            assert store.get(key) == b"payload %d" % round_


def test_a_corpus_is_complete_or_can_be_completed() -> None:
    source = corpus(blocks=3)

    def assemble(disk: MemoryDisk) -> None:
        assembler = CorpusAssembler(disk, FOLDER, source.data)
        assembler.add_leaves(source.get(source.root) or b"")
        for leaf in assembler.missing():
            assembler.add_block(source.get(leaf) or b"")
        assembler.finish()

    for disk, _ in cuts(lambda disk, _: assemble(disk)):
        if load_corpus(disk, FOLDER, source.data) is None:
            assemble(disk)
        assert load_corpus(disk, FOLDER, source.data) == source
