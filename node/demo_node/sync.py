"""Getting to where the others are: manifest, corpus, records.

Late join and return after a pause are one walk: start from a snapshot (`starting.py`), pull the
records after it, apply them, compare digests. Whom to believe is decided there (rule 22); what is
taken from one peer here is checked by hash.
"""

import asyncio
from collections.abc import Container

from demo_node.believing import Say
from demo_node.peering import Peering
from demo_node.ports import Blob, BlobRequest, Clock
from demo_node.pull import Puller
from demo_node.round import RoundDriver
from demo_node.walking import HeadAsker, Heads
from demo_protocol.astray import find_wanted
from demo_protocol.effects import PullRecords
from demo_protocol.errors import ConfigError
from demo_protocol.limits import MANIFEST_BYTES_MAX
from demo_protocol.manifest import Manifest, compute_run_id, decode_manifest
from demo_protocol.schedule import contribute_end_ms, round_at, train_end_ms
from demo_protocol.view import View

MANIFEST_PAUSES_S = (0.5, 1.0, 2.0)
"""Between attempts to get the manifest: a busy peer, or one just starting, may miss the first."""

FINDING_PAUSES_S = (2.0,) * 14
"""And after those where others may still be found: two questions to the DHT."""

LOOK_AGAIN_MS = 200
"""How often a syncing node compares itself with its peers."""

PULL_S = 2.0
"""Answers are waited for so long before it is looked again who stands where."""

STALLED_ROUNDS = 3
"""A round without progress may be a slow payload; three are a branch that does not win."""


async def fetch_manifest(
    puller: Puller, peering: Peering, run_id: str, say: Say, *, may_find: bool = False
) -> Manifest:
    """The manifest of the run that the named peers take part in; its hash is the run id.

    `run_id` in hex, or empty for any. `may_find`: peers that nobody named are being looked for, so
    that those who take part in another run are not the end. Raises ConfigError: 75 when no peer
    gave one, 76 when they take part in another run.
    """
    found: Manifest | None = None
    for pause_s in (*MANIFEST_PAUSES_S, *(FINDING_PAUSES_S if may_find else ()), None):
        holders = await peering.connect_named()
        if may_find:
            holders += [p for p in await peering.connect_heard() if p not in holders]
        for holder in holders:
            raw = await puller.ask(holder, BlobRequest(Blob.MANIFEST), MANIFEST_BYTES_MAX)
            if raw is None:
                continue
            found = decode_manifest(raw)
            if not run_id or compute_run_id(found).hex() == run_id:
                return found
        if (found is not None and not may_find) or pause_s is None:
            break
        why = peering.explain()
        if found is None:
            say(f"no peer has answered yet{why and f' ({why})'}; asking again")
        else:
            say("the peers that answered take part in another run; looking for this one")
        await asyncio.sleep(pause_s)
    if found is None:
        why = peering.explain() or "it takes part in no run yet"
        raise ConfigError(
            f"no peer of --peers gave a manifest ({why});"
            " check the address, and that the node there runs",
            exit_code=75,
        )
    theirs, ours = tell_apart(compute_run_id(found).hex(), run_id)
    raise ConfigError(
        f"the peer takes part in run {theirs}, not in {ours};"
        " ask whoever sent the line for the right one",
        exit_code=76,
    )


def tell_apart(a: str, b: str) -> tuple[str, str]:
    """Two different run ids, cut to 16 digits such that one sees the difference."""
    at = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
    if at < 16:
        return a[:16], b[:16]
    start = min(at, len(a) - 8)
    return f"{a[:8]}…{a[start : start + 8]}", f"{b[:8]}…{b[start : start + 8]}"


async def catch_up(
    driver: RoundDriver,
    clock: Clock,
    say: Say,
    patience_ms: int,
    set_aside: Container[bytes] = (),
) -> None:
    """Pull and apply until we are where the fork choice leads, then take part.

    While nobody is connected, waits for at most `patience_ms`. What is wanted may be nowhere to be
    had: without progress for STALLED_ROUNDS the node takes part as it is. Peers that were
    `set_aside` are not asked (rule 22).
    """
    heard_ms = clock.now_ms()
    await _come_level(driver, clock, say, patience_ms, set_aside)
    if driver.puller.holders():
        await _listen(driver, clock, say, heard_ms)
    driver.first_round = driver.view.round
    driver.take_part()


async def _come_level(
    driver: RoundDriver, clock: Clock, say: Say, patience_ms: int, set_aside: Container[bytes]
) -> None:
    view = driver.view
    alone_until_ms = clock.now_ms() + patience_ms
    stalled_ms = STALLED_ROUNDS * view.manifest.schedule.round_ms
    shown, stalled_at_ms = -1, clock.now_ms() + stalled_ms
    asker, pulls = HeadAsker(driver.puller), _Pulls(driver)
    while clock.now_ms() < stalled_at_ms:
        heads = [(h, head) for h, head in await asker.ask() if h not in set_aside]
        await pulls.start(heads)
        theirs = any(head.head in view.chain for _, head in heads)
        height, target = view.head_state.height, _find_wanted_height(view)
        is_level = target <= height and (theirs or not heads)
        if is_level and (heads or clock.now_ms() >= alone_until_ms):
            break
        if height != shown or driver.machine.replica.applying is not None:
            stalled_at_ms = clock.now_ms() + stalled_ms
        if height != shown:
            shown = height
            say(f"replaying: {height} of {target} records")
        await clock.sleep_until_ms(clock.now_ms() + LOOK_AGAIN_MS)


class _Pulls:
    """Pulls what peers stand on, from each by itself: one that hangs holds nobody up."""

    def __init__(self, driver: RoundDriver) -> None:
        self._driver = driver
        self._under_way: dict[bytes, asyncio.Task[None]] = {}

    async def start(self, heads: Heads) -> None:
        """Ask for the heads that are not here, and wait a moment."""
        for holder, head in heads:
            task = self._under_way.get(holder)
            if head.head not in self._driver.view.chain and (task is None or task.done()):
                pull = self._driver.fetcher.pull_records(PullRecords(head.head, (holder,)))
                self._under_way[holder] = self._driver.group.create_task(pull)
        if pending := [task for task in self._under_way.values() if not task.done()]:
            await asyncio.wait(pending, timeout=PULL_S)


def _find_wanted_height(view: View) -> int:
    """Of what our own log, too, leads to. A record of the running round has yet to settle."""
    return view.chain.ancestor_before(find_wanted(view), view.round).state.height


async def _listen(driver: RoundDriver, clock: Clock, say: Say, since_ms: int) -> None:
    """Hear one contribute phase before signing: somebody may be signing with this very key.

    `since_ms`: from then on this node has heard what others announce.
    """
    schedule = driver.view.manifest.schedule
    now_ms = clock.now_ms()
    if now_ms < schedule.genesis_ms:
        return  # nobody signs yet
    round_ = round_at(schedule, max(since_ms, schedule.genesis_ms))
    if since_ms > train_end_ms(schedule, round_):
        round_ += 1
    if now_ms < contribute_end_ms(schedule, round_):
        say("listening for a round")
    await clock.sleep_until_ms(contribute_end_ms(schedule, round_))
