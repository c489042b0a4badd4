"""Whom to dial, how many at once, and what came of it."""

import contextlib
from collections.abc import AsyncIterator

import trio
from libp2p.exceptions import BaseLibp2pError

from demo_node.mesh import bounds
from demo_node.mesh.addresses import decode_address, split_circuit
from demo_node.mesh.dial import classify, explain
from demo_node.mesh.guard import Guard
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.mesh.tally import Tally
from demo_node.ports import DialResult, Unreachable


def check_dial(address: str, guard: Guard) -> tuple[str, bytes]:
    """Where to dial whom. Raises Unreachable for whom nobody here dials."""
    try:
        where, peer = decode_address(address)
    except ValueError as error:
        raise Unreachable(str(error)) from None
    relay = split_circuit(where)
    if peer == guard.me or (relay and relay[1] == guard.me):
        raise Unreachable(f"{address} is this node itself")
    if where.startswith("/dns"):
        raise Unreachable(f"{address} names a host that was not looked up")
    for key in [peer, *(relay or ())[1:]]:
        if guard.is_banned(key):
            raise Unreachable(f"{encode_peer_id(key)} is banned here")
    return where, peer


class Dials:
    """Those that go on: at most DIALS_MAX at once, and one to each peer. Trio code."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._locks: dict[bytes, trio.Lock] = {}
        self._slots = trio.CapacityLimiter(bounds.DIALS_MAX)

    def __len__(self) -> int:
        """Peers that are dialled, or are to be."""
        return len(self._locks)

    @contextlib.asynccontextmanager
    async def turn(self, peer: bytes, where: str) -> AsyncIterator[None]:
        """Time to dial a peer; its failures are counted. Raises Unreachable for any of them."""
        lock = self._locks.setdefault(peer, trio.Lock())
        try:
            async with lock, self._slots:
                with trio.fail_after(bounds.CONNECT_S):
                    yield
        except trio.TooSlowError:
            self._tally.dials[DialResult.TIMED_OUT] += 1
            raise Unreachable(f"{where} did not answer in {bounds.CONNECT_S:.0f} s") from None
        except (BaseLibp2pError, OSError, ValueError) as error:
            self._tally.dials[classify(error)] += 1
            raise Unreachable(f"{where}: {explain(error)}") from None
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._locks.pop(peer, None)
