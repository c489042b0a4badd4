"""What lies between nodes: delay, loss, limited bandwidth, and cuts of every shape.

Gossip goes around a cut as long as any path is left; a pull needs both directions of one link. A
message's way is not followed hop by hop: it arrives after as many hops as a mesh of this size has,
each with its own delay. Floats are only added, multiplied and rounded down: the same everywhere.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from demo_node.sim.scenario import Links as LinkModel

MESH_DEGREE = 8
"""Neighbours in a gossip mesh: a message is everywhere after log8(nodes) hops."""

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Cut:
    """Nothing gets from `left` to `right`, nor back unless it is `one_way`."""

    left: frozenset[int]
    right: frozenset[int]
    one_way: bool = False

    def blocks(self, sender: int, receiver: int) -> bool:
        """Is this direction of the link down?"""
        if sender in self.left and receiver in self.right:
            return True
        return not self.one_way and sender in self.right and receiver in self.left


@dataclass(slots=True)
class Links:
    """The network of one simulation. Nodes are numbers below `size`."""

    model: LinkModel
    rng: np.random.Generator
    size: int = 0
    cuts: list[Cut] = field(default_factory=list)
    _distance_ms: npt.NDArray[np.float64] = field(init=False)
    _reach: dict[int, frozenset[int]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._distance_ms = np.zeros(0)

    def grow(self, size: int) -> None:
        """There are nodes up to `size` now; each is so far from the middle of the network."""
        if size > self.size:
            further = self.rng.random(size - self.size)
            # Half of the links have less than the median delay, and few twice as much.
            distance = self.model.latency_ms / 2 * (0.5 + further)
            self._distance_ms = np.concatenate([self._distance_ms, distance])
            self.size = size
            self._reach = {}

    # --- who can talk to whom --------------------------------------------------------------------

    def add_cut(self, cut: Cut) -> None:
        """From now on these do not hear each other."""
        self.cuts.append(cut)
        self._reach = {}

    def heal(self, cut: Cut | None = None) -> None:
        """One cut, or every one, is over."""
        self.cuts = [c for c in self.cuts if cut is not None and c is not cut]
        self._reach = {}

    def forget_reach(self) -> None:
        """Nodes came or went: who relays is to be asked anew."""
        self._reach = {}

    def is_open(self, sender: int, receiver: int) -> bool:
        """Do messages get through this direction of a link?"""
        return not any(cut.blocks(sender, receiver) for cut in self.cuts)

    def is_linked(self, a: int, b: int) -> bool:
        """Can one pull from the other? That takes a question and an answer."""
        return not self.cuts or (self.is_open(a, b) and self.is_open(b, a))

    def reach(self, sender: int, alive: Iterable[int]) -> frozenset[int] | None:
        """Whom gossip of `sender` reaches over any path of nodes that are `alive`; None: all."""
        if not self.cuts:
            return None
        found = self._reach.get(sender)
        if found is None:
            found = self._reach[sender] = self._explore(sender, list(alive))
        return found

    def _explore(self, sender: int, alive: list[int]) -> frozenset[int]:
        """Nodes on the same sides of all cuts are of one kind: paths lead from kind to kind."""
        kinds: dict[tuple[int, ...], list[int]] = {}
        for node in {*alive, sender}:
            kind = tuple((node in cut.left) + 2 * (node in cut.right) for cut in self.cuts)
            kinds.setdefault(kind, []).append(node)
        start = next(kind for kind, nodes in kinds.items() if sender in nodes)
        seen, frontier = {start}, [start]
        while frontier:
            here = frontier.pop()
            for there, nodes in kinds.items():
                if there not in seen and self.is_open(kinds[here][0], nodes[0]):
                    seen.add(there)
                    frontier.append(there)
        return frozenset(node for kind in seen for node in kinds[kind])

    # --- how long it takes -----------------------------------------------------------------------

    def gossip_delays_ms(self, sender: int, receivers: Numbers) -> tuple[Numbers, Numbers]:
        """(receivers that hear of it, once or twice; milliseconds until each does)."""
        model, count = self.model, len(receivers)
        hops_max = 1
        while MESH_DEGREE**hops_max < count:
            hops_max += 1
        draw = self.rng.random((3, count))
        hops = 1 + np.floor(draw[0] * hops_max)
        link_ms = self._distance_ms[sender] + self._distance_ms[receivers]
        delays = hops * (link_ms + model.jitter_ms * draw[1])
        fate = draw[2]
        delays = delays + np.where(fate > 1 - model.reorder, 1_000 * draw[0], 0)
        heard = fate >= model.loss
        again = heard & (fate < model.loss + model.duplicate)
        both = np.concatenate([receivers[heard], receivers[again]])
        times = np.concatenate([delays[heard], 2 * delays[again] + 1])
        return both, np.floor(times).astype(np.int64) + 1

    def pull_delay_ms(self, a: int, b: int, size: int) -> int:
        """Question and answer of `size` bytes between two nodes, on a link with nothing else."""
        one_way = float(self._distance_ms[a] + self._distance_ms[b])
        slower = min(self.model.up_mbit, self.model.down_mbit)
        jitter = self.model.jitter_ms * float(self.rng.random())
        return int(2 * one_way + jitter + size * 8 / (slower * 1_000)) + 1

    def download_ms(self, size: int) -> float:
        """How long `size` bytes keep a node's downlink busy."""
        return size * 8 / (self.model.down_mbit * 1_000)
