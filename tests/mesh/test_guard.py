"""Who is kept out: a key wherever it comes from, an address only where it can be nobody else."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from demo_node.mesh.conduct import ADDRESS_BAN_S, KEY_BAN_S
from demo_node.mesh.guard import Guard
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.ports import BanView, Offence

ME, EVIL, GOOD = (bytes([n]) * 32 for n in range(3))
PUBLIC, NEIGHBOUR = "203.0.114.7", "203.0.114.8"


@dataclass
class Scene:
    """A guard with a clock, which tells what it closed and said."""

    hosts: tuple[str, ...] = (PUBLIC,)
    now_s: float = 1000.0
    closed: list[bytes] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.guard = Guard(ME, close=self._close, on_event=self._tell, now_s=lambda: self.now_s)

    def _close(self, peer: bytes) -> tuple[str, ...]:
        self.closed.append(peer)
        return self.hosts

    def _tell(self, name: str, **fields: object) -> None:
        assert name == "peer.banned"
        self.told.append(fields)

    def ban(self, peer: bytes) -> None:
        while not self.guard.is_banned(peer):
            self.guard.blame(peer, Offence.ANSWER)


def test_a_key_that_offends_is_closed_once_told_once_and_let_in_when_its_time_is_over() -> None:
    scene = Scene()
    for _ in range(9):
        scene.guard.blame(EVIL, Offence.ANSWER)
    assert scene.closed == [EVIL]
    told = {"peer_id": encode_peer_id(EVIL), "offence": "answer", "seconds": KEY_BAN_S[0]}
    assert scene.told == [told]
    assert scene.guard.is_banned(EVIL)
    assert not scene.guard.is_banned(GOOD)
    scene.now_s += 60
    view = BanView(EVIL, "", round(KEY_BAN_S[0]) - 60, Offence.ANSWER, 1)
    assert scene.guard.bans() == [view]
    scene.now_s += KEY_BAN_S[0] - 60
    assert not scene.guard.is_banned(EVIL)
    assert scene.guard.bans() == []
    assert scene.guard.offences[Offence.ANSWER] == 9


def test_a_score_is_shown_and_fades() -> None:
    scene = Scene()
    scene.guard.blame(EVIL, Offence.ANSWER)
    assert scene.guard.score(EVIL) == 25
    scene.now_s += 600
    assert scene.guard.score(EVIL) == 12
    assert scene.guard.score(GOOD) == 0


def test_our_own_key_is_never_banned() -> None:
    scene = Scene()
    for _ in range(99):
        scene.guard.blame(ME, Offence.FLOOD)
    assert not scene.guard.is_banned(ME)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "192.168.1.9", "172.17.0.1", "100.64.1.1", "fe80::1"]
)
def test_an_address_behind_which_may_be_everybody_answers_for_nothing(host: str) -> None:
    scene = Scene((host,))
    for n in range(20):
        scene.guard.blame_host(host, Offence.GARBAGE)
        scene.ban(bytes([9, n]) * 16)
    assert not scene.guard.is_host_banned(host)
    assert all(ban.peer for ban in scene.guard.bans())


@pytest.mark.parametrize(
    ("host", "same", "other"),
    [(PUBLIC, PUBLIC, NEIGHBOUR), ("2a00:1:2:3::4", "2a00:1:2:3::5", "2a00:1:2:4::4")],
)
def test_a_public_address_is_held_off_for_garbage_and_for_no_longer_than_ten_minutes(
    host: str, same: str, other: str
) -> None:
    scene = Scene()
    for turn in range(8):
        while not scene.guard.is_host_banned(host):
            scene.guard.blame_host(host, Offence.GARBAGE)
        assert scene.guard.is_host_banned(same)
        assert not scene.guard.is_host_banned(other)
        assert scene.guard.bans()[0].left_s == min(60 * 2**turn, 600)
        scene.now_s += 600
        assert not scene.guard.is_host_banned(host)
    assert ADDRESS_BAN_S[1] == 600


def test_one_bad_neighbour_costs_its_household_nothing_and_five_keys_of_it_do() -> None:
    scene = Scene()
    for n in range(4):
        scene.ban(bytes([9, n]) * 16)
        assert not scene.guard.is_host_banned(PUBLIC)
    scene.ban(bytes([9, 9]) * 16)
    assert scene.guard.is_host_banned(PUBLIC)
    assert scene.told[-1] == {"peer_id": encode_peer_id(bytes([9, 9]) * 16)} | {
        "offence": "answer",
        "seconds": 600,
    }
    assert [t for t in scene.told if "address" in t] == [
        {"address": f"{PUBLIC}/32", "offence": "keys", "seconds": 60}
    ]


def test_whom_the_operator_bans_and_forgives() -> None:
    scene = Scene()
    scene.guard.ban(EVIL, 3600)
    assert scene.closed == [EVIL]
    assert scene.guard.bans() == [BanView(EVIL, "", 3600, Offence.OPERATOR, 1)]
    assert not scene.guard.is_host_banned(PUBLIC)
    assert scene.guard.forgive(peer=EVIL)
    assert not scene.guard.is_banned(EVIL)
    assert not scene.guard.forgive(peer=EVIL)
    while not scene.guard.is_host_banned(PUBLIC):
        scene.guard.blame_host(PUBLIC, Offence.GARBAGE)
    assert scene.guard.forgive(host=PUBLIC)
    assert not scene.guard.is_host_banned(PUBLIC)
