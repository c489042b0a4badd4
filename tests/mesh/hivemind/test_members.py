"""hivemind's DHT: who has a record in it, and that nodes find each other by it."""

import asyncio
import contextlib
import json
import subprocess
import sys

import pytest

from demo_node.mesh.hivemind.backend import HivemindMesh
from demo_node.mesh.libp2p import Libp2pMesh
from demo_node.ports import Blob, BlobRequest, NotHeld, Unreachable
from tests.cli.command import ROOT
from tests.mesh.contract.nodes import UP_S
from tests.mesh.hosts import RUN, on_uvloop, seed
from tests.needs import needs_hivemind
from tests.waiting import wait_until

pytestmark = pytest.mark.swarm


def test_only_a_members_own_short_and_short_lived_record_is_taken() -> None:
    needs_hivemind()
    done = subprocess.run(
        [sys.executable, "-m", "tests.mesh.hivemind.refuse_records"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    verdicts = json.loads(done.stdout)
    taken = {name for name, verdict in verdicts.items() if verdict}
    assert taken == {"good", "of another", "after others left"}
    assert len(verdicts) == 21


def test_who_is_a_relay_carries_much_and_nobody_else_is_taken_for_one() -> None:
    needs_hivemind()
    done = subprocess.run(
        [sys.executable, "-m", "tests.mesh.hivemind.relays"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert all(found["relays"])
    assert not found["other"]
    assert found["answers"] == {
        "next to nothing": [100, 1 << 17],
        "4 GiB": [100, 1 << 32],
        "without a limit": [100, 0],
        "refused": [200, 0],
    }
    assert not found["no answers"]


@on_uvloop
async def test_nodes_that_know_one_peer_find_each_other() -> None:
    needs_hivemind()
    async with contextlib.AsyncExitStack() as stack:
        meshes = [HivemindMesh(seed(number)) for number in (1, 2, 3)]
        for mesh in meshes:
            stack.push_async_callback(mesh.stop)
        await asyncio.gather(*(mesh.start() for mesh in meshes))
        for mesh in meshes:
            await mesh.join(RUN, lambda topic, peer, message: True, _hold)
        for mesh in meshes[1:]:
            await mesh.connect(meshes[0].addresses()[0])
        await wait_until(lambda: all(len(mesh.peers()) == 2 for mesh in meshes), UP_S)


@on_uvloop
async def test_blobs_cross_between_the_two_kinds_of_mesh_and_a_wrong_dial_says_why() -> None:
    needs_hivemind()
    async with contextlib.AsyncExitStack() as stack:
        go, py = HivemindMesh(seed(1)), Libp2pMesh(seed(2))
        for mesh in (go, py):
            await mesh.start()
            stack.push_async_callback(mesh.stop)
            await mesh.join(RUN, lambda topic, peer, message: True, _hold)
        with pytest.raises(Unreachable, match="whose mesh is another one: see --mesh"):
            await go.connect(py.addresses()[0])
        await py.connect(go.addresses()[0])
        request, absent = (BlobRequest(Blob.PAYLOAD, key) for key in (HELD, b"absent"))
        found = await py.request(go.peer, request, bytes_max=1 << 22, timeout_s=30)
        assert found == CONTENT
        with pytest.raises(NotHeld):
            await py.request(go.peer, absent, bytes_max=9, timeout_s=30)
        # They have no link, so `request` would not ask; the stream would be the same.
        assert await go._blobs.pull(py.peer, request, 1 << 22, 30) == CONTENT


HELD, CONTENT = b"held", bytes(range(256)) * 4096


async def _hold(peer: bytes, request: BlobRequest) -> bytes | None:
    return CONTENT if request.key == HELD else None
