"""Where a run's text comes from when this machine has another one, or none."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from demo_node.materials import ensure_corpus
from demo_node.mesh.memory import MemoryNetwork
from demo_node.ports import BlobRequest
from demo_node.pull import Puller
from demo_node.sim.whole.virtual_loop import run_virtual
from demo_node.store.corpus import Corpus, compute_corpus_path
from demo_node.store.datadir import DataDir
from demo_node.store.disk import FileDisk
from demo_protocol.errors import ConfigError
from tests.store.builders import corpus

RUN = corpus(blocks=5)
"""A text that no Python's library is."""


class Half:
    """A peer that lost every other block."""

    def __init__(self, text: Corpus, remainder: int) -> None:
        self.text = text
        self.given = 0
        self._lost = {leaf for i, leaf in enumerate(text.leaves) if i % 2 == remainder}

    def get(self, key: bytes) -> bytes | None:
        """See `Corpus.get`."""
        if key in self._lost:
            return None
        self.given += 1
        return self.text.get(key)


def ensure(folder: Path, given: Sequence[Corpus | Half | None], up_after_s: float = 0) -> Corpus:
    """What comes of asking peers that hold these; they are reached only after a while."""
    datadir = DataDir(folder)
    datadir.corpus.mkdir(exist_ok=True)

    async def run() -> Corpus:
        network = MemoryNetwork()
        mine = network.add(bytes(32))

        async def come_up() -> None:
            await asyncio.sleep(up_after_s)
            for index, held in enumerate(given):

                async def answer(
                    _: bytes, request: BlobRequest, held: Corpus | Half | None = held
                ) -> bytes | None:
                    return held.get(request.key) if held else None

                await network.add(bytes([index + 1]) * 32).join(b"", lambda *_: True, answer)
            network.connect_all()

        coming = asyncio.create_task(come_up())
        found = await ensure_corpus(FileDisk(), datadir, RUN.data, Puller(mine), lambda line: None)
        await coming
        return found

    return run_virtual(run())


def test_a_text_that_is_missing_is_fetched_from_whoever_has_it(tmp_path: Path) -> None:
    assert ensure(tmp_path, [None, RUN]) == RUN
    assert compute_corpus_path(DataDir(tmp_path).corpus, RUN.data).read_bytes() == RUN.text
    assert ensure(tmp_path, []) == RUN  # it stays


def test_peers_that_have_it_give_it_together(tmp_path: Path) -> None:
    halves = [Half(RUN, 0), Half(RUN, 1)]
    assert ensure(tmp_path, halves) == RUN
    assert all(half.given for half in halves)


def test_a_first_peer_that_has_no_text_itself_is_no_reason_to_give_up(tmp_path: Path) -> None:
    assert ensure(tmp_path, [None, RUN], up_after_s=10) == RUN


def test_a_text_that_nobody_gives_is_one_line_and_a_later_start_resumes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gave the corpus; start again later") as caught:
        ensure(tmp_path, [None])
    assert caught.value.exit_code == 75


def test_a_text_whose_file_was_removed_or_changed_is_fetched_again(tmp_path: Path) -> None:
    ensure(tmp_path, [RUN])
    path = compute_corpus_path(DataDir(tmp_path).corpus, RUN.data)
    for damage in (path.unlink, lambda: path.write_bytes(RUN.text[:-1] + b"!")):
        damage()
        assert ensure(tmp_path, [RUN]) == RUN
        assert path.read_bytes() == RUN.text
