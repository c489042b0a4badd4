"""What a mesh has for the metrics. Nothing of a single peer: its labels are known beforehand."""

from collections import Counter
from collections.abc import Iterator

from demo_node.observer import Figure
from demo_node.ports import Direction, Mesh, Topic


def show_mesh(mesh: Mesh) -> Iterator[Figure]:
    """Levels and totals as they are now."""
    done = mesh.counters()
    for (direction, use), total in done.traffic.items():
        yield Figure("demo_network_bytes_total", total, (direction, use))
    for (kind, pulled), total in done.pulls.items():
        yield Figure("demo_pulls_total", total, (kind.name.lower(), pulled))
    for dialled, total in done.dials.items():
        yield Figure("demo_dials_total", total, (dialled,))
    for change, total in done.changes.items():
        yield Figure("demo_peer_changes_total", total, (change,))
    for offence, total in done.offences.items():
        yield Figure("demo_offences_total", total, (offence,))
    bans = mesh.bans()
    yield Figure("demo_bans", sum(bool(ban.peer) for ban in bans), ("key",))
    yield Figure("demo_bans", sum(bool(ban.address) for ban in bans), ("address",))
    for reason, total in done.refused.items():
        yield Figure("demo_refusals_total", total, (reason,))
    dialled_by = Counter(Direction.OUT if v.outbound else Direction.IN for v in mesh.peers())
    for direction in Direction:
        yield Figure("demo_peer_connections", dialled_by[direction], (direction,))
    for topic in Topic:
        yield Figure("demo_gossip_mesh_peers", mesh.mesh_peers(topic), (topic,))
    yield Figure("demo_queue_depth", mesh.serving(), ("serving",))
