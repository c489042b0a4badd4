"""What peers say of dialling back: bounded, checked, judged by networks."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_protocol.answers import decode_dial_back, decode_port, encode_dial_back, encode_port
from demo_protocol.errors import Reject
from demo_protocol.limits import REACH_REPLY_BYTES_MAX
from demo_protocol.pb import wire_pb2
from demo_protocol.reach import DialBack, Judgement, Opinion, Reachability, judge

PORT = 4001
HERE, NEWER = f"/ip4/8.8.8.8/tcp/{PORT}", f"/ip6/2a00:1450::1/tcp/{PORT}"
AT_HOME = f"/ip4/192.168.1.7/tcp/{PORT}"
UNKNOWN, PUBLIC, PRIVATE = Reachability.UNKNOWN, Reachability.PUBLIC, Reachability.PRIVATE


@given(st.integers(1, 65_535))
def test_a_port_round_trips(port: int) -> None:
    assert decode_port(encode_port(port)) == port


@given(st.binary(max_size=8).filter(lambda key: len(key) != 2 or not any(key)))
def test_what_is_no_port_is_rejected(key: bytes) -> None:
    with pytest.raises(Reject):
        decode_port(key)


@pytest.mark.parametrize("reached", [True, False])
@pytest.mark.parametrize("host", ["/ip4/10.0.0.5", "/ip6/2a00:1450::1", "/ip4/127.0.0.1"])
def test_an_answer_round_trips(host: str, reached: bool) -> None:
    found = DialBack(f"{host}/tcp/{PORT}", reached)
    assert decode_dial_back(encode_dial_back(found), PORT) == found


@pytest.mark.parametrize(
    "address",
    [
        "",
        "/ip4/8.8.8.8",
        "/ip4/8.8.8.8/tcp/4002",  # not what was asked for
        "/ip4/8.8.8.8/tcp/04001",
        "/ip4/8.8.8.8/udp/4001",
        "/ip4/8.8.8.8/tcp/4001/p2p/12D3",
        "/ip4/2a00::1/tcp/4001",
        "/ip6/8.8.8.8/tcp/4001",
        "/ip6/2A00::1/tcp/4001",  # one address, one spelling
        "/ip6/fe80::1%lo/tcp/4001\x00",
        "/ip4/0.0.0.0/tcp/4001",
        "/ip4/224.0.0.1/tcp/4001",
        "/dns4/victim.example/tcp/4001",
        "/ip4/08.8.8.8/tcp/4001",
    ],
)
def test_an_address_that_nobody_can_have_dialled_is_rejected(address: str) -> None:
    with pytest.raises(Reject):
        decode_dial_back(encode_dial_back(DialBack(address, reached=True)), PORT)


def test_an_oversize_answer_is_rejected_unread() -> None:
    padded = encode_dial_back(DialBack(HERE, reached=True))
    padded += wire_pb2.Peers(addresses=["x" * REACH_REPLY_BYTES_MAX]).SerializeToString()
    with pytest.raises(Reject, match="too long"):
        decode_dial_back(padded, PORT)


@given(st.binary(max_size=REACH_REPLY_BYTES_MAX + 8))
def test_garbage_is_rejected_or_an_address_to_dial(raw: bytes) -> None:
    try:
        found = decode_dial_back(raw, PORT)
    except Reject:
        return
    assert found.address.endswith(f"/tcp/{PORT}")


def said(*opinions: tuple[str, str, bool]) -> list[Opinion]:
    """Of each a peer of its own: where it is seen, what it dialled, whether it came through."""
    return [
        Opinion(bytes([number]) * 32, f"{seen}/tcp/9", DialBack(address, reached))
        for number, (seen, address, reached) in enumerate(opinions)
    ]


ONE, TWO, THREE = "/ip4/9.1.0.1", "/ip4/9.2.0.1", "/ip4/9.3.0.1"
SIX, LAN, LAN_TOO, ME = "/ip6/2a02::1", "/ip4/192.168.1.2", "/ip4/192.168.1.3", "/ip4/127.0.0.1"


@pytest.mark.parametrize(
    ("opinions", "expected"),
    [
        ([], Judgement(UNKNOWN)),
        ([(ONE, HERE, True)], Judgement(PUBLIC, (HERE,), 1, 1)),
        ([(ONE, HERE, False)], Judgement(PRIVATE, (), 0, 1)),
        # more than half, of networks and not of peers
        ([(ONE, HERE, True), (TWO, HERE, False)], Judgement(PRIVATE, (), 1, 2)),
        (
            [(ONE, HERE, True), (TWO, HERE, True), (THREE, HERE, False)],
            Judgement(PUBLIC, (HERE,), 2, 3),
        ),
        (
            [("/ip4/9.1.0.9", HERE, True), (ONE, HERE, True), (TWO, HERE, False)],
            Judgement(PRIVATE, (), 1, 2),
        ),
        # neighbours reach what nobody else does, and are heard where there are no others
        ([(LAN, AT_HOME, True), (ONE, HERE, False)], Judgement(PRIVATE, (), 0, 1)),
        (
            [(LAN, AT_HOME, True), (LAN_TOO, AT_HOME, True)],
            Judgement(PUBLIC, (AT_HOME,), 2, 2),
        ),
        # who is on the internet cannot have dialled what leads nowhere from there
        ([(ONE, AT_HOME, True)], Judgement(UNKNOWN)),
        ([(ONE, AT_HOME, True), (TWO, HERE, False)], Judgement(PRIVATE, (), 0, 1)),
        # reached by the newer protocol alone, as many homes are
        ([(ONE, HERE, False), (SIX, NEWER, True)], Judgement(PUBLIC, (NEWER,), 1, 1)),
        ([(ONE, HERE, True), (SIX, NEWER, True)], Judgement(PUBLIC, (HERE, NEWER), 2, 2)),
        # two addresses: the one that more came through at
        (
            [
                (ONE, f"/ip4/8.8.4.4/tcp/{PORT}", True),
                (TWO, HERE, True),
                (THREE, HERE, True),
            ],
            Judgement(PUBLIC, (HERE,), 3, 3),
        ),
    ],
)
def test_whether_others_can_dial_us(
    opinions: Sequence[tuple[str, str, bool]], expected: Judgement
) -> None:
    assert judge(said(*opinions)) == expected


def test_a_neighbour_who_lies_cannot_speak_for_the_internet() -> None:
    """Nor does naming an address of the internet make it one of it."""
    lies = said((LAN, HERE, True), (LAN_TOO, HERE, True), (ONE, HERE, False))
    assert judge(lies).reach is PRIVATE
