"""A metered node takes part, and leaves to others what they can give as well."""

from demo_node.mesh.memory import MemoryMesh
from demo_node.ports import Blob, BlobRequest, NotHeld
from demo_node.sim.whole.link_rates import LinkRates
from demo_node.sim.whole.swarm import SimNode, SimSwarm
from demo_protocol.answers import decode_head
from demo_protocol.limits import RECORDS_REPLY_BYTES_MAX
from demo_protocol.manifest import Agreement, Learning
from tests.builders import manifest
from tests.sim.scenes import assert_agree, play

RUN = manifest(
    agreement=Agreement(contributors=0, payload_window_rounds=40),
    learning=Learning(k=16, samples_start=8),
)


def mesh_of(swarm: SimSwarm, node: SimNode) -> MemoryMesh:
    mesh = swarm.network.find(node.name)
    assert mesh is not None
    return mesh


async def ask(swarm: SimSwarm, asking: SimNode, holder: SimNode, kind: Blob, key: bytes) -> bytes:
    request = BlobRequest(kind, key)
    mesh = mesh_of(swarm, asking)
    return await mesh.request(
        holder.name, request, bytes_max=RECORDS_REPLY_BYTES_MAX, timeout_s=5.0
    )


async def is_given(
    swarm: SimSwarm, asking: SimNode, holder: SimNode, kind: Blob, key: bytes
) -> bool:
    try:
        return bool(await ask(swarm, asking, holder, kind, key))
    except NotHeld:
        return False


def newest_payloads(node: SimNode) -> dict[bytes, bytes]:
    """By author: the payloads of the newest record."""
    head = node.view.chain[node.view.head]
    return {sealed.body.peer: sealed.body.payload_hash for sealed in head.contributions}


def test_it_gives_its_own_payloads_and_no_others_unless_nobody_else_could() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        metered = await swarm.add(0, is_metered=True)
        asking, third = await swarm.add(1), await swarm.add(2)
        await swarm.run_until_round(24)
        payloads = newest_payloads(asking)
        assert payloads.keys() == {metered.name, asking.name, third.name}
        own, others = payloads[metered.name], payloads[third.name]
        assert await is_given(swarm, asking, metered, Blob.PAYLOAD, own)
        assert not await is_given(swarm, asking, metered, Blob.PAYLOAD, others)
        assert await is_given(swarm, asking, third, Blob.PAYLOAD, own)
        offer = decode_head(await ask(swarm, asking, third, Blob.HEAD, b""))
        assert offer.snapshot_root
        root = offer.snapshot_root
        assert await is_given(swarm, asking, third, Blob.STATE_LEAVES, root)
        assert not await is_given(swarm, asking, metered, Blob.STATE_LEAVES, root)
        mine = decode_head(await ask(swarm, asking, metered, Blob.HEAD, b""))
        assert (mine.head, mine.snapshot_root) == (offer.head, b"")
        await swarm.kill(third)
        assert await is_given(swarm, asking, metered, Blob.PAYLOAD, others)
        assert await is_given(swarm, asking, metered, Blob.STATE_LEAVES, root)
        assert decode_head(await ask(swarm, asking, metered, Blob.HEAD, b"")).snapshot_root == root

    play(scenario, SimSwarm(RUN))


def test_it_takes_part_with_a_quarter_of_what_the_run_allows() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        metered = await swarm.add(0, is_metered=True)
        for index in (1, 2):
            await swarm.add(index)
        await swarm.run_until_round(20)
        joiner = await swarm.add(9, syncing=True)
        await swarm.run_until_round(30)
        assert_agree(swarm)
        assert joiner.view.head_state.round >= 28
        view = metered.driver.sending.view()
        assert (view.k, view.k_max, view.metered) == (4, 16, True)
        listed = [
            sealed.body.k
            for record in joiner.view.chain.ancestors(joiner.view.head)
            for sealed in record.contributions
            if sealed.body.peer == metered.name
        ]
        assert listed
        assert set(listed) == {4}

    links = LinkRates(lambda peer: (1e9, 1e9))
    play(scenario, SimSwarm(RUN, links=links))


def test_what_the_operator_says_of_k_wins() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        metered = await swarm.add(0, is_metered=True, k=9)
        await swarm.add(1)
        await swarm.run_until_round(8)
        assert metered.driver.sending.view().k == 9

    play(scenario, SimSwarm(RUN))
