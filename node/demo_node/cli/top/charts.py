"""Small charts out of characters: pure functions that return lines of an exact width."""

import math
from collections.abc import Sequence
from typing import Final

from rich.text import Text

from demo_node.cli.top.figures import PHASES
from demo_node.views import Outcome, Phase, PhaseView, RoundView

PHASE_STYLES: Final = {
    Phase.TRAIN: "green",
    Phase.CONTRIBUTE: "cyan",
    Phase.PROPOSE: "yellow",
    Phase.SETTLE: "magenta",
}

OUTCOME_MARKS: Final = {
    Outcome.RECORDED: ("■", "green"),
    Outcome.LATE: ("L", "bold yellow"),
    Outcome.SKIPPED: ("S", "bold red"),
    Outcome.FORKED: ("F", "bold red"),
}

EIGHTHS: Final = " ▁▂▃▄▅▆▇█"
PER_CELL: Final = len(EIGHTHS) - 1


def draw_sparkline(values: Sequence[float], width: int) -> str:
    """The newest values, as many as fit, between their least and greatest; NaN is a blank."""
    shown = values[-width:] if width > 0 else []
    finite = [value for value in shown if math.isfinite(value)]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    scale = (PER_CELL - 1) / (high - low) if high > low else 0.0
    return "".join(
        EIGHTHS[1 + round((value - low) * scale)] if math.isfinite(value) else " "
        for value in shown
    )


def draw_outcomes(rounds: Sequence[RoundView | None]) -> Text:
    """One mark for each round; a dot where this node was not there."""
    strip = Text(no_wrap=True)
    for view in rounds:
        mark, style = OUTCOME_MARKS[view.outcome] if view else ("·", "dim")
        strip.append(mark, style)
    return strip


def draw_latencies(
    rounds: Sequence[RoundView | None], height: int, top_ms: int, *, color: bool
) -> list[Text]:
    """Bars of `height` lines, `top_ms` high: what each round's latency was made of."""
    lines = [Text(no_wrap=True) for _ in range(height)]
    for view in rounds:
        stack = _stack_phases(view, top_ms / (height * PER_CELL)) if view else []
        for index, line in enumerate(reversed(lines)):
            line.append(*_draw_cell(stack, index * PER_CELL, color=color))
    return lines


def _stack_phases(view: RoundView, step_ms: float) -> list[tuple[int, str]]:
    """Where each phase ends, in eighths of a line from the bottom, and its colour."""
    if not view.record:
        return []
    stack, took_ms = [], 0
    for phase in view.phases or [PhaseView(Phase.SETTLE, 0, view.latency_ms, 0)]:
        took_ms += phase.end_ms - phase.begin_ms
        stack.append((round(took_ms / step_ms), PHASE_STYLES[phase.phase]))
    return stack


def _draw_cell(stack: Sequence[tuple[int, str]], bottom: int, *, color: bool) -> tuple[str, str]:
    """One character of a bar. It has two colours at most: below a border and above it."""
    top = bottom + PER_CELL
    inside = [(end, style) for end, style in stack if end > bottom]
    if not inside:
        return " ", ""
    if not color:
        return EIGHTHS[min(stack[-1][0], top) - bottom], ""
    end, style = inside[0]
    if end >= top:
        return EIGHTHS[PER_CELL], style
    above = next((s for e, s in inside[1:] if e > end), "")
    return EIGHTHS[end - bottom], f"{style} on {above}" if above else style


def draw_progress(width: int, done: float, ends: Sequence[float]) -> Text:
    """A round from left to right: `done` of it is over, its phases end at `ends`; 0 to 1."""
    bar = Text(no_wrap=True)
    reached = round(done * width)
    borders = {round(end * width) for end in ends[:-1]}
    for cell in range(width):
        phase = next((p for p, end in zip(PHASES, ends, strict=True) if cell < end * width), None)
        style = PHASE_STYLES[phase or Phase.SETTLE]
        is_border = cell in borders
        if cell < reached:
            bar.append("╋" if is_border else "━", style)
        else:
            bar.append("┼" if is_border else "─", f"dim {style}")
    return bar
