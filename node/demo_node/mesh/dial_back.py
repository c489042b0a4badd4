"""Can a peer be dialled at the host it is seen at? Tried on a connection of its own. Trio code.

The library's AutoNAT asks `host.connect`, which answers yes for whom it is connected with already:
docs/decisions/reachability.md.
"""

from collections.abc import Sequence

import trio
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from demo_node.mesh import bounds
from demo_node.mesh.transport import MeteredTCP
from demo_protocol.reach import DialBack


def find_remote(connections: Sequence[object], port: int) -> str:
    """The address to dial, `port` at the other end of a connection that lives; empty for none.

    Of the socket: what the library calls a transport address may be what the peer says of itself.
    """
    for connection in connections:
        if isinstance(connection, SwarmConn) and not connection.is_closed:
            remote = connection.muxed_conn.get_remote_address()  # type: ignore[attr-defined]
            if remote is not None:
                host = str(remote[0]).split("%")[0].removeprefix("::ffff:")
                return f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{port}"
    return ""


async def dial_back(swarm: Swarm, tcp: MeteredTCP, peer_id: ID, port: int) -> DialBack | None:
    """Whether that peer's key answers at the host we see it at; None where it is not connected.

    Both ends take it for a connection that broke off before anything was said on it.
    """
    where = find_remote(swarm.get_connections(peer_id), port)
    if not where:
        return None
    with trio.move_on_after(bounds.DIAL_BACK_S):
        try:
            raw = await tcp.dial(Multiaddr(f"{where}/p2p/{peer_id}"))
        except Exception:  # of any kind, as in the library: who answers there chose the bytes
            return DialBack(where, reached=False)
        try:
            await swarm.upgrader.upgrade_security(raw, True, peer_id)
            return DialBack(where, reached=True)
        except Exception:
            pass
        finally:
            with trio.CancelScope(shield=True):
                await raw.close()
    return DialBack(where, reached=False)
