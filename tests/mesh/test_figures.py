"""What the network has for the metrics: every series is known beforehand, however many peers."""

import asyncio

from prometheus_client import generate_latest

from demo_node.mesh.figures import show_mesh
from demo_node.mesh.memory import MemoryNetwork
from demo_node.observe.meter import Meter
from demo_node.operations import NodeOperations
from demo_node.ports import Blob, BlobRequest, NotHeld, Topic, Unreachable
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.virtual_loop import VirtualClock, run_virtual
from demo_node.stopping import Stopping

PEERS = 1_000
RUN = bytes(32)


def exposition(meter: Meter) -> dict[str, float]:
    """Every series and its value."""
    lines = generate_latest(meter.registry).decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_a_thousand_peers_make_no_new_series() -> None:
    async def scenario() -> None:
        meter, network = Meter(), MemoryNetwork()
        mesh = network.add(peer_name(0))

        async def answer(asking: bytes, request: BlobRequest) -> bytes | None:
            return b"content" if request.kind is Blob.PAYLOAD else None

        def hear(topic: Topic, sender: bytes, message: bytes) -> bool:
            return True

        await mesh.join(RUN, hear, answer)
        meter.on_figures(show_mesh(mesh))
        alone = exposition(meter)
        for number in range(1, PEERS + 1):
            other = network.add(peer_name(number))
            await other.join(RUN, hear, answer)
            await mesh.connect(other.addresses()[0])
            for kind in Blob:
                try:
                    await mesh.request(
                        other.peer, BlobRequest(kind, bytes(32)), bytes_max=99, timeout_s=1
                    )
                except (NotHeld, Unreachable):
                    continue
            if number % 2:
                other.stop()
        for topic in Topic:
            await mesh.publish(topic, b"message")
        await asyncio.sleep(1)
        meter.on_figures(show_mesh(mesh))
        many = exposition(meter)
        assert many.keys() == alone.keys()
        assert len(many) <= 800
        assert many['demo_peer_changes_total{change="connected"}'] == PEERS
        assert many['demo_peer_changes_total{change="disconnected"}'] == PEERS / 2
        assert many['demo_peer_connections{direction="out"}'] == PEERS / 2
        assert many['demo_pulls_total{kind="payload",result="ok"}'] == PEERS
        assert many['demo_pulls_total{kind="time",result="not_held"}'] == PEERS
        assert many['demo_dials_total{result="connected"}'] == PEERS
        assert many['demo_gossip_mesh_peers{topic="headers"}'] == PEERS / 2
        sent = many['demo_network_bytes_total{direction="out",protocol="payload"}']
        came = many['demo_network_bytes_total{direction="in",protocol="payload"}']
        assert (sent, came) == (PEERS * 32, PEERS * len(b"content"))

    run_virtual(scenario())


def test_a_node_has_them_from_its_first_second() -> None:
    async def scenario() -> None:
        mesh = MemoryNetwork().add(peer_name(0))
        operations = NodeOperations(clock=VirtualClock(), mesh=mesh, stopping=Stopping())
        names = {figure.name for figure in operations.figures()}
        assert {figure.name for figure in show_mesh(mesh)} <= names

    run_virtual(scenario())
