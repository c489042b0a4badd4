"""p2pd, and the process that holds hivemind, stopped where they stand: no death tells of that."""

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from demo_node.mesh.hivemind.backend import HivemindMesh
from demo_node.mesh.hivemind.limits import HUNG_S
from demo_node.ports import Unreachable
from tests.mesh.hosts import RUN, on_uvloop, seed
from tests.needs import needs_hivemind
from tests.waiting import wait_until

pytestmark = [pytest.mark.swarm, pytest.mark.slow]

HOLDER, P2PD = 0, 1

AGAIN_S = HUNG_S + 30.0
"""Until another one is there, and the peer is connected with it."""


@on_uvloop
async def test_what_hangs_is_ended_and_its_place_taken() -> None:
    needs_hivemind()
    reasons: dict[int, list[str]] = {HOLDER: [], P2PD: []}
    async with contextlib.AsyncExitStack() as stack:
        meshes = [HivemindMesh(seed(1 + w), on_event=_hear(r)) for w, r in reasons.items()]
        for mesh in meshes:
            stack.push_async_callback(mesh.stop)
        await asyncio.gather(*(mesh.start() for mesh in meshes))
        for mesh in meshes:
            await mesh.join(RUN, lambda topic, peer, message: True, _hold_nothing)
        await _meet(*meshes)
        await wait_until(lambda: all(all(mesh.pids) for mesh in meshes))
        before = [mesh.pids for mesh in meshes]
        for what in reasons:  # of one mesh the one, of the other the other
            os.kill(before[what][what], signal.SIGSTOP)

        def is_new(what: int) -> bool:
            pids = meshes[what].pids
            return all(pids) and pids[P2PD] != before[what][P2PD]

        await wait_until(lambda: all(map(is_new, reasons)), AGAIN_S)
        for what, told in reasons.items():
            assert not _lives(before[what][what])
            assert f"did not answer for {HUNG_S:.0f} s" in told[0]
        assert meshes[P2PD].pids[HOLDER] == before[P2PD][HOLDER]
        await _meet(*meshes)


async def _meet(one: HivemindMesh, other: HivemindMesh) -> None:
    """Dial until both see each other, as `Peering` does."""
    async with asyncio.timeout(AGAIN_S):
        for pause_s in itertools.repeat(0.5):
            with contextlib.suppress(Unreachable):
                await one.connect(other.addresses()[0])
            if one.peers() and other.peers():
                return
            await asyncio.sleep(pause_s)


def _hear(reasons: list[str]) -> Callable[..., None]:
    def hear(name: str, **fields: Any) -> None:
        assert name == "mesh.restarted"
        reasons.append(fields["reason"])

    return hear


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def _hold_nothing(peer: bytes, request: object) -> None:
    return None
