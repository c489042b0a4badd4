"""Makes docs/img/dashboard-swarm.png and docs/img/dashboard-node.png.

    python -m tests.monitoring.pictures [--keep FOLDER]
        Four real nodes train for about four minutes under a real Prometheus. In the middle one of
        them is killed and comes back; later another one sends unsound payloads for a while.

    python -m tests.monitoring.pictures --prometheus URL --begin UNIX_S --end UNIX_S --node NAME
        The same two pictures of what an existing Prometheus has seen.

They are drawn by matplotlib from the dashboards' JSON: no Grafana is needed, and none is shown.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from tests.cli.command import ROOT
from tests.e2e.nodes import RunningNode, make_run, started
from tests.monitoring.boards import BOARDS, VALUES, Ask, fill_in, load
from tests.monitoring.draw import Span, draw
from tests.monitoring.faulty_node import FAULTS_FOLDER, Fault, planted
from tests.monitoring.stack import ask, running_prometheus

IMAGES: Final = ROOT / "docs" / "img"

NAMES: Final = ("alder", "birch", "cedar", "dogwood")
ROUND_S: Final = 5

GENESIS_S: Final = 45
"""From opening the run to its genesis: by then all four are up."""

KILLED_AT_S, BACK_AT_S, UNSOUND_AT_S, SOUND_AT_S, END_AT_S = 115.0, 145.0, 185.0, 200.0, 230.0
"""Seconds from the start of the first node."""

STEP_S: Final = 2.0

WINDOWS: Final = {"$window": "30s", "$__rate_interval": "15s", "$__interval": "2s"}
"""Six rounds, and fifteen scrapes. A reader of a real run chooses the first one."""

NOWHERE: Final = "http://127.0.0.1:9"
"""There is no Alertmanager."""


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave all data there")
    parser.add_argument("--prometheus", metavar="URL")
    parser.add_argument("--begin", type=float, metavar="UNIX_S")
    parser.add_argument("--end", type=float, metavar="UNIX_S")
    parser.add_argument("--node", default=NAMES[-1], help="which one the Node dashboard shows")
    chosen = parser.parse_args()
    if chosen.prometheus:
        draw_all(chosen.prometheus, Span(chosen.begin, chosen.end, STEP_S), chosen.node)
        return
    with (
        tempfile.TemporaryDirectory() as name,
        watched_story(chosen.keep or Path(name)) as (prometheus, span),
    ):
        draw_all(prometheus, span, chosen.node)


def draw_all(prometheus: str, span: Span, node: str) -> None:
    """Both pictures."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, instances in zip(BOARDS, (".*", node), strict=True):
        chosen = "All" if instances == ".*" else instances
        subtitle = f"Node: {chosen}   Look back: {WINDOWS['$window']}"
        asked = make_ask(prometheus, span, {"$instance": instances})
        draw(load(name), asked, span, subtitle, IMAGES / f"dashboard-{name}.png")


def make_ask(prometheus: str, span: Span, values: Mapping[str, str]) -> Ask:
    """Range queries over that span, with the variables filled in."""

    def ask_range(query: str) -> Sequence[Mapping[str, Any]]:
        answer = ask(
            prometheus,
            "/api/v1/query_range",
            query=fill_in(query, {**VALUES, **WINDOWS, **values}),
            start=str(span.begin_s),
            end=str(span.end_s),
            step=str(span.step_s),
        )
        found: Sequence[Mapping[str, Any]] = answer["result"]
        return found

    return ask_range


@contextlib.contextmanager
def watched_story(folder: Path) -> Iterator[tuple[str, Span]]:
    """A swarm to which things happen. Yields, at its end, Prometheus and what it has watched."""
    (folder / "prometheus" / "targets").mkdir(parents=True)
    begin_s = time.time()
    with (
        running_prometheus(folder / "prometheus", [], NOWHERE) as prometheus,
        contextlib.ExitStack() as lasting,
        contextlib.ExitStack() as killed,
    ):
        stacks = dict.fromkeys(NAMES, lasting) | {NAMES[-1]: killed}
        genesis = datetime.now(UTC) + timedelta(seconds=GENESIS_S)
        line = ("--name", "orchard", "--genesis", genesis.isoformat())
        (folder / NAMES[0]).mkdir()
        make_run(folder / NAMES[0] / "data", *line, "--round-seconds", str(ROUND_S))
        nodes: dict[str, RunningNode] = {}
        for name in NAMES:
            invitation = nodes[NAMES[0]].invitation() if nodes else ["start"]
            nodes[name] = stacks[name].enter_context(start(folder, name, *invitation))
            let_scrape(folder, nodes)
        sleep_until(begin_s + KILLED_AT_S)
        killed.close()
        sleep_until(begin_s + BACK_AT_S)
        nodes[NAMES[-1]] = killed.enter_context(start(folder, NAMES[-1], "start"))
        let_scrape(folder, nodes)
        sleep_until(begin_s + UNSOUND_AT_S)
        with planted(folder / NAMES[1], Fault.UNSOUND):
            sleep_until(begin_s + SOUND_AT_S)
        sleep_until(begin_s + END_AT_S)
        yield prometheus, Span(begin_s, time.time(), STEP_S)


def start(
    folder: Path, name: str, *arguments: str
) -> contextlib.AbstractContextManager[RunningNode]:
    """A node that can be made to send unsound payloads."""
    environment = {"PYTHONPATH": str(ROOT), FAULTS_FOLDER: str(folder / name)}
    command = (sys.executable, "-m", "tests.monitoring.faulty_node")
    return started(folder / name / "data", *arguments, command=command, **environment)


def let_scrape(folder: Path, nodes: Mapping[str, RunningNode]) -> None:
    """Tell Prometheus where the nodes' metrics are; it calls them by their names."""
    targets = [
        {
            "targets": [urllib.parse.urlsplit(node.metrics_url()).netloc],
            "labels": {"instance": name},
        }
        for name, node in nodes.items()
    ]
    path = folder / "prometheus" / "targets" / "nodes.json"
    path.with_suffix(".new").write_text(json.dumps(targets))
    path.with_suffix(".new").rename(path)


def sleep_until(moment_s: float) -> None:
    """The story has its times; nothing is waited for here."""
    time.sleep(max(0.0, moment_s - time.time()))


if __name__ == "__main__":
    main()
