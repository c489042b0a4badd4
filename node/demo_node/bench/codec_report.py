"""What `demo-node bench codec` found: one document for programs, a table for people."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from rich.table import Table

from demo_node.bench.codec import Row
from demo_node.bench.machine import describe_machine

SCHEMA: Final = 1
"""Version of the document. Keys are added; none changes its meaning or goes away."""


def format_codec_document(rows: Sequence[Row], bytes_per_parameter: Mapping[int, float]) -> str:
    """One line of JSON."""
    return json.dumps(
        {
            "schema": SCHEMA,
            "machine": describe_machine(),
            "rows": [_describe(row) for row in rows],
            "bytes_per_parameter": {str(k): size for k, size in bytes_per_parameter.items()},
        }
    )


def _describe(row: Row) -> dict[str, Any]:
    return {**asdict(row), "ratio": row.ratio}


def build_codec_table(rows: Sequence[Row]) -> Table:
    """For a terminal of 80 columns: milliseconds, and what part they are of the plain form's."""
    table = Table(
        *("model", "peers", "path", "encode", "a peer", "apply", "total", "plain", "ratio"),
        caption="Milliseconds of one thread's processor time, the best of some turns. Plain:"
        " published DeMo, tensor by tensor. --json has more.",
    )
    for row in rows:
        _, *cells = format_cells(row)
        table.add_row(f"{row.params / 1e6:.0f} M", *cells[:8])
    return table


def format_codec_markdown(rows: Sequence[Row]) -> str:
    """The same table, for a document."""
    lines = [
        "| parameters | peers | path | encode | a further peer | apply | total, ms | plain, ms"
        " | ratio | exact inverse over plain | extra memory, in parameters |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(f"| {' | '.join(format_cells(row))} |" for row in rows)])


def format_cells(row: Row) -> tuple[str, ...]:
    """One row's."""
    ours, fp32 = row.ours_ms, 4
    extra = row.peak_extra_bytes
    return (
        f"{row.params:,}",
        str(row.peers),
        row.path,
        f"{ours.encode:.1f}",
        f"{ours.decode_per_peer:.2f}",
        f"{ours.apply:.1f}",
        f"{ours.total:.1f}",
        f"{row.plain_ms.total:.1f}",
        f"{row.ratio:.2f}",
        f"{row.inverse_ratio:.2f}",
        "-" if extra is None else f"{extra / row.params / fp32:.2f}",
    )
