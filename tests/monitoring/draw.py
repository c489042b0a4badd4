"""Draws a dashboard from its JSON and from what Prometheus answers, in the dashboard's own grid.

Not Grafana: the same panels, queries, units, colours, thresholds and legends by matplotlib, so that
a person can look at them where no Grafana is to be had.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Wedge

from tests.monitoring.boards import Ask, Json, Mark, name_series, read_marks
from tests.monitoring.values import format_time, format_value

mpl.use("agg")

COLUMN_PX, UNIT_PX, DPI, MARKS_PX = 66, 34, 90, 640
PAPER, PANEL, INK, FAINT = "#111217", "#181b1f", "#d8d9da", "#3a3d44"
NAMED: Final = {
    "green": "#73bf69",
    "yellow": "#fade2a",
    "orange": "#ff9830",
    "red": "#f2495c",
    "blue": "#5794f2",
    "purple": "#b877d9",
    "text": INK,
    "transparent": "none",
}
CLASSIC: Final = ("#7eb26d", "#eab839", "#6ed0e0", "#ef843c", "#e24d42", "#1f78c1", "#ba43a9")
CLASSIC_MORE: Final = ("#705da0", "#508642", "#cca300", "#447ebc", "#c15c17", "#890f02")
HEAT: Final = LinearSegmentedColormap.from_list("heat", [PANEL, "#7f2704", "#fd8d3c", "#fff5eb"])
TICKS_S: Final = (10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)
CENTRED: Final[dict[str, Any]] = {"ha": "center", "va": "center", "weight": "bold"}
LABEL: Final = "equivalent rendering of the panels, not a Grafana screenshot"


@dataclass(frozen=True, slots=True)
class Series:
    """One curve: Unix times and values, NaN where there is none, all series on the same times."""

    name: str
    labels: Mapping[str, str]
    values: np.ndarray[Any, np.dtype[np.float64]]

    @property
    def last(self) -> float:
        """The newest value; NaN if there is none at all."""
        known = self.values[~np.isnan(self.values)]
        return float(known[-1]) if known.size else math.nan


@dataclass(frozen=True, slots=True)
class Span:
    """Which times are drawn."""

    begin_s: float
    end_s: float
    step_s: float

    @property
    def times(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """All of them."""
        return np.arange(self.begin_s, self.end_s + self.step_s / 2, self.step_s)


def draw(board: Json, ask: Ask, span: Span, subtitle: str, path: Path) -> None:
    """Write the picture of a dashboard."""
    units = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in board["panels"])
    width, height = 24 * COLUMN_PX, (units + 2) * UNIT_PX
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=PAPER)
    _write(figure, 12, 8, board["title"], 15, height)
    _write(figure, 12, 36, f"{subtitle}  ·  {LABEL}", 9.5, height, "#ff9830")
    found = read_marks(board, ask, 1.5 * span.step_s)
    marks = [mark for mark in found if span.begin_s <= mark.begin_s <= span.end_s]
    _write_marks(figure, marks, height)
    for panel in board["panels"]:
        _draw_panel(figure, panel, ask, span, marks, height)
    figure.savefig(path, facecolor=PAPER, pil_kwargs={"optimize": True})


def _draw_panel(
    figure: Figure, panel: Json, ask: Ask, span: Span, marks: Sequence[Mark], height: int
) -> None:
    grid = panel["gridPos"]
    x, y = grid["x"] * COLUMN_PX + 4, (grid["y"] + 2) * UNIT_PX + 3
    w, h = grid["w"] * COLUMN_PX - 8, grid["h"] * UNIT_PX - 6
    if panel["type"] == "row":
        _write(figure, x + 8, y + 6, f"⌄  {panel['title']}", 12, height)
        return
    _place(figure, (x, y, w, h), height).set_facecolor(PANEL)
    _write(figure, x + 8, y + 6, panel["title"], 10, height)
    series = read(panel, ask, span)
    if not series:
        _write(figure, x + w / 2 - 25, y + h / 2, "No data", 10, height)
    elif panel["type"] == "timeseries":
        rows = _count_legend_rows(panel, series, w)
        box = (x + 62, y + 32, w - 78, h - 66 - 17 * rows)
        axes = _place(figure, box, height)
        _draw_curves(axes, panel, series, span)
        _draw_marks(axes, marks)
        _write_legend(figure, panel, series, (x + 10, y + h - 10 - 17 * rows, w - 20), height)
    elif panel["type"] == "heatmap":
        box = (x + 62, y + 32, w - 78, h - 62)
        unit = panel["options"]["yAxis"]["unit"]
        _draw_buckets(_place(figure, box, height), unit, series, span)
    elif panel["type"] == "stat":
        _draw_number(_place(figure, (x, y + 26, w, h - 26), height), panel, series, span)
    elif panel["type"] == "gauge":
        _draw_gauge(_place(figure, (x, y + 24, w, h - 24), height), panel, series)
    else:
        raise NotImplementedError(panel["type"])


def read(panel: Json, ask: Ask, span: Span) -> list[Series]:
    """What the panel's queries give now."""
    times, found = span.times, []
    for target in panel["targets"]:
        for result in ask(target["expr"]):
            values = np.full(times.size, np.nan)
            for moment, text in result["values"]:
                values[round((float(moment) - span.begin_s) / span.step_s)] = float(text)
            labels: Mapping[str, str] = result["metric"]
            found.append(Series(name_series(target["legendFormat"], labels), labels, values))
    return found


def style(panel: Json, name: str, index: int) -> dict[str, Any]:
    """How a series looks: the panel's defaults, and what its overrides say of this name."""
    config = panel["fieldConfig"]
    found = {f"custom.{key}": value for key, value in config["defaults"].get("custom", {}).items()}
    for override in config["overrides"]:
        matcher, pattern = override["matcher"]["id"], override["matcher"]["options"]
        by_pattern = matcher == "byRegexp" and re.match(pattern.strip("/"), name)
        if by_pattern or (matcher == "byName" and pattern == name):
            found |= {each["id"]: each["value"] for each in override["properties"]}
    colours = (*CLASSIC, *CLASSIC_MORE)
    fixed = found.get("color", {}).get("fixedColor")
    found["color"] = NAMED.get(fixed, fixed) if fixed else colours[index % len(colours)]
    found["fixed"] = fixed is not None
    return found


def pick_colour(panel: Json, value: float) -> str:
    """That of the newest threshold which the value has reached."""
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    reached = [s["color"] for s in steps if s["value"] is None or value >= s["value"]]
    return str(NAMED.get(reached[-1], reached[-1]))


def _draw_curves(axes: Axes, panel: Json, series: Sequence[Series], span: Span) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    _mark_times(axes, span)
    floor = np.zeros(span.times.size)
    for index, one in enumerate(series):
        looks = style(panel, one.name, index)
        values = -one.values if looks.get("custom.transform") == "negative-Y" else one.values
        dashes = "--" if "custom.lineStyle" in looks else "-"
        if (looks.get("custom.stacking") or {}).get("mode") == "normal":
            top = floor + np.nan_to_num(values)
            bars = looks.get("custom.drawStyle") == "bars"
            opaque = looks["custom.fillOpacity"] / 100
            edges: Literal["mid"] | None = "mid" if bars else None
            axes.fill_between(
                span.times, floor, top, color=looks["color"], alpha=opaque, lw=0, step=edges
            )
            floor = top
        else:
            axes.plot(span.times, values, color=looks["color"], lw=1.3, linestyle=dashes)
    _scale_axis(axes, panel, series)
    _shade(axes, defaults)
    unit, decimals = defaults.get("unit", "none"), defaults.get("decimals")
    axes.yaxis.set_major_formatter(
        lambda value, _: format_value(abs(value) if unit == "Bps" else value, unit)
    )
    if axes.get_yscale() == "linear":
        steps = [1, 2, 2.5, 5, 10]
        locator: mpl.ticker.Locator = mpl.ticker.MaxNLocator(5, steps=steps, integer=decimals == 0)
        if unit == "bytes":
            pace = 2 ** math.ceil(math.log2(axes.get_ylim()[1] / 5))
            locator = mpl.ticker.MultipleLocator(pace)
        axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_minor_locator(mpl.ticker.NullLocator())


def _scale_axis(axes: Axes, panel: Json, series: Sequence[Series]) -> None:
    custom = panel["fieldConfig"]["defaults"].get("custom", {})
    known = np.concatenate([one.values[~np.isnan(one.values)] for one in series])
    scale = custom.get("scaleDistribution") or {}
    if scale.get("type") == "log" and np.any(known > 0):
        base = scale["log"]
        axes.set_yscale("log", base=base)
        axes.set_ylim(base ** math.floor(math.log(known[known > 0].min(), base)), 1.5 * known.max())
        axes.yaxis.set_major_locator(mpl.ticker.LogLocator(base, numticks=7))
        return
    low, high = axes.get_ylim() if np.any(known) else (0, 1)
    if (floor := custom.get("axisSoftMin")) is not None:
        low = floor if not np.any(known < floor) and low > floor - (high - low) / 5 else low
    if (ceiling := custom.get("axisSoftMax")) is not None:
        high = max(high, ceiling) if np.any(known > ceiling) else ceiling
    axes.set_ylim(low, high)


def _shade(axes: Axes, defaults: Json) -> None:
    """Threshold areas, as far as the curves make the axis reach."""
    if (defaults.get("custom", {}).get("thresholdsStyle") or {}).get("mode") != "area":
        return
    steps = defaults["thresholds"]["steps"]
    low, high = axes.get_ylim()
    for step, after in zip(steps, [*steps[1:], {"value": None}], strict=True):
        begin = low if step["value"] is None else max(low, step["value"])
        end = high if after["value"] is None else min(high, after["value"])
        if step["color"] != "transparent" and begin < end:
            axes.axhspan(begin, end, color=NAMED[step["color"]], alpha=0.15, lw=0)


def _draw_marks(axes: Axes, marks: Sequence[Mark]) -> None:
    """A line where each begins, a tint while it lasts."""
    for mark in marks:
        colour = NAMED.get(mark.colour, mark.colour)
        axes.axvline(mark.begin_s, color=colour, lw=0.8, linestyle=":")
        axes.axvspan(mark.begin_s, mark.end_s, color=colour, alpha=0.06, lw=0)


def _write_marks(figure: Figure, marks: Sequence[Mark], height: int) -> None:
    """Their words, beside the title: Grafana shows them to who points at a line."""
    x, y = MARKS_PX, 8
    for mark in marks:
        text = f"{format_time(mark.begin_s)} {mark.text}"
        if x + 6 * len(text) > 24 * COLUMN_PX:
            x, y = MARKS_PX, y + 16
        _write(figure, x, y, text, 8, height, NAMED.get(mark.colour, mark.colour))
        x += 6 * len(text) + 8


def _draw_buckets(axes: Axes, unit: str, series: Sequence[Series], span: Span) -> None:
    """Cumulated buckets `le`, taken apart; each as high as any other."""
    ordered = sorted(series, key=lambda one: float(one.labels["le"]))
    cumulated = np.array([np.nan_to_num(one.values) for one in ordered])
    counts = np.diff(cumulated, axis=0, prepend=0).clip(0)
    edges = np.arange(len(ordered) + 1)
    times = np.append(span.times, span.end_s + span.step_s)
    axes.pcolormesh(times, edges, np.ma.masked_less(counts, 1e-9), cmap=HEAT, shading="flat")
    _mark_times(axes, span)
    names = [format_value(float(one.labels["le"]), unit) for one in ordered[:-1]]
    axes.set_yticks(edges[2:-1:2], names[1::2])


def _draw_number(axes: Axes, panel: Json, series: Sequence[Series], span: Span) -> None:
    defaults, options = panel["fieldConfig"]["defaults"], panel["options"]
    now = [one for one in series if not math.isnan(one.values[-1])] or list(series[:1])
    if options["textMode"] == "name":
        text = "\n".join(one.name for one in now)
        named = style(panel, now[0].name, 0)
        ink = named["color"] if named["fixed"] else INK
    else:
        text = format_value(now[0].last, defaults["unit"], defaults.get("decimals"))
        ink = pick_colour(panel, now[0].last)
    if options["colorMode"] == "background":
        axes.set_facecolor(ink)
        ink = PAPER
    elif options["graphMode"] == "area":
        known = np.nan_to_num(now[0].values)
        axes.fill_between(span.times, known, color=NAMED["blue"], alpha=0.2, lw=0)
        axes.set_ylim(0, 3 * max(1e-9, known.max()))
        axes.set_xlim(span.begin_s, span.end_s)
    size = min(24, 200 / max(8, len(text)))
    axes.text(0.5, 0.5, text, color=ink, size=size, transform=axes.transAxes, **CENTRED)
    _clear(axes)


def _draw_gauge(axes: Axes, panel: Json, series: Sequence[Series]) -> None:
    value = series[0].last
    full = 0.0 if math.isnan(value) else max(0.0, min(1.0, value))
    axes.add_patch(Wedge((0, 0), 1, 0, 180, width=0.28, color=FAINT))
    colour = pick_colour(panel, value)
    axes.add_patch(Wedge((0, 0), 1, 180 - 180 * full, 180, width=0.28, color=colour))
    text = format_value(value, "percentunit")
    axes.text(0, 0.12, text, ha="center", color=colour, size=15, weight="bold")
    axes.set(xlim=(-1.3, 1.3), ylim=(-0.15, 1.1), aspect="equal")
    _clear(axes)


def _count_legend_rows(panel: Json, series: Sequence[Series], width: float) -> int:
    return min(3, len(_wrap(panel, series, width - 20)))


def _wrap(panel: Json, series: Sequence[Series], width: float) -> list[list[tuple[int, str]]]:
    """Entries of the legend, row by row: which series, and what is written."""
    defaults = panel["fieldConfig"]["defaults"]
    rows: list[list[tuple[int, str]]] = [[]]
    used = 0.0
    for index, one in enumerate(series):
        value = format_value(one.last, defaults.get("unit", "none"), defaults.get("decimals"))
        text = f"{one.name}  {value}"
        used += 26 + 6.6 * len(text)
        if used > width and rows[-1]:
            rows.append([])
            used = 26 + 6.6 * len(text)
        rows[-1].append((index, text))
    return rows


def _write_legend(
    figure: Figure,
    panel: Json,
    series: Sequence[Series],
    box: tuple[float, float, float],
    height: int,
) -> None:
    x0, y, width = box
    rows = _wrap(panel, series, width)
    for row in rows[:3]:
        x = x0
        for index, text in row:
            colour = style(panel, series[index].name, index)["color"]
            _write(figure, x, y, "▬", 8.5, height, colour)
            _write(figure, x + 14, y, text, 8.5, height)
            x += 26 + 6.6 * len(text)
        y += 17
    if len(rows) > 3:
        _write(figure, x0 + width - 60, y - 17, "… scroll", 8.5, height)


def _mark_times(axes: Axes, span: Span) -> None:
    axes.set_xlim(span.begin_s, span.end_s)
    axes.grid(color=FAINT, lw=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=8.5, length=0)
    axes.spines[:].set_visible(False)
    axes.xaxis.set_major_formatter(lambda at_s, _: format_time(at_s))
    length_s = span.end_s - span.begin_s
    pace_s = next(pace for pace in TICKS_S if length_s / pace < 5)
    edge_s = 0.07 * length_s  # a label there would reach over the panel's edge
    first_s = math.ceil((span.begin_s + edge_s) / pace_s) * pace_s
    axes.set_xticks(np.arange(first_s, span.end_s - edge_s, pace_s))


def _clear(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _place(figure: Figure, box: tuple[float, float, float, float], height: int) -> Axes:
    """Axes at these pixels from the top left corner."""
    x, y, w, h = box
    width = 24 * COLUMN_PX
    axes = figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))
    axes.set_facecolor("none")
    _clear(axes)
    return axes


def _write(
    figure: Figure, x: float, y: float, text: str, size: float, height: int, colour: str = INK
) -> None:
    """Text with its top left corner at this pixel."""
    figure.text(x / (24 * COLUMN_PX), 1 - y / height, text, size=size, color=colour, va="top")
