"""What a run is made of and a joiner may lack: its text, and the parameters it began with.

Both are named by hashes in the manifest, so anybody may give them.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, TypeVar

from demo_node.believing import Say
from demo_node.chunks import ChunkFetcher
from demo_node.ports import Blob, BlobRequest
from demo_node.pull import TIMEOUT_S, Puller
from demo_node.store.corpus import Corpus, CorpusAssembler, load_corpus, save_corpus
from demo_node.store.datadir import DataDir
from demo_node.store.disk import Disk
from demo_node.store.initial import InitialState, adopt_initial, compute_bytes_max, load_initial
from demo_node.store.stdlib import build_stdlib_corpus
from demo_protocol.errors import ConfigError, Reject
from demo_protocol.manifest import Data, Manifest
from demo_protocol.schema import compute_schema

INITIAL_TIMEOUT_S: Final = 1800.0
"""Half a gigabyte at 2 Mbit/s."""

LOOKS: Final = 30
LOOK_S: Final = 1.0
"""So often, and with such pauses, everybody is asked: the first peer may itself be syncing, and
those that it knows are being dialled."""

SHOW_S: Final = 2.0
"""Between two lines of progress."""

Taken = TypeVar("Taken")


async def ensure_corpus(
    disk: Disk, datadir: DataDir, data: Data, puller: Puller, say: Say
) -> Corpus:
    """The very text the manifest names: from disk, from this Python, or from peers.

    Raises ConfigError with exit code 75 where nobody gave it; what came is kept.
    """
    kept = await asyncio.to_thread(load_corpus, disk, datadir.corpus, data)
    if kept is not None:
        return kept
    own = await asyncio.to_thread(build_stdlib_corpus)
    if own.data == data:
        await asyncio.to_thread(save_corpus, disk, datadir.corpus, own)
        return own
    megabytes = (data.train_bytes + data.heldout_bytes) / 1e6
    say(f"this Python's library is another text; fetching the run's corpus ({megabytes:.0f} MB)")
    assembler = await asyncio.to_thread(CorpusAssembler, disk, datadir.corpus, data)
    with contextlib.closing(assembler):
        await _collect(assembler, puller, say)
        return await asyncio.to_thread(assembler.finish)


async def _collect(assembler: CorpusAssembler, puller: Puller, say: Say) -> None:
    """All blocks, from everybody who has some."""

    async def show() -> None:
        while True:
            await asyncio.sleep(SHOW_S)
            say(f"corpus: {assembler.held_bytes / 1e6:.1f} MB here")

    showing = asyncio.create_task(show())
    try:
        for look in range(LOOKS):
            if look:
                await asyncio.sleep(LOOK_S)
            fetcher = ChunkFetcher(
                puller,
                assembler,
                puller.holders,
                leaves=Blob.CORPUS_BLOCK,
                block=Blob.CORPUS_BLOCK,
                on_lie=lambda reason: say(f"not taken of the corpus: {reason}"),
            )
            if await fetcher.run():
                return
    finally:
        showing.cancel()
    raise _nobody_gave("all of the corpus" if assembler.leaves else "the corpus")


async def ensure_initial(
    disk: Disk, datadir: DataDir, manifest: Manifest, puller: Puller, say: Say
) -> InitialState | None:
    """The file of state 0 that the manifest names, from disk or from peers; None: it names none.

    Raises ConfigError with exit code 75 where nobody gave it.
    """
    if not manifest.initial:
        return None
    path, sha256 = datadir.initial, bytes.fromhex(manifest.initial)
    kept = await asyncio.to_thread(load_initial, disk, path, sha256)
    if kept is not None:
        return kept
    say("fetching the parameters that the run began with")
    return await _fetch(
        puller,
        BlobRequest(Blob.INITIAL, sha256),
        compute_bytes_max(compute_schema(manifest.model).parameters),
        lambda raw: adopt_initial(disk, path, raw, sha256),
        f"the parameters that the run began with (file with SHA-256 {manifest.initial})",
        INITIAL_TIMEOUT_S,
    )


async def _fetch(
    puller: Puller,
    request: BlobRequest,
    bytes_max: int,
    take: Callable[[bytes], Taken],
    what: str,
    timeout_s: float = TIMEOUT_S,
) -> Taken:
    """What `take` makes of the first answer that it does not Reject. It runs in a thread."""
    for look in range(LOOKS):
        if look:
            await asyncio.sleep(LOOK_S)
        for holder in puller.holders():
            raw = await puller.ask(holder, request, bytes_max, timeout_s)
            if raw is None:
                continue
            try:
                return await asyncio.to_thread(take, raw)
            except Reject:
                continue
    raise _nobody_gave(what)


def _nobody_gave(what: str) -> ConfigError:
    return ConfigError(
        f"no connected peer gave {what}; start again later, what is here already is kept",
        exit_code=75,
    )
