"""Pulling from whoever holds it: what is under way is counted, and who is asked is bounded."""

import asyncio
import functools
import hashlib
from dataclasses import replace

import pytest

from demo_node.mesh.memory import MemoryNetwork
from demo_node.ports import BlobRequest, Offence, OnBlob, PeerView
from demo_node.pull import ASKED_AT_ONCE, BEHIND_MAX, BEHIND_PATIENCE, PULLS_MAX, Puller
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.virtual_loop import run_virtual
from demo_protocol.effects import PullHeaders, PullPayload, PullRecords
from demo_protocol.limits import HEADERS_PER_REQUEST_MAX
from demo_protocol.sets import decode_header_names, encode_headers

CONTENT = b"payload"


def test_payloads_that_are_pulled_or_wait_for_their_turn_are_counted() -> None:
    async def scenario() -> None:
        network = MemoryNetwork()
        mesh, holder = network.add(peer_name(0)), network.add(peer_name(1))
        network.connect_all()
        answers = asyncio.Event()

        async def answer(asking: bytes, request: BlobRequest) -> bytes | None:
            await answers.wait()
            return CONTENT

        await holder.join(bytes(32), lambda topic, sender, message: True, answer)
        puller = Puller(mesh)
        effect = PullPayload(
            hashlib.sha256(CONTENT).digest(), len(CONTENT), k=1, round=0, holders=(holder.peer,)
        )

        def pulling() -> list[tuple[str, float, tuple[str, ...]]]:
            return [(f.name, f.value, f.labels) for f in puller.figures()][:1]

        assert pulling() == [("demo_queue_depth", 0, ("pulls",))]
        pulls = [
            asyncio.create_task(puller.pull_payload(effect, lambda: True, 10.0))
            for _ in range(PULLS_MAX + 3)
        ]
        await asyncio.sleep(1)
        assert pulling() == [("demo_queue_depth", PULLS_MAX + 3, ("pulls",))]
        assert holder.serving() == PULLS_MAX
        pulls.pop().cancel()
        answers.set()
        assert await asyncio.gather(*pulls) == [CONTENT] * (PULLS_MAX + 2)
        assert pulling() == [("demo_queue_depth", 0, ("pulls",))]
        assert holder.serving() == 0

    run_virtual(scenario())


def test_who_takes_part_in_another_run_is_asked_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        network = MemoryNetwork()
        mesh, ours, other = (network.add(peer_name(n)) for n in range(3))
        network.connect_all()
        views = [replace(view, elsewhere=view.peer == other.peer) for view in mesh.peers()]
        monkeypatch.setattr(mesh, "peers", lambda: views)
        puller = Puller(mesh)
        assert puller.holders() == [ours.peer]
        assert puller.holders((other.peer,)) == [ours.peer]

    run_virtual(scenario())


def test_who_gives_other_bytes_is_banned_after_some_and_others_are_asked() -> None:
    async def scenario() -> None:
        network = MemoryNetwork()
        mesh, liar, holder = (network.add(peer_name(n)) for n in range(3))
        network.connect_all()

        async def lie(asking: bytes, request: BlobRequest) -> bytes | None:
            return b"PAYLOAD"

        async def answer(asking: bytes, request: BlobRequest) -> bytes | None:
            return CONTENT

        await liar.join(bytes(32), lambda topic, sender, message: True, lie)
        await holder.join(bytes(32), lambda topic, sender, message: True, answer)
        name = hashlib.sha256(CONTENT).digest()
        effect = PullPayload(name, len(CONTENT), k=1, round=0, holders=(liar.peer, holder.peer))
        puller = Puller(mesh)
        for times in range(1, 6):
            assert await puller.pull_payload(effect, lambda: True, 10.0) == CONTENT
            assert mesh.counters().offences == {Offence.ANSWER: min(times, 4)}
        assert [(b.peer, b.offence) for b in mesh.bans()] == [(liar.peer, Offence.ANSWER)]
        assert list(mesh.links) == [holder.peer]
        assert await puller.pull_payload(effect, lambda: True, 10.0) == CONTENT

    run_virtual(scenario())


def test_payloads_of_rounds_that_are_over_do_not_hold_up_those_of_the_round_that_is_on() -> None:
    """After a cut: many old ones, from holders that do not answer."""

    async def scenario() -> None:
        network = MemoryNetwork()
        mesh, holder = network.add(peer_name(0)), network.add(peer_name(1))
        network.connect_all()
        old = [b"old %d" % number for number in range(3 * PULLS_MAX)]
        named = {hashlib.sha256(raw).digest(): raw for raw in (*old, CONTENT)}
        asked: list[bytes] = []

        async def answer(asking: bytes, request: BlobRequest) -> bytes | None:
            asked.append(named[request.key])
            if request.key != hashlib.sha256(CONTENT).digest():
                await asyncio.sleep(3600)
            return named[request.key]

        await holder.join(bytes(32), lambda topic, sender, message: True, answer)
        puller = Puller(mesh)
        loop = asyncio.get_running_loop()

        def pull(raw: bytes, *, is_behind: bool) -> asyncio.Task[bytes | None]:
            name = hashlib.sha256(raw).digest()
            effect = PullPayload(name, len(raw), k=1, round=0, holders=(holder.peer,))
            work = puller.pull_payload(effect, lambda: True, 1.0, lambda: is_behind)
            return asyncio.create_task(work)

        pulls = [pull(raw, is_behind=True) for raw in old]
        await asyncio.sleep(0.5)
        assert len(asked) == holder.serving() == BEHIND_MAX
        begin_s = loop.time()
        assert await pull(CONTENT, is_behind=False) == CONTENT
        assert loop.time() - begin_s < 0.5
        await asyncio.sleep(BEHIND_PATIENCE - 1.0 - (loop.time() - begin_s))
        assert set(asked) == {*old[:BEHIND_MAX], CONTENT}  # nobody was given up before its time
        await asyncio.sleep(1.0)
        assert set(asked) == {*old[: 2 * BEHIND_MAX], CONTENT}  # the next ones had their turn
        for task in pulls:
            task.cancel()

    run_virtual(scenario())


def test_rule_23_what_a_peer_named_is_asked_of_it_alone_and_in_pieces() -> None:
    """Or a liar's list of names would send a node to everybody that it knows."""

    async def scenario() -> None:
        network = MemoryNetwork()
        mesh, liar, other = (network.add(peer_name(number)) for number in range(3))
        network.connect_all()
        asked: list[tuple[bytes, int]] = []

        def hold(peer: bytes, gives: int) -> OnBlob:
            async def answer(asking: bytes, request: BlobRequest) -> bytes | None:
                names = decode_header_names(request.key)
                asked.append((peer, len(names)))
                return encode_headers([b"raw"]) if len(asked) <= gives else None

            return answer

        await liar.join(bytes(32), lambda topic, sender, message: True, hold(liar.peer, 1))
        await other.join(bytes(32), lambda topic, sender, message: True, hold(other.peer, 99))
        puller = Puller(mesh)
        names = tuple(number.to_bytes(32) for number in range(3 * HEADERS_PER_REQUEST_MAX))
        only = PullHeaders(names, (liar.peer,), only=True)
        given = [raw async for raw, _ in puller.pull_headers(only)]
        # It gave something, was asked for more, had nothing, and nobody else was asked.
        assert asked == [(liar.peer, HEADERS_PER_REQUEST_MAX)] * 2
        assert given == [encode_headers([b"raw"])]
        asked.clear()
        anybody = PullHeaders(names[:3], (liar.peer,))
        assert {holder async for _, holder in puller.pull_headers(anybody)} == {
            liar.peer,
            other.peer,
        }
        record = PullRecords(bytes(32), (liar.peer,), 1, only=True)
        assert puller.holders(record.holders, only=record.only) == [liar.peer]

    run_virtual(scenario())


def test_whom_a_relay_brings_is_asked_last() -> None:
    """Its bytes cost the relay's line twice; whoever else has them gives them for less."""

    async def scenario() -> None:
        network = MemoryNetwork()
        mesh, *holders = (network.add(peer_name(n)) for n in range(4))
        network.connect_all()
        asked: list[bytes] = []

        async def hold(holder: bytes, asking: bytes, request: BlobRequest) -> bytes | None:
            asked.append(holder)
            return CONTENT

        for holder in holders:
            answer = functools.partial(hold, holder.peer)
            await holder.join(bytes(32), lambda topic, sender, message: True, answer)
        before = mesh.peers

        def peers() -> list[PeerView]:
            relay = "/ip4/9.9.9.9/tcp/4001/p2p/relay/p2p-circuit/p2p/"
            last = holders[-1].peer
            return [v if v.peer == last else replace(v, address=relay) for v in before()]

        mesh.peers = peers  # type: ignore[method-assign]
        names = [holder.peer for holder in holders]
        puller = Puller(mesh)
        assert puller.holders(names) == [names[-1], *names[:-1]]
        name = hashlib.sha256(CONTENT).digest()
        for round_ in range(8):
            effect = PullPayload(name, len(CONTENT), k=1, round=round_, holders=tuple(names))
            assert await puller.pull_payload(effect, lambda: True, 10.0) == CONTENT
        assert asked == [names[-1]] * 8
        asked.clear()
        timed: list[bytes] = []

        async def attempt(holder: bytes) -> bytes | None:
            timed.append(holder)
            return None

        assert await puller.first_given(names, attempt, 1.0) is None
        assert timed[0] == names[-1]

    run_virtual(scenario())


def test_of_what_one_need_give_a_few_are_asked_at_once_and_the_first_answer_counts() -> None:
    """Two frozen ones cost nothing, more of them no more than the time for all together."""

    async def scenario() -> None:
        network = MemoryNetwork()
        puller = Puller(network.add(peer_name(0)))
        holders = [peer_name(number) for number in range(1, 9)]
        asked: list[bytes] = []
        at_once = most = 0

        async def attempt(holder: bytes) -> bytes | None:
            nonlocal at_once, most
            asked.append(holder)
            at_once += 1
            most = max(most, at_once)
            try:
                await asyncio.sleep(answers.get(holder, 1_000))
            finally:
                at_once -= 1
            return holder if holder == gives else None

        clock = asyncio.get_running_loop()
        gives, answers = b"", dict.fromkeys(holders, 1.0)
        assert await puller.first_given(holders, attempt, 10) is None
        order, asked = asked, []
        assert sorted(order) == sorted(holders)
        assert order != holders
        assert most == ASKED_AT_ONCE == 3
        gives, answers = order[4], dict.fromkeys(order[2:], 1.0)  # the first two are frozen
        begin_s = clock.time()
        assert await puller.first_given(holders, attempt, 10) == gives
        assert clock.time() - begin_s == 3
        assert at_once == 0  # the frozen are not waited for
        answers = {}
        begin_s = clock.time()
        assert await puller.first_given(holders, attempt, 10) is None
        assert clock.time() - begin_s == 10
        assert at_once == 0

    run_virtual(scenario())


def test_who_only_connects_is_asked_after_members_and_holds_up_nobody() -> None:
    async def scenario() -> None:
        network = MemoryNetwork()
        meshes = [network.add(peer_name(n)) for n in range(16)]
        network.connect_all()
        members = {mesh.peer for mesh in meshes[:4]}
        asked: list[bytes] = []

        async def hold(asking: bytes, request: BlobRequest) -> bytes | None:
            await asyncio.sleep(3600)
            return None

        for mesh in meshes[4:]:
            await mesh.join(bytes(32), lambda topic, sender, message: True, hold)
        for mesh in meshes[1:4]:

            async def answer(
                asking: bytes, request: BlobRequest, own: bytes = mesh.peer
            ) -> bytes | None:
                asked.append(own)
                return CONTENT

            await mesh.join(bytes(32), lambda topic, sender, message: True, answer)
        puller = Puller(meshes[0], lambda peer: peer in members)
        name, loop = hashlib.sha256(CONTENT).digest(), asyncio.get_running_loop()
        begin_s = loop.time()
        for round_ in range(20):  # in each they stand in another order
            effect = PullPayload(name, len(CONTENT), k=1, round=round_, holders=(meshes[1].peer,))
            assert await puller.pull_payload(effect, lambda: True, 10.0) == CONTENT
        assert loop.time() == begin_s
        assert len(asked) == 20

    run_virtual(scenario())
