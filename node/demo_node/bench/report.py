"""The benchmark's result: one document for programs, tables for people."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

from rich.table import Table

from demo_node.bench.machine import describe_machine
from demo_node.bench.train import Outcome
from demo_node.bench.trial import Trial, What
from demo_protocol.manifest import PPB, PPM
from demo_protocol.presets import PRESETS
from demo_protocol.schema import compute_schema

SCHEMA: Final = 1
"""Version of the document. Keys are added; none changes its meaning or goes away."""

TITLES: Final[dict[What, str]] = {
    What.SWARM: "demo-node",
    What.PLAIN: "AdamW alone",
    What.ACCUMULATE: "published DeMo (accumulate)",
    What.AVERAGED: "gradients averaged at every step",
}


@dataclass(frozen=True, slots=True)
class Row:
    """A trial and what its seeds came to, in order."""

    trial: Trial
    outcomes: Sequence[Outcome]

    @property
    def loss(self) -> float:
        """Mean over the seeds."""
        return fmean(outcome.loss for outcome in self.outcomes)

    @property
    def bytes_sent(self) -> float:
        """By one node in one round, everything."""
        return fmean(outcome.bytes_sent for outcome in self.outcomes)


def format_document(rows: Sequence[Row]) -> str:
    """One line of JSON."""
    return json.dumps(
        {
            "schema": SCHEMA,
            "machine": describe_machine(),
            "rows": [_describe(row) for row in rows],
            "ratios": compute_ratios(rows),
        }
    )


def compute_ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Mean losses over each other: every row over the plain machine, larger swarms over smaller."""
    ratios: dict[str, float] = {}
    plain = next((row for row in rows if row.trial.what is What.PLAIN), None)
    if plain is not None:
        for row in rows:
            if row is not plain:
                ratios[f"{row.trial.name}/{plain.trial.name}"] = row.loss / plain.loss
    swarms = sorted(
        (row for row in rows if row.trial.what is What.SWARM), key=lambda row: row.trial.nodes
    )
    for smaller, larger in itertools.pairwise(swarms):
        ratios[f"{larger.trial.name}/{smaller.trial.name}"] = larger.loss / smaller.loss
    return ratios


def build_table(rows: Sequence[Row]) -> Table:
    """All rows, for a terminal."""
    first = rows[0].trial
    table = Table(
        "what",
        "nodes",
        "held-out loss",
        "seeds",
        "sent per node and round",
        caption=f"{first.length.rounds} rounds x {first.length.micro_batches} micro-batches of"
        f" {first.learning.micro_batch} samples on every node; preset {first.preset};"
        " nats per byte, means",
    )
    for row in rows:
        table.add_row(*_cells(row))
    return table


def format_markdown(rows: Sequence[Row]) -> str:
    """The same table, for a README."""
    lines = [
        "| what | nodes | held-out loss | seeds | sent per node and round |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(f"| {' | '.join(_cells(row))} |" for row in rows)])


def _cells(row: Row) -> tuple[str, ...]:
    seeds = ", ".join(f"{outcome.loss:.3f}" for outcome in row.outcomes)
    sent = f"{row.bytes_sent / 1000:,.1f} kB" if row.bytes_sent else "-"
    return TITLES[row.trial.what], str(row.trial.nodes), f"{row.loss:.3f}", seeds, sent


def _describe(row: Row) -> dict[str, Any]:
    trial, learning = row.trial, row.trial.learning
    parameters = compute_schema(PRESETS[trial.preset].model).parameters
    exchanges = trial.what in (What.SWARM, What.ACCUMULATE)
    payload_bytes = fmean(outcome.payload_bytes for outcome in row.outcomes)
    return {
        "what": trial.what,
        "nodes": trial.nodes,
        "rounds": trial.length.rounds,
        "micro_batches_per_node": trial.length.rounds * trial.length.micro_batches,
        "k": learning.k if exchanges else None,
        "loss_mean": row.loss,
        "loss_seeds": [outcome.loss for outcome in row.outcomes],
        "payload_bytes_per_parameter": payload_bytes / parameters,
        "bytes_sent_per_node_per_round": row.bytes_sent,
        "digests_equal": True if exchanges else None,  # a training that ends otherwise fails
        "lr": learning.lr_ppb / PPB if exchanges else None,
        "beta": learning.beta_ppm / PPM if exchanges else None,
        "inner_lr": None if learning.local == "accumulate" else learning.inner_lr_ppb / PPB,
        "micro_batch": learning.micro_batch,
    }
