"""The dashboards of deploy/grafana as tests read them, and their queries as Grafana sends them."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from tests.cli.command import ROOT

FOLDER: Final = ROOT / "deploy" / "grafana" / "dashboards"

BOARDS: Final = ("swarm", "node")

VALUES: Final = {
    "$__rate_interval": "15s",
    "$__interval": "5s",
    "$__range": "60s",
    "$window": "20s",
    "$instance": ".*",
    "$run": ".*",
}
"""What stands for Grafana's variables where no test says otherwise: a short run of short rounds."""

Json = dict[str, Any]


def load(name: str) -> Json:
    """A dashboard by its file's name."""
    board: Json = json.loads((FOLDER / f"{name}.json").read_text())
    return board


def panels(board: Json) -> list[Json]:
    """Without the headings of rows."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def targets() -> list[tuple[str, str, str]]:
    """Dashboard, title of a panel and one of its queries, of all."""
    return [
        (name, panel["title"], target["expr"])
        for name in BOARDS
        for panel in panels(load(name))
        for target in panel["targets"]
    ]


def fill_in(query: str, values: Mapping[str, str] = VALUES) -> str:
    """The query with the variables' values. Raises KeyError for one that nobody knows."""
    return re.sub(r"\$\w+", lambda match: values[match[0]], query)
