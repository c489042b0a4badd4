"""Real daemons on the machines of a network that a test made."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.cli.command import COMMAND
from tests.e2e.nodes import RunningNode, started
from tests.waiting import wait_until_sync
from tests.wan.cities import CITIES, compute_delay_ms
from tests.wan.network import Network

PORT: Final = 4001

AGREE_S: Final = 120.0


def place(network: Network, loss: float) -> None:
    """Each machine in another city, its links as long as the way, and all of them lossy."""
    names = list(CITIES)[: network.count]
    for index, name in enumerate(names):
        for other in range(index):
            network.change([index], [other], delay_ms=compute_delay_ms(name, names[other]))
    network.change(loss=loss)


@contextlib.contextmanager
def started_on(
    network: Network,
    index: int,
    datadir: Path,
    *arguments: str,
    over_6: bool = False,
    anywhere: bool = False,
    mdns: bool = False,
) -> Iterator[RunningNode]:
    """`demo-node start` on a machine: it listens at the machine's address, or `anywhere`.

    Its network is the internet to it, where nobody multicasts, but for `mdns`.
    """
    version, address = (
        ("ip6", network.address_6(index)) if over_6 else ("ip4", network.address(index))
    )
    is_anywhere = anywhere or index in network.hidden
    listen = "/ip4/0.0.0.0" if is_anywhere else f"/{version}/{address}"
    lan = "--mdns" if mdns else "--no-mdns"
    places = ("--listen", f"{listen}/tcp/{PORT}", "--metrics-address", "127.0.0.1:0", lan)
    command = (*network.inside(index), *COMMAND)
    with started(datadir, *arguments, command=command, places=places) as node:
        yield node


def wait_agreed(nodes: Sequence[RunningNode], beyond: int, deadline_s: float = AGREE_S) -> int:
    """Until all stand at one record with equal parameters, later than `beyond`; its height."""
    for node in nodes:
        node.wait_until_active()
    found: list[tuple[int, bytes, bytes]] = []

    def is_agreed() -> bool:
        found[:] = [(one.height, one.head, one.digest) for one in map(RunningNode.status, nodes)]
        return len(set(found)) == 1 and found[0][0] > beyond

    try:
        wait_until_sync(is_agreed, deadline_s)
    except AssertionError:
        told = [(height, head.hex()[:8]) for height, head, _ in found]
        raise AssertionError(f"not within {deadline_s} s: {told}") from None
    return found[0][0]
