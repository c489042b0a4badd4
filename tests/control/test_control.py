import asyncio
import math
import stat
from pathlib import Path
from typing import Any, cast

import pytest

from demo_node.control.address import SOCKET_PATH_BYTES_MAX, prepare_socket_folder, socket_path
from demo_node.control.client import (
    REPLY_BYTES_MAX,
    ControlClient,
    NotRunning,
    OtherVersion,
    Refused,
    control_client,
)
from demo_node.control.convert import decode, encode
from demo_node.control.pb import control_pb2 as pb
from demo_node.control.pb.control_pb2_grpc import ControlServicer
from demo_node.control.requests import RequestCounts
from demo_node.control.service import ROUNDS_AT_ONCE, ROUNDS_MAX, ControlService, control_server
from demo_node.views import (
    DigestVerdict,
    NodeState,
    Outcome,
    Phase,
    PhaseView,
    RoundView,
    Standing,
    StatusView,
    SwarmPeersView,
)
from demo_protocol.errors import ConfigError
from tests.control.fake_node import (
    HEALTH,
    PEER,
    SWARM,
    FakeOperations,
    round_view,
    status_view,
    swarm_peer_view,
)
from tests.waiting import wait_until


@pytest.mark.parametrize("state", NodeState)
@pytest.mark.parametrize("phase", Phase)
def test_a_status_survives_the_wire(state: NodeState, phase: Phase) -> None:
    view = status_view(state=state, phase=phase, round=-3, snapshot_path="/a/b")
    assert decode(encode(view, pb.Status), StatusView) == view


@pytest.mark.parametrize("outcome", Outcome)
def test_a_round_survives_the_wire(outcome: Outcome) -> None:
    view = round_view(9, outcome=outcome, included=False)
    assert decode(encode(view, pb.Round), RoundView) == view


@pytest.mark.parametrize("standing", Standing)
@pytest.mark.parametrize("digest", DigestVerdict)
def test_a_swarm_survives_the_wire(standing: Standing, digest: DigestVerdict) -> None:
    peer = swarm_peer_view(standing=standing, digest=digest, connected=False, held=False)
    view = SwarmPeersView(peers=(swarm_peer_view(b"\7" * 32), peer), known=700, now_ms=5)
    assert decode(encode(view, pb.ListSwarmReply), SwarmPeersView) == view
    unheard_of = swarm_peer_view(loss=math.nan, heard_round=-1)
    view = SwarmPeersView(peers=(unheard_of,), known=1, now_ms=0)
    (unheard,) = decode(encode(view, pb.ListSwarmReply), SwarmPeersView).peers
    assert math.isnan(unheard.loss)
    assert unheard.heard_round == -1


def test_the_client_sees_what_the_operations_say(tmp_path: Path) -> None:
    operations = FakeOperations()

    async def ask(client: ControlClient) -> None:
        assert await client.status() == operations.view
        assert await client.peers() == [PEER]
        assert await client.swarm() == SWARM
        assert await client.health() == HEALTH
        assert [view.round for view in await client.rounds(limit=2)] == [5, 6]
        assert len(await client.rounds()) == 7
        assert await client.evaluate() == 2.25
        assert await client.evaluate(b"\1" * 32) == math.log(256)
        assert await client.sample(3) == b"\xffaa"
        await client.drain()
        assert operations.drained

    asyncio.run(_with_node(tmp_path, operations, ask))


def test_what_the_node_refuses_is_told(tmp_path: Path) -> None:
    async def ask(client: ControlClient) -> None:
        with pytest.raises(Refused, match="not held any more"):
            await client.evaluate(b"\xff" * 32)
        with pytest.raises(Refused, match="being restarted"):
            await client.save_snapshot()
        with pytest.raises(Refused, match="length must be"):
            await client.sample(0)

    asyncio.run(_with_node(tmp_path, FakeOperations(), ask))


def test_a_node_of_another_version_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ControlService, "GetHealth", ControlServicer.GetHealth)

    async def ask(client: ControlClient) -> None:
        assert (await client.status()).pid == 4242
        with pytest.raises(OtherVersion, match="start it again"):
            await client.health()

    asyncio.run(_with_node(tmp_path, FakeOperations(), ask))


def test_every_request_is_counted_once_by_what_came_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, operations = RequestCounts(), FakeOperations()

    def figures() -> dict[tuple[str, ...], float]:
        return {figure.labels: figure.value for figure in counts.figures()}

    async def ask(client: ControlClient) -> None:
        for _ in range(3):
            await client.status()
        async with control_client(tmp_path) as watcher:
            async for _view in watcher.watch(interval_ms=50):
                break
        await wait_until(lambda: figures() == {("ok",): 4})
        with pytest.raises(Refused, match="not held any more"):
            await client.evaluate(b"\xff" * 32)
        with pytest.raises(Refused, match="length must be"):
            await client.sample(0)
        assert figures() == {("ok",): 4, ("refused",): 2}
        monkeypatch.setattr(operations, "peers", lambda: 1 / 0)
        with pytest.raises(Refused):
            await client.peers()
        assert figures() == {("ok",): 4, ("refused",): 2, ("failed",): 1}

    asyncio.run(_with_node(tmp_path, operations, ask, counts))


def test_a_long_list_of_rounds_comes_whole_and_lets_others_have_their_turn(tmp_path: Path) -> None:
    operations = FakeOperations()
    views = [round_view(number) for number in range(ROUNDS_AT_ONCE * 5 + 1)]
    operations.rounds = lambda limit: views[-limit:]  # type: ignore[method-assign]

    async def ask(_client: ControlClient) -> None:
        asked = asyncio.create_task(
            ControlService(operations).ListRounds(
                pb.ListRoundsRequest(limit=10_000), cast("Any", None)
            )
        )
        turns = 0
        while not asked.done():
            turns += 1
            await asyncio.sleep(0)
        assert turns > 5
        assert [decode(message, RoundView) for message in (await asked).rounds] == views

    asyncio.run(_with_node(tmp_path, operations, ask))


def test_the_longest_reply_comes_whole(tmp_path: Path) -> None:
    operations = FakeOperations()
    most = (1 << 63) - 1
    phases = tuple(PhaseView(p, most, most, most) for p in Phase if p is not Phase.NONE)
    amounts = ("latency_ms", "exchange_ms", "train_ms", "samples", "tokens", "steps")
    bytes_ = ("payload_bytes", "bytes_in", "bytes_out")
    longest = round_view(6, phases=phases, **dict.fromkeys((*amounts, *bytes_), most))
    operations.rounds = lambda limit: [longest] * limit  # type: ignore[method-assign]

    async def ask(client: ControlClient) -> None:
        views = await client.rounds(limit=2 * ROUNDS_MAX)
        assert len(views) == ROUNDS_MAX
        assert views[0] == views[-1] == longest
        reply = pb.ListRoundsReply(rounds=[encode(longest, pb.Round)] * ROUNDS_MAX)
        assert 2 * reply.ByteSize() < REPLY_BYTES_MAX

    asyncio.run(_with_node(tmp_path, operations, ask))


def test_watch_tells_changes_only(tmp_path: Path) -> None:
    operations = FakeOperations()
    operations.view = status_view(loss=math.nan)

    async def ask(client: ControlClient) -> None:
        seen: list[int] = []
        async for view in client.watch(interval_ms=50):
            seen.append(view.round)
            if len(seen) == 3:
                break
            operations.view = status_view(loss=math.nan, round=view.round + 1)
        assert seen == [7, 8, 9]

    asyncio.run(_with_node(tmp_path, operations, ask))


def test_only_the_owner_may_open_the_socket(tmp_path: Path) -> None:
    async def ask(_: ControlClient) -> None:
        path = socket_path(tmp_path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    asyncio.run(_with_node(tmp_path, FakeOperations(), ask))
    assert not socket_path(tmp_path).exists()


def test_a_socket_left_by_a_killed_node_is_replaced(tmp_path: Path) -> None:
    path = socket_path(tmp_path)
    prepare_socket_folder(path)
    path.touch()

    async def ask(client: ControlClient) -> None:
        assert (await client.status()).pid == 4242

    asyncio.run(_with_node(tmp_path, FakeOperations(), ask))


@pytest.mark.parametrize("stale", [False, True])
def test_no_node_is_exit_code_69(tmp_path: Path, stale: bool) -> None:
    if stale:
        prepare_socket_folder(socket_path(tmp_path))
        socket_path(tmp_path).touch()

    async def ask() -> None:
        async with control_client(tmp_path) as client:
            await client.status()

    with pytest.raises(NotRunning, match="no node is running") as caught:
        asyncio.run(ask())
    assert caught.value.exit_code == 69


def test_a_long_data_folder_gets_a_short_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 120)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert socket_path(deep).parent == Path("/run/user/1000/demo-node")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    short = socket_path(deep)
    assert len(str(short)) <= SOCKET_PATH_BYTES_MAX
    assert short != socket_path(tmp_path / ("y" * 120))


def test_a_socket_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="belongs to someone else"):
        prepare_socket_folder(socket_path(tmp_path))


async def _with_node(
    datadir: Path, operations: FakeOperations, ask: object, counts: RequestCounts | None = None
) -> None:
    assert callable(ask)
    async with control_server(datadir, operations, counts), control_client(datadir) as client:
        await asyncio.wait_for(ask(client), 20)
