"""What came before a joiner's first record: it is learned though some are frozen and some lie."""

import asyncio
import hashlib
from types import SimpleNamespace
from typing import Any, cast

from demo_node.deepening import Deepening
from demo_node.mesh.memory import MemoryNetwork
from demo_node.ports import Blob, BlobRequest
from demo_node.pull import Puller
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.virtual_loop import EPOCH_MS, VirtualClock, run_virtual
from demo_protocol.answers import encode_bundle, encode_chain_state, encode_records
from demo_protocol.chain import make_bundle
from demo_protocol.schedule import round_start_ms
from demo_protocol.view import View
from tests.builders import MANIFEST, Tree, view

FROZEN, LIARS, HONEST = 2, 3, 1
ROUND_S = MANIFEST.schedule.round_ms / 1_000


async def prepare(headers: object) -> None:
    """Nothing is checked before it is used."""


def test_it_is_learned_in_one_round_from_the_only_one_who_says_what_was() -> None:
    tree = Tree()
    oldest = tree.start(4)
    records = [oldest]
    for round_ in range(1, 6):
        records.append(tree.grow(records[-1], round_, range(4)))
    first = records[-1]
    other = Tree()
    forged = other.grow(other.start(4), 3, range(3))
    believed = view(root=tree.state(first))
    deeper: list[View] = []

    def deepen(found: View) -> None:
        deeper.append(found)
        believed.deepen(found)

    async def keep_record(*record: object) -> None:
        kept.append(record[0])

    kept: list[object] = []
    bundles = encode_records(encode_bundle(make_bundle(tree.chain[r])) for r in records[1:])

    async def scenario() -> None:
        network = MemoryNetwork()
        mesh = network.add(peer_name(0))
        names = [peer_name(number) for number in range(1, 1 + FROZEN + LIARS + HONEST)]
        names.sort(key=lambda name: hashlib.sha256(mesh.peer + name).digest())
        for turn, name in enumerate(names):  # as they are asked: the honest one is the last
            peer = network.add(name)

            async def answer(asking: bytes, request: BlobRequest, turn: int = turn) -> bytes | None:
                if turn < FROZEN:
                    await asyncio.sleep(1_000)
                if request.kind is Blob.RECORDS:
                    return bundles
                older = forged if turn < FROZEN + LIARS else oldest
                state = other.state(older) if older is forged else tree.state(older)
                return encode_chain_state(state)

            await peer.join(bytes(32), lambda topic, sender, message: True, answer)
        network.connect_all()
        driver = SimpleNamespace(view=believed, deepen=deepen)
        deepening = Deepening(
            cast(Any, driver),
            Puller(mesh),
            cast(Any, SimpleNamespace(keep_record=keep_record)),
            VirtualClock(round_start_ms(MANIFEST.schedule, 8) - EPOCH_MS),
            cast(Any, SimpleNamespace(prepare=prepare)),
        )
        running = asyncio.create_task(deepening.run())
        await asyncio.sleep(ROUND_S)
        running.cancel()

    run_virtual(scenario())
    assert len(deeper) == 1
    assert believed.chain.root.record == oldest
    assert kept == records[1:]
