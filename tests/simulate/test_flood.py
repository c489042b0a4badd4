"""Who makes up keys by the hundred fills nobody's memory, and costs the others no round."""

import functools
from collections.abc import Callable
from dataclasses import replace

import pytest

from demo_node.sim.actor import Actor
from demo_node.sim.agreeing import OneChain, OneFinal, OwnFinal
from demo_node.sim.invariants import Bounds, EqualStates, HonestWords
from demo_node.sim.keys import cheap_sign, peer_name
from demo_node.sim.scenario import Scenario
from demo_node.sim.watching import Invariant
from demo_protocol.identity import Kind
from demo_protocol.manifest import Agreement
from demo_protocol.messages import decode_header, seal_header, seal_proposal
from tests.simulate.stages import Stage

FLOODER = 3

KEYS_FROM = 2_000_000
"""Their numbers, far from those of nodes."""

PER_ROUND = 100

NODES = 9

ROUNDS = 16

LATE_ROUNDS = Agreement().late_rounds

Flood = Callable[[Actor, bytes], None]
"""Says what it likes whenever its node's header is due."""


def make_up(actor: Actor) -> bytes:
    return actor.rng.randbytes(32)


def send_headers(actor: Actor, raw: bytes) -> None:
    """Of keys that nobody knows: payloads that nobody gives, and votes for no record."""
    world = actor.world
    header = decode_header(raw, world.run_id).body
    for number in range(PER_ROUND):
        key = KEYS_FROM + header.round * PER_ROUND + number
        forged = replace(header, peer=peer_name(key), vote=make_up(actor))
        if header.payload_hash:
            forged = replace(forged, payload_hash=make_up(actor))
        sealed = seal_header(forged, world.run_id, cheap_sign(forged.peer))
        world.publish(actor, Kind.HEADER, sealed.raw)


def send_orphans(actor: Actor, raw: bytes, *, is_stranger: bool) -> None:
    """Proposals on a parent that nobody knows."""
    world, view = actor.world, actor.view
    latest = view.chain[view.head].proposal
    if latest is None:
        return
    for number in range(PER_ROUND if is_stranger else 1):
        key = KEYS_FROM + view.round * PER_ROUND + number
        peer = peer_name(key) if is_stranger else actor.name
        forged = replace(latest.body, peer=peer, round=view.round, parent=make_up(actor))
        sealed = seal_proposal(forged, world.run_id, cheap_sign(peer))
        world.publish(actor, Kind.PROPOSAL, sealed.raw)


def send_siblings(actor: Actor, raw: bytes) -> None:
    """On each of the newest records, whatever it lists: two of one round are an offence, too."""
    world, view = actor.world, actor.view
    latest = view.chain[view.head].proposal
    if latest is None:
        return
    for step in list(view.chain.ancestors(view.head))[:10]:
        forged = replace(
            latest.body,
            peer=actor.name,
            round=view.round,
            parent=step.hash,
            contributions=(decode_header(raw, world.run_id).hash,),
            late=(),
            state_root=b"",
        )
        sealed = seal_proposal(forged, world.run_id, cheap_sign(actor.name))
        world.publish(actor, Kind.PROPOSAL, sealed.raw)


FLOODS: dict[str, Flood] = {
    "headers": send_headers,
    "orphans of strangers": functools.partial(send_orphans, is_stranger=True),
    "orphans of a member": functools.partial(send_orphans, is_stranger=False),
    "siblings": send_siblings,
}


def flood(how: str, bounds: Bounds, *invariants: Invariant) -> tuple[Stage, list[bytes]]:
    """Sixteen rounds, all but the first two of them with one node that floods; and its headers."""
    stage = Stage(Scenario(nodes=NODES, rounds=ROUNDS), bounds, *invariants)
    heard: list[bytes] = []

    def begin() -> None:
        actor = stage.world.actors[FLOODER]

        def announce(kind: Kind, raw: bytes) -> None:
            stage.world.publish(actor, kind, raw)
            if kind is Kind.HEADER:
                heard.append(raw)
                FLOODS[how](actor, raw)

        actor.traits.how, actor.traits.announce = "flood", announce

    stage.at(2, begin)
    assert stage.run() == []
    honest = [actor for actor in stage.world.actors if not actor.traits.how]
    assert {actor.view.head_state.height for actor in honest} == {stage.world.root.height + ROUNDS}
    return stage, heard


@pytest.mark.parametrize("how", FLOODS)
def test_a_flood_costs_no_round_and_stays_within_the_bounds(how: str) -> None:
    bounds, final = Bounds(), OneFinal()
    stage, heard = flood(how, bounds, final, OneChain(), OwnFinal(), EqualStates(), HonestWords())
    assert heard
    assert final.finals > 8
    rejections, most = stage.watcher.rejections, bounds.largest
    match how:
        case "headers":  # kept, and forgotten with their rounds
            assert PER_ROUND < most["headers of a round"] <= PER_ROUND + NODES
            assert most["votes"] <= (LATE_ROUNDS + 2) * PER_ROUND + NODES
        case "orphans of strangers":
            assert rejections["a stranger's proposal on a record that is not here"] > 5_000
            assert most["waiting proposals"] == 0
        case "orphans of a member":
            assert 1 < most["waiting proposals"] <= LATE_ROUNDS + 2
        case _:  # siblings: heard in one round, and then nobody hears it any more
            assert len(heard) < 5
            assert most["offences"] == 1


def test_members_find_room_where_strangers_have_filled_a_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = PER_ROUND // 2
    monkeypatch.setattr("demo_protocol.receive.HEADERS_PER_ROUND_MAX", few)
    bounds = Bounds()
    stage, _ = flood("headers", bounds)
    assert few < bounds.largest["headers of a round"] <= few + NODES
    view = stage.world.actors[0].view
    listed = [len(step.contributions) for step in view.chain.ancestors(view.head) if step.proposal]
    assert min(listed) >= NODES - 1
