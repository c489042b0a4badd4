"""A swarm's result, as a table and a sentence for people and as one document for programs."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from demo_node.cli.quantile import compute_quantile
from demo_node.cli.show import SCHEMA, format_bytes
from demo_node.cli.swarm.measure import (
    DENSE_BYTES_PER_PARAMETER,
    SAMPLE_BYTES,
    SwarmReport,
)
from demo_node.cli.swarm.outcomes import FaultOutcome
from demo_node.sim.scenario import Do


def format_document(report: SwarmReport) -> str:
    """One line of JSON. Keys are added; none changes its meaning or goes away."""
    document = {
        "schema": SCHEMA,
        "nodes": len(report.nodes),
        "rounds": report.rounds,
        "rounds_completed": report.records,
        "digests_equal": report.digests_equal,
        "loss_first": report.loss_first,
        "loss_last": report.loss_last,
        "participants_median": report.participants_median,
        "payload_bytes_per_parameter": report.payload_bytes / report.parameters,
        "bytes_sent_per_node_per_round": report.bytes_sent_per_node_per_round,
        "round_latency_p50_s": compute_quantile(report.round_latencies_s, 0.5),
        "round_latency_p95_s": compute_quantile(report.round_latencies_s, 0.95),
        "exchange_p95_s": compute_quantile(report.exchanges_s, 0.95),
        "train_share": report.train_share,
        "pids": [node.pid for node in report.nodes],
        "links": [list(link) for link in report.links],
        "kills": report.kills,
        "joins": report.joins,
        "stalls": report.stalls,
        "replayed_rounds": report.replayed_rounds,
        "faults": [asdict(outcome) for outcome in report.outcomes],
        "scenario": report.scenario,
        "nodes_started": report.started,
        "leaves": len(report.get_outcomes(Do.LEAVE)),
        "cuts": len(report.get_outcomes(Do.CUT)),
        "heals": [{"round": heal.round, "agreed_s": heal.agreed_s} for heal in report.heals],
        "held": report.held,
        "rollbacks": report.rollbacks,
    }
    finite = {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in document.items()
    }
    return json.dumps(finite)


def print_report(report: SwarmReport, console: Console) -> None:
    """The table, the sampled text, and one sentence anyone understands."""
    table = Table(show_header=False)
    for name, text in _rows(report):
        table.add_row(name, text)
    console.print(table)
    console.print(f"\n{SAMPLE_BYTES} bytes of text, {_describe_texts(report)}:")
    console.print(_make_printable(report.nodes[0].text), style="dim", markup=False, highlight=False)
    console.print()
    console.print(format_sentence(report), highlight=False, soft_wrap=True)


def format_sentence(report: SwarmReport) -> str:
    """What a run is about, in one sentence."""
    states = [node.state for node in report.nodes]
    held = max(set(states), key=states.count)
    return (
        f"{states.count(held)} of {len(states)} nodes hold the same {held.parameters:,} parameters"
        f" after {report.rounds} rounds (digest {held.digest.hex()})"
    )


def _rows(report: SwarmReport) -> list[tuple[str, str]]:
    dense = report.parameters * DENSE_BYTES_PER_PARAMETER
    change = (report.loss_last / report.loss_first - 1) * 100
    share = report.payload_bytes / report.parameters
    return [
        (
            "held-out loss, nats per byte",
            f"{report.loss_first:.3f} at genesis, {report.loss_last:.3f} at the last record"
            f" ({change:+.0f} %)",
        ),
        ("records", f"{report.records} in {report.rounds} rounds"),
        ("participants", f"{report.participants_median:g} of {len(report.nodes)} (median)"),
        (
            "payload per node and round",
            f"{format_bytes(report.payload_bytes)} ({share:.4f} bytes per parameter);"
            f" dense fp32 {format_bytes(dense)}",
        ),
        (
            "sent per node and round",
            f"{format_bytes(report.bytes_sent_per_node_per_round)} (all that left its sockets)",
        ),
        ("round latency", _format_quantiles(report.round_latencies_s)),
        ("exchange time", _format_quantiles(report.exchanges_s)),
        ("train share", f"{report.train_share:.2f} of the time"),
        *_fault_rows(report),
    ]


def _fault_rows(report: SwarmReport) -> list[tuple[str, str]]:
    """None where nobody was hurt."""
    rows = [
        (name, f"{len(outcomes)}; {_format_losses(outcomes, back)}")
        for kind, name, back in (
            (Do.KILL, "nodes killed", "took part again"),
            (Do.POWER_CUT, "power cuts", "took part again"),
            (Do.TRAINER_DIES, "trainers killed", "another one"),
            (Do.STOP, "nodes stopped", "ran again"),
            (Do.LEAVE, "nodes that left", "took part again"),
            (Do.JOIN, "new nodes", "took part"),
            (Do.CUT, "cuts", "healed"),
        )
        if (outcomes := report.get_outcomes(kind))
    ]
    for heal in report.heals:
        agreed = "never" if heal.agreed_s is None else f"{heal.agreed_s:.1f} s later"
        rows.append((f"heal in round {heal.round}", f"all nodes on one record {agreed}"))
    if report.heals:
        rows.append(("rollbacks", f"{report.rollbacks}, all nodes together"))
    if report.get_outcomes(Do.KILL):
        text = f"{report.replayed_rounds} by killed nodes, {report.joins} of which came back"
        rows += [
            ("replayed rounds", text),
            ("times and shares", "of all processes of a node; without the rounds it replayed"),
        ]
    return rows


def _format_losses(outcomes: Sequence[FaultOutcome], back: str) -> str:
    """How long the victims were away and what it cost them, half of them and at most."""
    seconds = [outcome.back_s for outcome in outcomes if outcome.back_s is not None]
    lost = [outcome.rounds_lost for outcome in outcomes]
    when = (
        f"{back} after {statistics.median(seconds):.1f} s (median), {max(seconds):.1f} s (most)"
        if seconds
        else "none came back"
    )
    return f"{when}; rounds lost {statistics.median(lost):g} (median), {max(lost)} (most)"


def _format_quantiles(ordered: Sequence[float]) -> str:
    p50, p95 = compute_quantile(ordered, 0.5), compute_quantile(ordered, 0.95)
    return f"p50 {p50:.2f} s, p95 {p95:.2f} s"


def _describe_texts(report: SwarmReport) -> str:
    if report.texts_equal:
        return f"the same from all {len(report.nodes)} nodes"
    return "from node 0; others generated other text"


def _make_printable(text: bytes) -> str:
    """Text as it is, except for what would confuse a terminal."""
    decoded = text.decode(errors="replace")
    return "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in decoded
    )
