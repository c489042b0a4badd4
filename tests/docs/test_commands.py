"""Every command that a page shows is run: here, with less to do, or by the test that needs it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.docs.shell import opened_shell
from tests.pages import PAGES, ROOT, find_lines, find_shell_lines


@dataclass(frozen=True)
class Here:
    """Run by this file: with `less` behind it, or in place of its words `than`; it then `says`."""

    says: str
    less: str = ""
    than: str = ""

    def shorten(self, line: str) -> str:
        """The command that is over in seconds."""
        assert self.than in line
        return line.replace(self.than, self.less) if self.than else f"{line} {self.less}"


@dataclass(frozen=True)
class There:
    """Run by that file, which has it from the page, or has the very words."""

    file: str

    def runs(self, line: str) -> bool:
        """Does it?"""
        text = (ROOT / self.file).read_text()
        return line in text or any(
            find_lines(shown, beginning) == [line]
            for beginning in re.findall(r'take_line\([\w"./]+, (?:"|\')(.+?)(?:"|\')\)', text)
            for shown in map(find_shell_lines, TEXTS)
        )


CI: Final = There(".ci/run")
FIRST_NODE: Final = There("tests/docs/test_first_node.py")
JOINING: Final = There("tests/e2e/test_joining.py")
SIMULATION: Final = There("tests/simulate/test_readme.py")
STACK: Final = There("tests/containers/test_stack.py")
WATCHING: Final = There("tests/monitoring/test_watching.py")

TWO: Final = "--nodes 2 --rounds 3 --round-seconds 2 --train-percent 25"
AGREED: Final = "nodes hold the same"
FILE: Final = "tests/scenarios/quiet.toml"

RUN: Final[dict[str, Here | There]] = {
    # README.md, CONTRIBUTING.md
    "make swarm": Here(AGREED, f'ARGS="{TWO}"'),
    "make setup": CI,
    "make check": CI,
    "make test": CI,
    "source .venv/bin/activate": There("tests/docs/shell.py"),
    "demo-node init --preset tiny --round-seconds 10": FIRST_NODE,
    "demo-node start": FIRST_NODE,
    "demo-node status": FIRST_NODE,
    "demo-node simulate --nodes 30 --rounds 60 --seed 7": SIMULATION,
    'make swarm ARGS="--rounds 200 --keep /tmp/swarm': WATCHING,
    "prometheus --config.file=deploy/prometheus/swarm.yml": WATCHING,
    ".venv/bin/demo-node top --datadir /tmp/swarm/node0": WATCHING,
    # docs/benchmarks.md
    "demo-node bench swarm --json": Here('"schema": 1', "--quick --rounds 2 --only plain"),
    "demo-node bench semantics --json": Here(
        '"ratios"', "--seeds 1 --nodes 1 --rounds 1 --micro-batches 1 --only exact"
    ),
    "demo-node bench codec --turns 3 --json": Here('"schema": 1', "--params 1M --peers 4"),
    "demo-node bench mesh --json": Here('"daemon/bare"', "--quick --nodes 2 --bytes 10000"),
    "python -m tests.sim.link_rates": Here(
        "| by the uplink | 100 Mbit/s |", "--seeds 1 --rounds 6 --each 1"
    ),
    "python -m tests.e2e.join_run": JOINING,
    "python -m tests.wan.nat_run --rounds 60": There("tests/wan/nat_run.py"),
    "python -m tests.wan.story": There("tests/wan/story.py"),
    'make swarm ARGS="--kill-every 15 --seed 5 --json"': There("tests/e2e/test_kills.py"),
    "demo-node swarm --scenario tests/scenarios/kills-and-joins.toml --json": Here(
        '"digests_equal": true', "--nodes 3 --rounds 9 --round-seconds 2 --train-percent 25"
    ),
    "python -m tests.e2e.loop_run": Here("| came late |", "--rounds 1"),
    "python -m tests.node.spread": Here("| 1 | 100,000 | 2 |", "--quick"),
    "pytest tests/node/test_scale.py": Here(" passed", "-q"),
    # docs/containers.md
    "docker compose -f deploy/compose.yaml up --scale node=3": There("tests/containers/stack.py"),
    "docker compose -f deploy/compose.yaml exec bootstrap demo-node status": STACK,
    "docker compose -f deploy/compose.yaml exec --index 2 node demo-node top": STACK,
    "docker compose -f deploy/compose.yaml -f deploy/gpu.yaml up": STACK,
    "PEERS=/ip4/203.0.113.7/tcp/4001/p2p/12D3Koo...": STACK,
    # docs/decisions/header-bundles.md
    "python -m tests.mesh.gossip_costs": Here("| received | 1 |", "--quick"),
    "python -m tests.mesh.gossip_costs 100": Here("| received | 1 |", "--quick"),
    # docs/operating.md
    "demo-node init --datadir ~/calmer --from": FIRST_NODE,
    "demo-node start --datadir ~/calmer": FIRST_NODE,
    "pip install 'demo-node[otel]'": Here(
        "Would install", "--dry-run --no-build-isolation '.[otel]'", "'demo-node[otel]'"
    ),
    "demo-node start --trace-endpoint http://localhost:4318 --trace-every 10": FIRST_NODE,
    "prometheus --config.file=deploy/prometheus/prometheus.yml": WATCHING,
    "prometheus-alertmanager --config.file=deploy/alertmanager/alertmanager.yml": WATCHING,
    # docs/scale.md, docs/scenarios.md, docs/simulator.md
    "demo-node simulate --nodes N --rounds 6 --contributors C": Here(
        '"violations": 0',
        "--nodes 20 --rounds 6 --contributors 4",
        "--nodes N --rounds 6 --contributors C",
    ),
    "demo-node simulate --nodes N --rounds 20 --contributors C": Here(
        '"violations": 0',
        "--nodes 20 --rounds 6 --contributors 4",
        "--nodes N --rounds 20 --contributors C",
    ),
    "python -m tests.simulate.machine_costs": Here("| 10 | 32 |", "10"),
    "demo-node simulate --scenario FILE": Here("all held", FILE, "FILE"),
    "demo-node swarm --scenario FILE": Here(AGREED, f"{FILE} {TWO}", "FILE"),
    "demo-node simulate": Here("all held", "--nodes 10 --rounds 20"),
    "demo-node simulate --nodes 30 --rounds 40 --seed 7": Here("all held"),
    "demo-node simulate --nodes 8 --rounds 30 --learner real": Here(
        "all held", "--rounds 2", "--rounds 30"
    ),
    "demo-node simulate --seeds 1..200 --jobs 2 --json": Here(
        '"violations": 0', "1..2 --nodes 5 --rounds 5", "1..200"
    ),
}
"""By the command, or by how it begins."""

TEXTS: Final = [page.read_text() for page in PAGES]

SHOWN: Final = sorted({line for text in TEXTS for line in find_shell_lines(text)})


def find_run(line: str) -> str:
    """The entry of RUN: the longest that the line begins with."""
    return max((begin for begin in RUN if line.startswith(begin)), key=len, default="")


@pytest.mark.parametrize("line", SHOWN)
def test_a_test_runs_it(line: str) -> None:
    assert find_run(line), "nothing runs it: see RUN"
    how = RUN[find_run(line)]
    assert isinstance(how, Here) or how.runs(line), f"{how.file} does not run it"


def test_each_entry_is_for_one_line_that_a_page_shows() -> None:
    assert sorted(map(find_run, SHOWN)) == sorted(RUN)


@pytest.mark.swarm
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("line", [one for one in SHOWN if isinstance(RUN.get(find_run(one)), Here)])
def test_it_does_what_the_page_says(line: str, tmp_path: Path) -> None:
    how = RUN[find_run(line)]
    assert isinstance(how, Here)
    with opened_shell(tmp_path / "home") as shell:
        assert how.says in shell.run(how.shorten(line), timeout_s=200)
