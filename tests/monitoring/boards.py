"""The dashboards of deploy/grafana as tests read them, and their queries as Grafana sends them."""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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

Ask = Callable[[str], Sequence[Mapping[str, Any]]]
"""PromQL, with Grafana's variables in it -> `result` of a range query."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What a dashboard marks in its panels: from when to when (Unix times), and with what words."""

    begin_s: float
    end_s: float
    text: str
    colour: str


def load(name: str) -> Json:
    """A dashboard by its file's name."""
    board: Json = json.loads((FOLDER / f"{name}.json").read_text())
    return board


def panels(board: Json) -> list[Json]:
    """Without the headings of rows."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def marks() -> list[tuple[str, str, str]]:
    """Dashboard, name of what it marks and the query for it, of all."""
    return [
        (name, each["name"], each["expr"])
        for name in BOARDS
        for each in load(name)["annotations"]["list"]
    ]


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
    return re.sub(r"\$[a-z_]\w*", lambda match: values[match[0]], query)


def name_series(legend: str, labels: Mapping[str, str]) -> str:
    """The legend with its labels' values."""
    return re.sub(r"{{(\w+)}}", lambda match: labels.get(match[1], ""), legend)


def read_marks(board: Json, ask: Ask, apart_s: float) -> list[Mark]:
    """What is switched on and happened; moments at most so far apart are one, as in Grafana."""
    found = []
    for annotation in board["annotations"]["list"]:
        for result in ask(annotation["expr"]) if annotation["enable"] else ():
            text = name_series(annotation["titleFormat"], result["metric"])
            for begin_s, end_s in _join(_list_moments(annotation, result["values"]), apart_s):
                found.append(Mark(begin_s, end_s, text, annotation["iconColor"]))
    return sorted(found, key=lambda mark: mark.begin_s)


def _list_moments(annotation: Json, values: Sequence[tuple[float, str]]) -> list[float]:
    if annotation["useValueForTime"]:
        return [float(value) / 1000 for _, value in values]
    return [float(moment_s) for moment_s, value in values if float(value) > 0]


def _join(moments_s: Sequence[float], apart_s: float) -> Iterator[tuple[float, float]]:
    """Begin and end of each row of moments that follow one another."""
    begins = [i for i, at_s in enumerate(moments_s) if i == 0 or at_s > moments_s[i - 1] + apart_s]
    for begin, after in itertools.pairwise([*begins, len(moments_s)]):
        yield moments_s[begin], moments_s[after - 1]
