"""When a node asks the DHT who is in its run, and when it says that it is: on virtual time."""

import asyncio
from dataclasses import dataclass, field

from demo_node.mesh.kad_counters import KadCounters
from demo_node.ports import PeerView, Unreachable
from demo_node.signposts import ENOUGH, LOOK_FIRST_S, TELL_FIRST_S, TELL_MAX_S, Signposts
from demo_node.sim.whole.virtual_loop import run_virtual

RUN = bytes(range(32))
HOUR_S = 3600


@dataclass
class Mesh:
    """A mesh with a DHT that names whom a test says."""

    names: list[str] = field(default_factory=list)
    ours: int = 0
    elsewhere: int = 0
    looked: list[float] = field(default_factory=list)
    told: list[float] = field(default_factory=list)
    is_gone: bool = False
    is_joined: bool = True

    def peers(self) -> list[PeerView]:
        return [
            PeerView(bytes([n]) * 32, "", True, elsewhere=n >= self.ours)
            for n in range(self.ours + self.elsewhere)
        ]

    async def find_members(self, run_id: bytes) -> list[str]:
        assert run_id == RUN
        if self.is_gone:
            raise Unreachable("the mesh has ended")
        self.looked.append(asyncio.get_running_loop().time())
        return self.names

    async def tell_member(self, run_id: bytes) -> None:
        assert run_id == RUN
        if self.is_gone:
            raise Unreachable("the mesh has ended")
        self.told.append(asyncio.get_running_loop().time())

    def kad_counters(self) -> KadCounters:
        return KadCounters(queries=3, found=2, dialled=1, table=5, records=7)


def live(mesh: Mesh, seconds: float) -> tuple[list[str], list[dict[str, object]]]:
    """What is heard, and the events, of so long a time."""
    heard: list[str] = []
    events: list[dict[str, object]] = []

    async def scenario() -> None:
        signposts = Signposts(
            mesh,
            heard.append,
            lambda name, **fields: events.append(fields),
            lambda: mesh.is_joined,
        )
        work = asyncio.create_task(signposts.run(RUN))
        await asyncio.sleep(seconds)
        if not mesh.is_gone:
            assert not work.done()
        work.cancel()
        await asyncio.wait([work])

    run_virtual(scenario())
    return heard, events


def test_nobody_is_asked_before_anybody_is_connected() -> None:
    mesh = Mesh(names=["a"])
    assert live(mesh, HOUR_S) == ([], [])
    assert mesh.looked == mesh.told == []


def test_whom_the_dht_names_is_heard_of_at_once_and_told_of_once() -> None:
    heard, events = live(mesh := Mesh(names=["a", "b"], elsewhere=1), 10)
    assert heard[:2] == ["a", "b"]
    assert mesh.looked[0] < 1
    assert events == [{"addresses": 2}]


def test_while_there_are_few_it_is_asked_again_and_again_and_ever_more_seldom() -> None:
    live(mesh := Mesh(ours=ENOUGH - 1, elsewhere=9), HOUR_S)
    pauses = [b - a for a, b in zip(mesh.looked, mesh.looked[1:], strict=False)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 2 * LOOK_FIRST_S
    assert 10 <= len(mesh.looked) <= 16


def test_with_enough_of_the_run_it_is_told_and_not_asked() -> None:
    live(mesh := Mesh(ours=ENOUGH), HOUR_S)
    assert not mesh.looked
    assert mesh.told[0] < 1
    assert mesh.told[1] - mesh.told[0] < 2 * TELL_FIRST_S
    assert mesh.told[-1] - mesh.told[-2] < TELL_MAX_S + 1
    assert 8 <= len(mesh.told) <= 13


def test_before_a_run_is_joined_there_are_never_enough() -> None:
    live(mesh := Mesh(ours=ENOUGH, is_joined=False), 10)
    assert len(mesh.looked) >= 2


def test_where_the_mesh_has_ended_nobody_is_asked_any_more() -> None:
    mesh = Mesh(ours=1, is_gone=True)
    assert live(mesh, 10) == ([], [])


def test_what_was_asked_and_is_kept_is_shown() -> None:
    shown = {f.name: f.value for f in Signposts(Mesh(), print, print, bool).figures()}
    assert shown == {
        "demo_kad_queries_total": 3,
        "demo_kad_found_total": 2,
        "demo_kad_dials_total": 1,
        "demo_kad_table": 5,
        "demo_kad_records": 7,
    }
