"""Getting to where the others are: manifest, corpus, snapshot, records.

Late join and return after a pause are one walk: start from a snapshot (or state 0), pull the
records after it, apply them, compare digests. What is taken from one peer here is checked by
hash; that its history is the swarm's is believed on that peer's word (rule 22 comes later).
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from demo_node.peering import Peering
from demo_node.ports import Blob, BlobRequest, Clock
from demo_node.pull import Puller
from demo_node.round import RoundDriver
from demo_node.store.corpus import Corpus, CorpusAssembler, load_corpus, save_corpus
from demo_node.store.datadir import DataDir
from demo_node.store.disk import Disk
from demo_node.store.snapshots import Snapshot, SnapshotStore
from demo_node.store.stdlib import build_stdlib_corpus
from demo_protocol.answers import HeadAnswer, decode_chain_state, decode_head
from demo_protocol.errors import ConfigError, Reject
from demo_protocol.events import PullRecords, Tick
from demo_protocol.limits import (
    BLOB_BYTES_MAX,
    HEAD_REPLY_BYTES_MAX,
    MANIFEST_BYTES_MAX,
)
from demo_protocol.manifest import Data, Manifest, compute_run_id, decode_manifest
from demo_protocol.roster import ChainState

SNAPSHOT_TIMEOUT_S = 1800.0
"""Half a gigabyte at 2 Mbit/s."""

MANIFEST_PAUSES_S = (0.5, 1.0, 2.0)
"""Between attempts to get the manifest: a busy peer, or one just starting, may miss the first."""

LOOK_AGAIN_MS = 200
"""How often a syncing node compares itself with its peers."""

STALLED_ROUNDS = 3
"""A round without progress may be a slow payload; three are a branch that does not win."""

Say = Callable[[str], None]
"""Shows one line of progress."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where this node's chain begins. `snapshot` is None for state 0."""

    state: ChainState
    snapshot: Snapshot | None


async def fetch_manifest(puller: Puller, peering: Peering, run_id: str, say: Say) -> Manifest:
    """The manifest of the run that the named peers take part in; its hash is the run id.

    `run_id` in hex, or empty for any. Raises ConfigError: 75 when no peer gave one, 76 when they
    take part in another run.
    """
    found: Manifest | None = None
    for pause_s in (*MANIFEST_PAUSES_S, None):
        for holder in await peering.connect_named():
            raw = await puller.ask(holder, BlobRequest(Blob.MANIFEST), MANIFEST_BYTES_MAX)
            if raw is None:
                continue
            found = decode_manifest(raw)
            if not run_id or compute_run_id(found).hex() == run_id:
                return found
        if found is not None or pause_s is None:
            break
        say("no peer has answered yet; asking again")
        await asyncio.sleep(pause_s)
    if found is None:
        raise ConfigError(
            "no peer of --peers gave a manifest; check the address, and that the node there runs",
            exit_code=75,
        )
    raise ConfigError(
        f"the peer takes part in run {compute_run_id(found).hex()[:16]}, not in {run_id[:16]};"
        " ask whoever sent the line for the right one",
        exit_code=76,
    )


async def ensure_corpus(
    disk: Disk, datadir: DataDir, data: Data, puller: Puller, say: Say
) -> Corpus:
    """The very text the manifest names: from disk, from this Python, or from peers."""
    kept = await asyncio.to_thread(load_corpus, disk, datadir.corpus, data)
    if kept is not None:
        return kept
    own = await asyncio.to_thread(build_stdlib_corpus)
    if own.data == data:
        await asyncio.to_thread(save_corpus, disk, datadir.corpus, own)
        return own
    megabytes = (data.train_bytes + data.heldout_bytes) / 1e6
    say(f"this Python's library is another text; fetching the run's corpus ({megabytes:.0f} MB)")
    assembler = await asyncio.to_thread(CorpusAssembler.open, disk, datadir.corpus, data)
    await _fetch_leaves(assembler, bytes.fromhex(data.root), puller)
    await _fetch_blocks(assembler, data, puller, say)
    return await asyncio.to_thread(assembler.finish)


async def _fetch_leaves(assembler: CorpusAssembler, root: bytes, puller: Puller) -> None:
    if assembler.has_leaves():
        return
    for holder in puller.holders():
        raw = await puller.ask(
            holder, BlobRequest(Blob.CORPUS_BLOCK, root), 32 * assembler.leaf_count
        )
        if raw is None:
            continue
        try:
            await asyncio.to_thread(assembler.add_leaves, raw)
        except Reject:
            continue
        return
    raise ConfigError("no connected peer gave the corpus; start again later", exit_code=75)


async def _fetch_blocks(assembler: CorpusAssembler, data: Data, puller: Puller, say: Say) -> None:
    missing = assembler.missing()
    for number, leaf in enumerate(missing):
        for holder in puller.holders():
            request = BlobRequest(Blob.CORPUS_BLOCK, leaf)
            raw = await puller.ask(holder, request, data.block_bytes)
            if raw is None:
                continue
            try:
                await asyncio.to_thread(assembler.add_block, raw)
            except Reject:
                continue
            break
        else:
            raise ConfigError(
                "the peers went away while the corpus was fetched; start again, it resumes",
                exit_code=75,
            )
        if number % 32 == 31 or number + 1 == len(missing):
            say(f"corpus: {assembler.held_bytes / 1e6:.1f} MB here")


async def fetch_heads(puller: Puller) -> list[tuple[bytes, HeadAnswer]]:
    """Where the connected peers stand."""
    holders = puller.holders()
    answers = await asyncio.gather(
        *(puller.ask(h, BlobRequest(Blob.HEAD), HEAD_REPLY_BYTES_MAX, 5.0) for h in holders)
    )
    heads = []
    for holder, raw in zip(holders, answers, strict=True):
        try:
            if raw is not None:
                heads.append((holder, decode_head(raw)))
        except Reject:
            continue
    return heads


async def choose_start(
    own: Start, manifest: Manifest, snapshots: SnapshotStore, puller: Puller, say: Say
) -> Start:
    """Our own start where the others' payloads still reach back to it, else their snapshot."""
    heads = await fetch_heads(puller)
    agreement = manifest.agreement
    # Replaying a few records costs less than a snapshot; those of half the window are surely held.
    reach = agreement.payload_window_rounds // 2 if own.snapshot else agreement.snapshot_every
    for holder, head in sorted(heads, key=lambda h: -h[1].round):
        is_behind = head.round - own.state.round > reach
        if not is_behind or not head.snapshot_hash or head.snapshot_bytes > BLOB_BYTES_MAX:
            continue
        say(f"fetching a snapshot ({head.snapshot_bytes / 1e6:.1f} MB)")
        request = BlobRequest(Blob.SNAPSHOT, head.snapshot_hash)
        raw = await puller.ask(holder, request, head.snapshot_bytes, SNAPSHOT_TIMEOUT_S)
        if raw is None:
            continue
        try:
            snapshot = await asyncio.to_thread(snapshots.adopt, raw, head.snapshot_hash)
            state = decode_chain_state(snapshot.info.chain_state)
        except Reject:
            continue
        if state.record == snapshot.info.record and state.round > own.state.round:
            return Start(state, snapshot)
    return own


async def catch_up(driver: RoundDriver, clock: Clock, say: Say, patience_ms: int) -> None:
    """Pull and apply until our head is as high as every connected peer's, then take part.

    While nobody is connected, waits for at most `patience_ms`. A peer may stand on a branch that
    is higher and still loses: without progress for STALLED_ROUNDS the node takes part as it is.
    """
    view = driver.view
    alone_until_ms = clock.now_ms() + patience_ms
    stalled_ms = STALLED_ROUNDS * view.manifest.schedule.round_ms
    shown, stalled_at_ms = -1, clock.now_ms() + stalled_ms
    while clock.now_ms() < stalled_at_ms:
        heads = await fetch_heads(driver.puller)
        for holder, head in heads:
            if head.head not in view.chain:
                await driver.pull_records(PullRecords(head.head, (holder,)))
        targets = [view.chain[h.head].state.height for _, h in heads if h.head in view.chain]
        height = view.head_state.height
        is_level = max(targets, default=height) <= height and (targets or not heads)
        if is_level and (heads or clock.now_ms() >= alone_until_ms):
            break
        if height != shown or driver.machine.applying is not None:
            stalled_at_ms = clock.now_ms() + stalled_ms
        if height != shown:
            shown = height
            say(f"replaying: {height} of {max(targets, default=height)} records")
        await clock.sleep_until_ms(clock.now_ms() + LOOK_AGAIN_MS)
    driver.machine.syncing = False
    driver.post(Tick(clock.now_ms()))
