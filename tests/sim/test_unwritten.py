"""Rule 10: what a node signs is nobody's business before it is on its disk."""

import asyncio
import itertools
from pathlib import Path

import pytest

from demo_node.ports import Blob, BlobRequest, NotHeld, Topic
from demo_node.sim.whole.faults import Faults, Heard
from demo_node.sim.whole.swarm import SimNode, SimSwarm
from demo_node.store.datadir import DataDir
from demo_node.store.signed import scan_signed_log
from demo_protocol.answers import decode_head
from demo_protocol.messages import decode_announcement, decode_header
from demo_protocol.roster import compute_rank
from demo_protocol.sets import Summary, decode_difference, encode_header_names, encode_summary
from tests.builders import MANIFEST, RUN_ID
from tests.sim.scenes import assert_agree, play
from tests.waiting import wait_until

LATE_ROUNDS = MANIFEST.agreement.late_rounds


class Ears(Faults):
    """Hears all that is said: `names` of headers and proposals, whoever signed them."""

    def __init__(self) -> None:
        super().__init__(held_back_s=self.hear)
        self.names: set[bytes] = set()

    def hear(self, heard: Heard) -> float:
        if heard.topic is Topic.HEADERS:
            self.names.add(decode_header(heard.message, RUN_ID).hash)
        elif heard.topic is Topic.PROPOSALS:
            self.names.add(decode_announcement(heard.message, RUN_ID)[0].hash)
        return 0.0


def slow_disk(node: SimNode, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """What `node` signs from now on is durable only once this is set."""
    opened, persist = asyncio.Event(), node.store.persist_signed

    async def wait_and_persist(kind: str, round_: int, hash_: bytes, raw: bytes) -> None:
        await opened.wait()
        await persist(kind, round_, hash_, raw)

    monkeypatch.setattr(node.store, "persist_signed", wait_and_persist)
    return opened


def signed_on_disk(node: SimNode) -> set[bytes]:
    log = DataDir(Path("/") / node.name.hex()[:8]).signed_log
    return {raw for _, _, raw in scan_signed_log(node.disk, log, RUN_ID, lambda damage: None)}


async def ask(asking: SimNode, holder: SimNode, kind: Blob, key: bytes) -> bytes | None:
    request = BlobRequest(kind, key, 1)
    try:
        return await asking.driver.mesh.request(
            holder.name, request, bytes_max=1_000_000, timeout_s=5.0
        )
    except NotHeld:
        return None


async def find_given(asking: SimNode, holder: SimNode, names: set[bytes]) -> set[bytes]:
    """Those that the holder gives under any kind of question, or names in an answer."""
    given = set()
    for name in names:
        for kind, key in (
            (Blob.HEADERS, encode_header_names([name])),
            (Blob.PROPOSAL, name),
            (Blob.RECORDS, name),
        ):
            if await ask(asking, holder, kind, key) is not None:
                given.add(name)
    first = holder.view.round - LATE_ROUNDS
    nothing = Summary(first, (bytes(16),) * (LATE_ROUNDS + 1), bytes(16))
    told = decode_difference(await ask(asking, holder, Blob.SETS, encode_summary(nothing)) or b"")
    assert told.headers  # what others signed is told
    head = decode_head(await ask(asking, holder, Blob.HEAD, b"") or b"")
    assert (head.head, head.round) == (told.head, told.round)
    return given | names.intersection([*told.headers, *told.records, told.head])


def test_what_is_not_written_yet_is_neither_sent_nor_given(monkeypatch: pytest.MonkeyPatch) -> None:
    ears = Ears()

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        slow, other = swarm.nodes[:2]
        await swarm.run_until_round(5)
        state, agreement = slow.view.head_state, swarm.manifest.agreement
        first = next(
            round_
            for round_ in itertools.count(8)
            if compute_rank(state, slow.name, round_, agreement) == 0
        )
        await swarm.run_until_round(first - 3)
        opened = slow_disk(slow, monkeypatch)
        await swarm.run_until_round(first + 1)
        assert slow.view.head in slow.driver.outbox.unwritten  # its own record
        unwritten = set(slow.driver.outbox.unwritten)
        assert unwritten & slow.view.pool.headers.keys()
        assert not unwritten & ears.names
        assert await find_given(other, slow, unwritten) == set()
        opened.set()
        await wait_until(lambda: unwritten <= ears.names)
        assert not slow.driver.outbox.unwritten & unwritten
        recent = unwritten & slow.view.pool.headers.keys()
        assert recent <= await find_given(other, slow, unwritten)
        await swarm.run_until_round(first + 6)
        assert_agree(swarm)

    play(scenario, SimSwarm(MANIFEST, faults=ears))


def test_who_dies_before_it_is_written_hears_no_twin_when_it_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        node = swarm.nodes[0]
        await swarm.run_until_round(5)
        slow_disk(node, monkeypatch)
        await swarm.run_until_round(9)
        assert node.driver.outbox.unwritten
        await swarm.kill(node)
        again = await swarm.add(0, disk=node.disk, syncing=True)
        assert not node.driver.outbox.unwritten & again.view.chain.records.keys()
        await swarm.run_until_round(15)
        assert_agree(swarm)
        assert again.name in {h.body.peer for h in again.view.chain[again.view.head].contributions}
        for each in swarm.nodes:
            assert "key.in_use" not in {name for name, _ in each.observer.events}
            assert not each.view.votes.equivocators

    play(scenario)


def test_what_the_network_does_not_take_is_on_the_disk_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ears = Ears()

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        node = swarm.nodes[0]
        await swarm.run_until_round(5)
        before, heard = signed_on_disk(node), set(ears.names)

        async def hang(topic: Topic, message: bytes) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(node.driver.mesh, "publish", hang)
        await swarm.run_until_round(9)
        rounds = {
            header.body.round: header
            for header in node.view.pool.headers.values()
            if header.body.peer == node.name and header.body.round >= 5
        }
        assert sorted(rounds) == [5, 6, 7, 8]
        assert {header.raw for header in rounds.values()} <= signed_on_disk(node) - before
        assert not node.driver.outbox.unwritten
        said = {header.hash for header in rounds.values()} & (ears.names - heard)
        assert said == set()

    play(scenario, SimSwarm(MANIFEST, faults=ears))
