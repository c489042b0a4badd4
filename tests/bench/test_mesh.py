"""`demo-node bench mesh`: what is measured, and how it is told."""

import asyncio
import json
import os

import pytest
from click.testing import CliRunner

from demo_node.bench import mesh
from demo_node.bench.mesh import (
    Engine,
    Propagation,
    Transfer,
    Turn,
    connected_nodes,
    measure_propagation,
    take_turn,
)
from demo_node.bench.mesh_report import compute_ratios
from demo_node.cli.bench import ENGINES, bench
from demo_protocol.errors import ConfigError
from tests.needs import needs_hivemind

pytestmark = pytest.mark.timeout(120)


def test_the_command_knows_every_engine() -> None:
    assert tuple(ENGINES) == tuple(Engine)


def test_where_hivemind_is_missing_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = []

    async def transfers(engines: list[Engine], nodes: int, size: int, *_: object) -> object:
        measured.extend(engines)
        return [Transfer(e, nodes, size, [Turn(size, 1.0, None)]) for e in engines]

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(mesh, "measure_transfers", transfers)
    result = CliRunner().invoke(bench, ["mesh", "--engine", "hivemind", "--engine", "bare"])
    assert result.exit_code == 0, result.output
    assert measured == [Engine.BARE]
    assert "hivemind: not run: --mesh hivemind needs hivemind; run: pip" in result.stderr
    with pytest.raises(ConfigError):
        bench(["mesh", "--engine", "hivemind"], standalone_mode=False)


@pytest.mark.parametrize("engine", Engine)
def test_all_get_what_all_others_hold(engine: Engine) -> None:
    if engine is Engine.HIVEMIND:
        needs_hivemind()

    async def main() -> tuple[Turn, Turn]:
        async with connected_nodes(engine, 3) as nodes:
            return await take_turn(nodes, 1000), await take_turn(nodes, 1_000_000)

    small, large = asyncio.run(main())
    assert (small.bytes, large.bytes) == (6_000, 6_000_000)
    assert small.seconds > 0
    assert large.cpu_s is not None
    assert large.cpu_s > 0


def test_a_header_takes_as_long_as_the_link_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh, "HEADERS", 4)
    found = asyncio.run(measure_propagation(Engine.DAEMON, 3, 40))
    assert len(found.times_ms) == found.awaited == 8
    assert min(found.times_ms) >= 40


def test_processor_time_is_that_of_a_session() -> None:
    ours = sum(mesh._list_cpu_s(os.getsid(0)))
    sum(range(3_000_000))
    assert sum(mesh._list_cpu_s(os.getsid(0))) > ours
    assert mesh._list_cpu_s(-1) == []


def test_figures_are_medians_and_ratios_are_those_over_bare_streams() -> None:
    def turns(*seconds: float) -> list[Turn]:
        return [Turn(bytes=1_000_000, seconds=each, cpu_s=each / 10) for each in seconds]

    daemon = Transfer(Engine.DAEMON, 2, 500_000, turns(0.5, 4.0, 1.0))
    bare = Transfer(Engine.BARE, 2, 500_000, turns(0.8, 0.8, 0.8))
    assert daemon.mb_per_s == 1.0
    assert daemon.cpu_s_per_gb == pytest.approx(100.0)
    assert compute_ratios([daemon, bare]) == {
        "daemon/bare": pytest.approx(0.8),  # of 1.6, 0.2 and 0.8: turn by turn
        "daemon/bare, cpu": pytest.approx(1.25),
    }
    assert compute_ratios([daemon]) == {}


def test_later_headers_are_in_the_tail() -> None:
    found = Propagation(Engine.DAEMON, 2, 50, [*[60.0] * 18, 100.0, 400.0], 20)
    assert found.p50_ms == 60
    assert 100 < found.p95_ms <= 400


def test_the_document_and_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    async def transfers(engines: list[Engine], nodes: int, size: int, *_: object) -> object:
        return [Transfer(e, nodes, size, [Turn(size, 1.0, None)]) for e in engines]

    async def propagation(engine: Engine, nodes: int, delay_ms: float) -> Propagation:
        return Propagation(engine, nodes, delay_ms, [delay_ms + 1, delay_ms + 2], 3)

    monkeypatch.setattr(mesh, "measure_transfers", transfers)
    monkeypatch.setattr(mesh, "measure_propagation", propagation)
    result = CliRunner().invoke(bench, ["mesh", "--json", "--nodes", "3", "--delay-ms", "20"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document.keys() == {"schema", "machine", "transfers", "ratios", "headers"}
    assert document["ratios"] == {"daemon/bare": 1.0, "hivemind/bare": 1.0}  # no processor time
    assert [row["engine"] for row in document["transfers"]] == [*ENGINES]
    headers = document["headers"][0]
    assert (headers["delay_ms"], headers["heard"], headers["awaited"]) == (20, 2, 3)
    result = CliRunner().invoke(bench, ["mesh", "--quick"])
    assert result.exit_code == 0, result.output
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    assert "2 of 3" in result.stdout
