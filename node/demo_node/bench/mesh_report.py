"""What `demo-node bench mesh` found: one document for programs, tables for people."""

import json
import statistics
from collections.abc import Sequence
from typing import Any, Final

from rich.table import Table

from demo_node.bench.machine import describe_machine
from demo_node.bench.mesh import Engine, Propagation, Transfer

SCHEMA: Final = 1
"""Version of the document. Keys are added; none changes its meaning or goes away."""


def compute_ratios(transfers: Sequence[Transfer]) -> dict[str, float]:
    """Bytes a second over those of bare streams in the same turn, medians; processor time too."""
    bare = next((row for row in transfers if row.engine is Engine.BARE), None)
    ratios: dict[str, float] = {}
    for row in transfers:
        if bare is None or row is bare:
            continue
        pairs = list(zip(row.turns, bare.turns, strict=True))
        name = f"{row.engine}/{bare.engine}"
        ratios[name] = statistics.median(ours.mb_per_s / its.mb_per_s for ours, its in pairs)
        if row.cpu_s_per_gb is not None and bare.cpu_s_per_gb:
            ratios[f"{name}, cpu"] = row.cpu_s_per_gb / bare.cpu_s_per_gb
    return ratios


def format_mesh_document(transfers: Sequence[Transfer], propagations: Sequence[Propagation]) -> str:
    """One line of JSON."""
    return json.dumps(
        {
            "schema": SCHEMA,
            "machine": describe_machine(),
            "transfers": [_describe_transfer(row) for row in transfers],
            "ratios": compute_ratios(transfers),
            "headers": [_describe_propagation(row) for row in propagations],
        }
    )


def _describe_transfer(row: Transfer) -> dict[str, Any]:
    return {
        "engine": row.engine,
        "nodes": row.nodes,
        "bytes": row.size,
        "mb_per_s": row.mb_per_s,
        "cpu_s_per_gb": row.cpu_s_per_gb,
        "turns": [{"mb_per_s": t.mb_per_s, "cpu_s_per_gb": t.cpu_s_per_gb} for t in row.turns],
    }


def _describe_propagation(row: Propagation) -> dict[str, Any]:
    return {
        "engine": row.engine,
        "nodes": row.nodes,
        "delay_ms": row.delay_ms,
        "p50_ms": row.p50_ms,
        "p95_ms": row.p95_ms,
        "heard": len(row.times_ms),
        "awaited": row.awaited,
    }


def build_transfer_table(rows: Sequence[Transfer]) -> Table:
    """Bytes and processor time, for a terminal."""
    ratios = compute_ratios(rows)
    table = Table(
        *("engine", "MB/s", "beside bare", "CPU s per GB"),
        caption=f"{rows[0].nodes} nodes, each pulls {rows[0].size / 1e6:g} MB from each other;"
        " all together, medians. The processor's seconds are those of both ends.",
    )
    for row in rows:
        ratio, cpu = ratios.get(f"{row.engine}/{Engine.BARE}"), row.cpu_s_per_gb
        table.add_row(
            row.engine,
            f"{row.mb_per_s:.1f}",
            "-" if ratio is None else f"{ratio:.2f}",
            "-" if cpu is None else f"{cpu:.1f}",
        )
    return table


def build_propagation_table(rows: Sequence[Propagation]) -> Table:
    """When headers are heard, for a terminal."""
    table = Table(
        *("engine", "link, ms", "p50, ms", "p95, ms", "heard"),
        caption="A header, from one node to every other; a link is one way.",
    )
    for row in rows:
        table.add_row(
            row.engine,
            f"{row.delay_ms:g}",
            f"{row.p50_ms:.0f}",
            f"{row.p95_ms:.0f}",
            f"{len(row.times_ms)} of {row.awaited}",
        )
    return table
