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
    Outcome.RECORDED: ("▪", "green"),
    Outcome.LATE: ("L", "bold yellow"),
    Outcome.SKIPPED: ("S", "bold red"),
    Outcome.FORKED: ("F", "bold red"),
}

EIGHTHS: Final = " ▁▂▃▄▅▆▇█"
PER_CELL: Final = len(EIGHTHS) - 1


def draw_curve(values: Sequence[float], width: int, height: int = 1) -> list[str]:
    """The newest values, as many as fit, between their least and greatest; NaN is a blank."""
    shown = values[-width:] if width > 0 else []
    finite = [value for value in shown if math.isfinite(value)]
    if not finite:
        return [""] * height
    low, high = min(finite), max(finite)
    scale = (height * PER_CELL - 1) / (high - low) if high > low else 0.0
    tops = [1 + round((v - low) * scale) if math.isfinite(v) else 0 for v in shown]
    return [
        "".join(EIGHTHS[min(max(top - bottom, 0), PER_CELL)] for top in tops)
        for bottom in range((height - 1) * PER_CELL, -1, -PER_CELL)
    ]


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
    """One character of a bar. It takes two colours, and one where the bar ends in it."""
    begins = [0, *(end for end, _ in stack)]
    parts = [
        (min(end, bottom + PER_CELL) - max(begin, bottom), style)
        for begin, (end, style) in zip(begins, stack, strict=False)
    ]
    parts = [part for part in parts if part[0] > 0]
    filled = sum(eighths for eighths, _ in parts)
    if not parts or not color:
        return EIGHTHS[filled], ""
    largest = max(parts)
    rest = [part for part in parts if part is not largest]
    if filled < PER_CELL or not rest:
        return EIGHTHS[filled], largest[1]
    second = max(rest)
    lower, upper = sorted((largest, second), key=parts.index)
    return EIGHTHS[PER_CELL - upper[0]], f"{lower[1]} on {upper[1]}"


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
