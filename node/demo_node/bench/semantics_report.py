"""What `bench semantics` found: one document for programs, a table for people."""

import json
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from demo_node.bench.machine import describe_machine
from demo_node.bench.report import SCHEMA
from demo_node.bench.semantics import PRESET, SIDES, Comparison, Row, Side
from demo_protocol.manifest import PPB, PPM

COLUMNS = ("comparison", "side", "learning rate", "held-out loss", "seeds", "best")


def format_document(rows: Sequence[Row]) -> str:
    """One line of JSON."""
    best = find_best(rows)
    return json.dumps(
        {
            "schema": SCHEMA,
            "machine": describe_machine(),
            "rows": [_describe(row, best) for row in rows],
            "ratios": compute_ratios(rows),
        }
    )


def find_best(rows: Sequence[Row]) -> dict[tuple[Comparison, Side], Row]:
    """Of each side of each comparison, the learning rate with the lowest loss."""
    best: dict[tuple[Comparison, Side], Row] = {}
    for row in rows:
        side = (row.setting.comparison, row.setting.side)
        if side not in best or row.loss < best[side].loss:
            best[side] = row
    return best


def compute_ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Our best loss over the other side's, by comparison: above 1, ours costs something."""
    best = find_best(rows)
    return {
        comparison: best[comparison, ours].loss / best[comparison, theirs].loss
        for comparison, (ours, theirs) in SIDES.items()
        if (comparison, ours) in best
    }


def find_edges(rows: Sequence[Row]) -> list[str]:
    """Names of the best rows whose learning rate is the lowest or highest that was tried.

    Such a side might do better still with another one: the comparison is not fair.
    """
    edges = []
    for (comparison, side), row in find_best(rows).items():
        tried = [
            other.setting.trial.learning.lr_ppb
            for other in rows
            if (other.setting.comparison, other.setting.side) == (comparison, side)
        ]
        if row.setting.trial.learning.lr_ppb in (min(tried), max(tried)):
            edges.append(row.setting.name)
    return edges


def build_table(rows: Sequence[Row]) -> Table:
    """All rows, for a terminal."""
    trial = rows[0].setting.trial
    table = Table(
        *COLUMNS,
        caption=f"{trial.nodes} nodes, {trial.length.rounds} rounds x"
        f" {trial.length.micro_batches} micro-batches of {trial.learning.micro_batch} samples on"
        f" every node; preset {PRESET}; nats per byte, means",
    )
    best = find_best(rows)
    for row in rows:
        learning = row.setting.trial.learning
        table.add_row(
            row.setting.comparison,
            row.setting.side,
            f"{learning.lr_ppb / PPB:g}",
            f"{row.loss:.4f}",
            ", ".join(f"{loss:.4f}" for loss in row.losses),
            "yes" if row in best.values() else "",
        )
    return table


def _describe(row: Row, best: dict[tuple[Comparison, Side], Row]) -> dict[str, Any]:
    setting, learning = row.setting, row.setting.trial.learning
    return {
        "comparison": setting.comparison,
        "side": setting.side,
        "nodes": setting.trial.nodes,
        "rounds": setting.trial.length.rounds,
        "micro_batches_per_node": setting.trial.length.rounds * setting.trial.length.micro_batches,
        "k": learning.k,
        "lr": learning.lr_ppb / PPB,
        "beta": learning.beta_ppm / PPM,
        "loss_mean": row.loss,
        "loss_seeds": list(row.losses),
        "best": row is best[setting.comparison, setting.side],
    }
