"""The sections of the screen, each a few lines: pure functions of a reading and its figures."""

import math
from collections.abc import Sequence
from typing import Final

from rich.text import Text

from demo_node.cli.lately import find_remedy, find_warnings, format_warning
from demo_node.cli.show import count, format_bytes, format_clock, format_duration
from demo_node.cli.top.charts import (
    PHASE_STYLES,
    draw_curve,
    draw_latencies,
    draw_outcomes,
    draw_progress,
)
from demo_node.cli.top.concern import Concern
from demo_node.cli.top.figures import PHASES, Figures, spread_rounds
from demo_node.cli.top.peers import shorten_peer_id
from demo_node.cli.top.reading import Reading
from demo_node.views import NodeState, Outcome

LABEL: Final = 11
"""Columns of what stands left of every section."""

BAR_WIDTH: Final = (10, 100)
"""Of the running round, at least and at most."""

STATE_STYLES: Final = {
    NodeState.ACTIVE: "bold green",
    NodeState.PAUSED: "bold yellow",
    NodeState.SYNCING: "bold cyan",
    NodeState.FINISHED: "bold blue",
}


def draw_head(reading: Reading) -> list[Text]:
    """Which node of which run, and what it is doing."""
    status = reading.status
    up = ""
    if status.started_ms:
        up = f"  up {format_duration((reading.now_ms - status.started_ms) / 1000)}"
    return [
        _section(
            "node",
            (shorten_peer_id(status.peer), "bold"),
            f"  run {status.run_name}" if status.run_name else "  no run yet",
            f"  pid {status.pid}{up}",
            (f"  version {status.version}", "dim"),
        ),
        _section(
            "state",
            (status.state.value, STATE_STYLES.get(status.state, "bold")),
            f": {status.detail}" if status.detail else "",
        ),
    ]


def draw_concern(concern: Concern) -> Text:
    """What is wrong, and what to do."""
    mark, style = ("!!", "bold red") if concern.is_urgent else ("! ", "yellow")
    return Text.assemble((f"{mark} {concern.text}", style), f": {concern.remedy}")


def draw_round(reading: Reading, width: int) -> list[Text]:
    """The round by the clock and where in it now is, and the head."""
    status = reading.status
    if not status.round_ms:
        return [_section("round", "no run yet")]
    passed_ms = reading.now_ms - status.genesis_ms
    if status.state is NodeState.FINISHED:
        now = Text(f"all {status.rounds_total:,} are over")
    elif passed_ms < 0:
        now = Text(f"the first begins in {format_duration(-passed_ms / 1000)}")
    else:
        now = _draw_now(reading, passed_ms, width)
    head = "no record yet"
    if status.height:
        head = f"record {status.head.hex()[:12]} of round {status.head_round:,}"
        if status.state is not NodeState.FINISHED:
            head += f", {reading.lag_rounds} behind the clock"
        head += f"; {count(status.forks_total, 'fork')}"
    return [_section("round", now), _section("head", head)]


def _draw_now(reading: Reading, passed_ms: int, width: int) -> Text:
    """It goes on between two answers of the node."""
    status = reading.status
    round_, into_ms = divmod(passed_ms, status.round_ms)
    contribute_bps = status.train_bps + status.contribute_bps
    ends = [
        bps / 10_000
        for bps in (status.train_bps, contribute_bps, contribute_bps + status.propose_bps, 10_000)
    ]
    done = into_ms / status.round_ms
    phase = next(p for p, end in zip(PHASES, ends, strict=True) if done < end)
    name = f"{round_:,}" + (f" of {status.rounds_total:,}" if status.rounds_total else "")
    where = Text.assemble(
        (f"{phase.value:<10}", PHASE_STYLES[phase]),
        f" {into_ms / 1000:.1f} of {status.round_ms / 1000:g} s",
    )
    least, most = BAR_WIDTH
    bar = min(most, max(least, width - LABEL - len(name) - len(where.plain) - 4))
    return Text.assemble(name, "  ", draw_progress(bar, done, ends), "  ", where)


def draw_latency(
    reading: Reading, figures: Figures, width: int, height: int, *, color: bool
) -> list[Text]:
    """How late, round by round; what it was made of, in a chart of `height` lines; how it ended."""
    if not reading.rounds:
        return [_section("latency", "no round has been completed yet")]
    shown = spread_rounds(reading.rounds, width - LABEL)
    top_ms = max([reading.status.round_ms, *(view.latency_ms for view in shown if view)])
    bars = draw_latencies(shown, height, top_ms, color=color)
    labels = [f"{top_ms / 1000:.3g} s", *[""] * (height - 2), "0 s"]
    return [
        _section(
            "latency",
            (f"last {_seconds(figures.latency_last_s)}", "bold"),
            f"  p50 {_seconds(figures.latency_p50_s)}  p95 {_seconds(figures.latency_p95_s)}  ",
            (f"slack {_seconds(figures.slack_s)}", "red" if figures.slack_s < 0 else ""),
            f"  exchange {_seconds(figures.exchange_p50_s)}",
        ),
        *(
            Text.assemble((f"{label:>{LABEL - 1}} ", "dim"), bar)
            for label, bar in zip(labels, bars, strict=True)
        ),
        _section("outcomes", draw_outcomes(shown)),  # below the bars, column by column
        _section("", *_count_outcomes(figures)),
        _section(
            "phases",
            *(
                (f"{phase.value} {_seconds(figures.phases_s[phase])}  ", PHASE_STYLES[phase])
                for phase in PHASES
            ),
            ("p50", "dim"),
        ),
    ]


def _count_outcomes(figures: Figures) -> list[tuple[str, str]]:
    parts = [(f"last {figures.rounds}: ", "dim")]
    for outcome in Outcome:
        number = figures.outcomes[outcome]
        is_usual = outcome is Outcome.RECORDED or not number
        parts.append((f"{number} {outcome.value}  ", "" if is_usual else "bold yellow"))
    return [*parts, (f"ours in {figures.included} of {figures.trained}", "")]


def draw_learning(reading: Reading, figures: Figures, width: int, height: int) -> list[Text]:
    """Is it learning, and how much of that is ours. The losses stand in a chart from 2 lines on."""
    status = reading.status
    loss = "no loss yet" if math.isnan(status.loss) else f"loss {status.loss:.3f}"
    heldout = ""
    if not math.isnan(status.heldout_loss):
        heldout = f"held-out {status.heldout_loss:.3f} (round {status.heldout_round:,})"
    losses = [view.loss for view in reading.rounds if view.samples]
    speed = "-" if math.isnan(figures.tokens_per_s) else f"{figures.tokens_per_s:,.0f}"
    share = "-" if math.isnan(figures.train_share) else f"{figures.train_share:.0%}"
    work = _section(
        "",
        f"{speed} tokens/s  train share {share}  own share of all {status.contribution.share:.1%}",
    )
    if height < 2:
        (line,) = draw_curve(losses, width - LABEL - len(loss) - len(heldout) - 4)
        return [_section("learning", loss, "  ", (line, "cyan"), "  ", heldout), work]
    return [
        _section("learning", loss, "  ", heldout),
        *_draw_losses(losses, width, height),
        work,
    ]


def _draw_losses(losses: Sequence[float], width: int, height: int) -> list[Text]:
    lines = draw_curve(losses, width - LABEL, height)
    finite = [loss for loss in losses[-(width - LABEL) :] if math.isfinite(loss)]
    labels = [""] * height
    if finite:
        labels[0], labels[-1] = f"{max(finite):.3g}", f"{min(finite):.3g}"
    return [
        Text.assemble((f"{label:>{LABEL - 1}} ", "dim"), (line, "cyan"))
        for label, line in zip(labels, lines, strict=True)
    ]


def draw_network(reading: Reading, figures: Figures) -> list[Text]:
    """How much bandwidth, and over how many links."""
    return [
        _section(
            "network",
            f"in {_bytes(figures.bytes_in_per_s)}/s  out {_bytes(figures.bytes_out_per_s)}/s"
            f"  {_bytes(figures.bytes_per_round)} a round"
            f"  {count(reading.status.peers, 'peer')} connected",
        )
    ]


def draw_agreement(reading: Reading, figures: Figures) -> list[Text]:
    """With whom in step: digests, contributions, clocks. Those of candidates count, too."""
    status = reading.status
    candidates = f", {count(status.candidates, 'candidate')}" if status.candidates else ""
    return [
        _section(
            "agreement",
            f"digests {figures.agreeing} equal, ",
            (f"{figures.differing} different", "bold red" if figures.differing else ""),
            f"; {count(figures.participants, 'contribution')}"
            f", {count(status.members, 'member')}{candidates}",
        ),
        _section("clock", format_clock(status.clock)),
    ]


def draw_lately(reading: Reading, height: int) -> list[Text]:
    """Kinds of warnings of the last hour, newest first, at most `height`; what to do about each."""
    lines: list[Text] = []
    for event in find_warnings(reading.health.events, reading.now_ms)[:height]:
        remedy = find_remedy(event.name)
        lines.append(
            _section(
                "" if lines else "lately",
                (format_warning(event, reading.now_ms), "yellow"),
                (f": {remedy}" if remedy else "", "dim"),
            )
        )
    return lines


def _section(name: str, *parts: str | Text | tuple[str, str]) -> Text:
    return Text.assemble((f"{name:<{LABEL}}", "bold"), *parts)


def _seconds(seconds: float) -> str:
    """Of about the same width whatever the length of a round."""
    if math.isnan(seconds):
        return "-"
    return f"{seconds:.2f} s" if abs(seconds) < 10 else f"{seconds:.1f} s"


def _bytes(size: float) -> str:
    return "-" if math.isnan(size) else format_bytes(size)
