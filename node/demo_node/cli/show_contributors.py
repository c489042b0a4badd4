"""What each peer has contributed, by the chain: as a line, a table, CSV or a JSON document."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from demo_node.cli.show import SCHEMA, compute_since_ms, format_since, format_table, to_time
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.views import ContributorView, StatusView

COLUMNS: Final = (
    "peer_id",
    "you",
    "standing",
    "rounds",
    "samples",
    "share",
    "first_round",
    "since",
    "last_round",
)
"""Of the CSV, and keys of the JSON document: columns are added at the end, none goes away."""


@dataclass(frozen=True, slots=True)
class Contributors:
    """All peers that the chain knows, most samples first, and whose table it is."""

    status: StatusView
    views: Sequence[ContributorView]


def describe_contributors(contributors: Contributors) -> dict[str, Any]:
    """The document of `rounds --by-peer --json`."""
    return {
        "schema": SCHEMA,
        "peers": [_describe(view, contributors.status) for view in contributors.views],
    }


def format_contributors_csv(contributors: Contributors) -> str:
    """A header row, then one row per peer; `since` is empty before the first contribution."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for view in contributors.views:
        row = _describe(view, contributors.status)
        writer.writerow({**row, "you": "yes" if row["you"] else "no"})
    return text.getvalue().rstrip("\n")


def format_contributors(contributors: Contributors) -> str:
    """One line per peer."""
    if not contributors.views:
        return "no peer is on the chain yet"
    header = ("peer", "", "standing", "rounds", "samples", "share", "since", "last round")
    rows = [_format(view, contributors.status) for view in contributors.views]
    return format_table(header, rows)


def _describe(view: ContributorView, status: StatusView) -> dict[str, Any]:
    since_ms = compute_since_ms(view, status)
    values = (
        encode_peer_id(view.peer),
        view.peer == status.peer,
        view.standing.value,
        view.rounds,
        view.samples,
        round(view.share, 6),
        view.first_round,
        "" if since_ms is None else f"{to_time(since_ms):%Y-%m-%dT%H:%M:%SZ}",
        view.last_round,
    )
    return dict(zip(COLUMNS, values, strict=True))


def _format(view: ContributorView, status: StatusView) -> tuple[str, ...]:
    has_contributed = view.first_round >= 0
    return (
        encode_peer_id(view.peer),
        "you" if view.peer == status.peer else "",
        view.standing.value,
        f"{view.rounds:,}",
        f"{view.samples:,}",
        f"{view.share:.1%}",
        format_since(view, status) if has_contributed else "-",
        str(view.last_round) if has_contributed else "-",
    )
