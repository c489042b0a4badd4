"""What scenarios have in common: run one, look at who agrees, name messages by what they carry."""

from collections.abc import Awaitable, Callable

from demo_node.ports import Blob, Topic
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.faults import Asked, Heard
from demo_node.sim.whole.swarm import SimNode, SimSwarm
from demo_node.sim.whole.virtual_loop import run_virtual
from demo_protocol.messages import Header, Proposal, decode_header, decode_proposal
from demo_protocol.roster import compute_rank
from tests.builders import manifest

Scenario = Callable[[SimSwarm], Awaitable[None]]


def play(scenario: Scenario, swarm: SimSwarm | None = None) -> None:
    """Run a scenario on virtual time, then end its nodes."""

    async def main() -> None:
        stage = swarm or SimSwarm(manifest())
        await scenario(stage)
        assert_nobody_honest_is_blamed(stage)
        await stage.stop()

    run_virtual(main())


def assert_nobody_honest_is_blamed(swarm: SimSwarm) -> None:
    """Whatever happened: losses, cuts, deaths, liars that were passed on. Scores fade slowly."""
    names = {node.name for node in swarm.nodes}
    for name in names:
        mesh = swarm.network.find(name)
        if mesh is not None:
            assert {
                other: mesh.guard.score(other) for other in names if mesh.guard.score(other)
            } == {}
            assert not [ban for ban in mesh.bans() if ban.peer in names]


async def leave(node: SimNode) -> None:
    """Have it tell the others that it leaves the run."""
    node.driver.leave()
    await node.driver.outbox.flush()


def assert_agree(swarm: SimSwarm) -> None:
    """Every node has the same head, and by computing it the same parameters."""
    assert len({node.view.head for node in swarm.nodes}) == 1
    assert len({node.digest for node in swarm.nodes}) == 1


def height(node: SimNode) -> int:
    """Records between the genesis and the node's head."""
    return node.view.head_state.height


def rolled_back(node: SimNode) -> list[int]:
    """How many records each of its rollbacks left, oldest first."""
    depths = [fields.get("rolled_back") for _name, fields in node.observer.events]
    return [d for d in depths if isinstance(d, int) and d > 0]


def resyncs(node: SimNode) -> int:
    """How often it had to begin again from a snapshot."""
    return sum(name == "states.lost" for name, _ in node.observer.events)


def leaps(node: SimNode) -> int:
    """How often it went on from a peer's snapshot, payloads being nowhere to be had."""
    return sum(name == "start.moved" for name, _ in node.observer.events)


def rounds_with_siblings(node: SimNode) -> list[int]:
    """Rounds of which the node knows two valid proposals with one parent."""
    seen = [(r.parent, r.round) for r in node.view.chain.records.values()]
    return sorted(round_ for parent, round_ in set(seen) if seen.count((parent, round_)) > 1)


def read_header(swarm: SimSwarm, heard: Heard) -> Header | None:
    """The header a gossip message is, if it is one."""
    if heard.topic is not Topic.HEADERS:
        return None
    return decode_header(heard.message, swarm.nodes[0].view.run_id).body


def read_proposal(swarm: SimSwarm, heard: Heard) -> Proposal | None:
    """The proposal a gossip message is, if it is one."""
    if heard.topic is not Topic.PROPOSALS:
        return None
    return decode_proposal(heard.message, swarm.nodes[0].view.run_id).body


def rank_of(swarm: SimSwarm, body: Proposal, peer: bytes) -> int | None:
    """The rank of `peer` in the round of a proposal, as the proposal's author sees it."""
    author = next(node for node in swarm.nodes if node.name == body.peer)
    parent = author.view.chain[body.parent].state
    return compute_rank(parent, peer, body.round, swarm.manifest.agreement)


def has_slot(node: SimNode, round_: int) -> bool:
    """May it propose in `round_`, if the round before has a record and nobody comes or goes?"""
    rank = compute_rank(node.view.head_state, node.name, round_, node.view.manifest.agreement)
    return rank is not None and rank < node.view.manifest.schedule.slots


def rank_0_comes_late(swarm: SimSwarm, rounds: range) -> Callable[[Heard], float]:
    """In these rounds half of four nodes settle on rank 1's proposal before they hear rank 0's.

    Rank 1 is one of that half, whoever it is: it proposes because it has heard of no other.
    """

    def hold_back(heard: Heard) -> float:
        body = read_proposal(swarm, heard)
        if body is None or body.round not in rounds or rank_of(swarm, body, body.peer) != 0:
            return 0.0
        # Past rank 1's slot, and past the beginning of settling.
        return 0.6 if rank_of(swarm, body, heard.receiver) in {1, 2} else 0.0

    return hold_back


def is_payload_of(asked: Asked, swarm: SimSwarm, author: int, rounds: range) -> bool:
    """Is this a pull of what node `author` sent in one of these rounds?"""
    name, key = peer_name(author), asked.request.key
    if asked.request.kind is not Blob.PAYLOAD:
        return False
    view = next(node.view for node in swarm.nodes if node.name == name)
    listed = (h for record in view.chain.records.values() for h in record.contributions)
    return any(
        h.body.payload_hash == key and h.body.peer == name and h.body.round in rounds
        for h in (*view.pool.headers.values(), *listed)
    )
