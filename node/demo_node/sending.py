"""How much this node sends in a round: k by its uplink and the exchange window, or as it was told.

Only the sender's own business (rule T8): payloads of all k add up alike.
"""

from collections import Counter
from collections.abc import Callable, Iterator

from demo_node.observer import Figure
from demo_node.ports import Mesh, Slice, TakeUplink
from demo_node.uplink import Demand, Given, KControl, UplinkEstimate, list_points
from demo_node.views import SendingView
from demo_protocol.manifest import Manifest
from demo_protocol.payload import typical_payload_bytes
from demo_protocol.schedule import coverage_cut_ms, train_end_ms
from demo_protocol.schema import compute_schema

METERED_PART = 4
"""A metered node sends this part of the k of the run, at most."""

PAYLOADS_WATCHED = 4
"""Our own of so many rounds: who is late asks later."""


class Sending:
    """Chooses k for each round that this node sends in."""

    def __init__(
        self,
        manifest: Manifest,
        mesh: Mesh,
        *,
        fixed: int,
        is_metered: bool = False,
        take_uplink: TakeUplink | None,
        find_cap: Callable[[], float],
    ) -> None:
        """`fixed`: the operator's k; 0: by the uplink, where there is one that can be watched.

        `find_cap`: bytes a second that the operator lets us send now, 0 for all.
        """
        schedule, self._k_run = manifest.schedule, manifest.learning.k
        self._k_max = max(1, self._k_run // METERED_PART) if is_metered else self._k_run
        schema = compute_schema(manifest.model)
        self._sizes = {k: typical_payload_bytes(schema, k) for k in list_points(self._k_max)}
        self._window_ms = coverage_cut_ms(schedule, 0) - train_end_ms(schedule, 0)
        self._control = KControl(self._sizes, self._window_ms / 1000)
        fixed = fixed or (0 if take_uplink else self._k_max)
        if fixed:
            self._sizes[fixed] = typical_payload_bytes(schema, fixed)
        self._fixed = fixed
        self._is_metered = is_metered
        self._mesh = mesh
        self._take_uplink = take_uplink or Slice
        self._find_cap = find_cap
        self._uplink = UplinkEstimate()
        self._history = Given()
        self._given: Counter[bytes] = Counter()
        self._round = -1
        self._passed_on = 0
        """Bytes, in the round that is on."""
        self._own: list[bytes] = []
        self._k = 0
        self._demand = self._look()

    def begin_round(self, round_: int) -> None:
        """A round begins, whether this node's turn is in it or not: look back at those before."""
        rounds = round_ - self._round
        if rounds <= 0:
            return
        if self._round >= 0:
            self._history.add_passed_on(self._passed_on // rounds)
        self._round, self._passed_on = round_, 0
        self._uplink.add(self._take_uplink())

    def choose(self) -> int:
        """k of the round that has begun."""
        self._demand = self._look()
        self._k = self._fixed or self._control.choose(self._demand)
        return self._k

    def on_sent(self, payload_hash: bytes) -> None:
        """A payload of ours will be asked for; the one before it has been."""
        if self._own:
            self._history.add_copies(self._given[self._own[-1]])
        self._own.append(payload_hash)
        for old in self._own[:-PAYLOADS_WATCHED]:
            del self._given[old]
        self._own = self._own[-PAYLOADS_WATCHED:]

    def on_given(self, payload_hash: bytes, size: int) -> None:
        """Somebody was given a payload."""
        if payload_hash in self._own:
            self._given[payload_hash] += 1
        else:
            self._passed_on += size

    def is_own(self, payload_hash: bytes) -> bool:
        """Is this payload ours, and of late?"""
        return payload_hash in self._own

    def view(self) -> SendingView:
        """What was chosen, and why."""
        demand = self._demand
        return SendingView(
            k=self._k,
            k_max=self._k_run,
            metered=self._is_metered,
            fixed=bool(self._fixed),
            measured=bool(demand.bytes_per_s),
            uplink_bits_per_s=8 * demand.usable_bytes_per_s,
            window_ms=self._window_ms,
            payload_bytes=self._sizes.get(self._k, 0),
            copies=demand.copies,
            passed_on_bytes=demand.passed_on,
        )

    def figures(self) -> Iterator[Figure]:
        """k, and what it follows from."""
        yield Figure("demo_k", self._k)
        yield Figure("demo_uplink_bytes_per_second", self._uplink.bytes_per_s)

    def _look(self) -> Demand:
        peers = len(self._mesh.peers())
        return Demand(
            bytes_per_s=self._uplink.bytes_per_s,
            copies=min(self._history.copies, peers) if peers else self._history.copies,
            passed_on=self._history.passed_on,
            cap=self._find_cap(),
        )
