"""How a dashboard of ours is put together: queries, kinds of panels, variables, layout.

swarm.py and node.py say what is on the dashboards. In a query `@` stands for the nodes chosen at
the top. What comes once a round is averaged and counted over `$window`, which must hold several
rounds; what flows all the time over `$__rate_interval`.
"""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from grafana_foundation_sdk.builders import common, gauge, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    VariableModel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from demo_node.observe.metrics import METRICS

Queries = Mapping[str, str]
"""Legend -> PromQL."""

Steps = Mapping[float, str]
"""From which value on which colour."""

Panel = timeseries.Panel | stat.Panel | gauge.Panel | heatmap.Panel
Json = dict[str, Any]
Kind = TypeVar("Kind", timeseries.Panel, stat.Panel, gauge.Panel, heatmap.Panel)
Rows = Mapping[str, Sequence[Panel]]

SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
CHOSEN: Final = 'instance=~"$instance"'

RUNS: Final = (
    'label_join(label_replace(last_over_time(demo_node_info[$__range]), "short", "$1", "run_id",'
    ' "(.{8}).*"), "shown", " ", "run_name", "short")'
)
"""PromQL: the runs of all nodes; `shown` is a name and 8 digits, as two runs may have one name."""

REFERENCE: Final = "round length"
"""A line of this name is a yardstick, not a measurement: dashed and grey."""

LENGTH: Final = "max(demo_round_length_seconds{@})"
ROUND: Final = {REFERENCE: LENGTH}

LAG: Final = (
    "demo_round_current{@} - demo_head_round{@}"
    ' and on (instance) demo_node_state{@, state=~"active|paused"} == 1'
)
"""PromQL: rounds that each node's head is behind the clock, as alerts see it (`demo:round_lag`).

A node that waits, syncs or has finished has none: nobody expects a record of it.
"""

COLOURS: Final = {
    **dict.fromkeys(("active", "recorded", "accepted", "applied", "joined", "payload"), "green"),
    **dict.fromkeys(("paused", "finished", "replayed", "connected", "train", "out"), "blue"),
    **dict.fromkeys(("starting", "waiting", "draining", "stopped", "left", "other"), "#8e8e8e"),
    **dict.fromkeys(("syncing", "late", "missing", "propose", "sync", "proposals"), "yellow"),
    **dict.fromkeys(("skipped", "expired", "settle", "all"), "orange"),
    **dict.fromkeys(("contribute", "disconnected", "gossip", "headers", "pull"), "purple"),
    **dict.fromkeys(("forked", "rolled_back", "forks", "rejected", "different"), "red"),
    **{"p50": "green", "p95": "yellow", "p99": "orange", "mean": "blue", "membership": "#8e8e8e"},
    "exchange, mean": "purple",
}
"""What a name means does not change from panel to panel, and so neither does its colour.

Red is for what is wrong.
"""


def quantile(q: float, histogram: str, by: str = "") -> str:
    """PromQL: over the chosen nodes together, or apart `by` these labels."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({histogram}_bucket{{@}}[$window])))"


def quantiles(histogram: str, times: str = "1") -> Queries:
    """Three of them, by their usual names, `times` another query's one value."""
    factor = "" if times == "1" else f" * {times}"
    return {f"p{100 * q:.0f}": quantile(q, histogram) + factor for q in (0.5, 0.95, 0.99)}


def mean(histogram: str, by: str = "", *, exemplars: bool = False) -> str:
    """PromQL: of the observations of all chosen nodes, apart `by` these labels.

    `exemplars`: not apart, and by a query that names the buckets, since only these have exemplars;
    the fullest of them, cumulated, holds all observations.
    """
    if exemplars:
        fullest = f"max(sum by (le) (rate({histogram}_bucket{{@}}[$window])))"
        return f"sum(rate({histogram}_sum{{@}}[$window])) / {fullest}"
    rates = (f"sum by ({by}) (rate({histogram}_{end}{{@}}[$window]))" for end in ("sum", "count"))
    return " / ".join(rates)


def rose(counter: str, by: str, aggregate: str = "sum") -> str:
    """PromQL: by how much a counter rose within the window, apart `by` these labels."""
    return f"{aggregate} by ({by}) (increase({counter}{{@}}[$window]))"


def lines(
    title: str,
    meaning: str,
    queries: Queries,
    *,
    unit: str = "none",
    stacked: bool = False,
    bars: bool = False,
    floor: float | None = 0,
    ceiling: float | None = None,
    log: int = 0,
    decimals: int | None = None,
    mirrored: str = "",
    red_below: float | None = None,
    red_above: float | None = None,
    exemplars: str = "",
) -> timeseries.Panel:
    """Curves over time. `floor`, `ceiling`: what the axis holds at least; `log`: its base, if it is
    logarithmic; `mirrored`: a pattern of those drawn downwards; `exemplars`: the legend whose query
    names the buckets that have them.
    """
    legend = common.VizLegendOptions().show_legend(True).calcs(["lastNotNull"])
    tooltip = common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI)
    panel = (
        timeseries.Panel()
        .unit(unit)
        .line_width(0 if bars else 1)
        .fill_opacity(70 if stacked else 0)
        .show_points(looks.VisibilityMode.NEVER)
        .span_nulls(False)
        .color_scheme(dashboards.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
        .legend(legend.placement(looks.LegendPlacement.BOTTOM))
        .tooltip(tooltip.sort(looks.SortOrder.DESCENDING))
    )
    if bars:
        panel.draw_style(looks.GraphDrawStyle.BARS)
    if stacked:
        panel.stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL).group("A"))
    if floor is not None:
        panel.axis_soft_min(floor)
    if ceiling is not None:
        panel.axis_soft_max(ceiling)
    if log:
        scale = common.ScaleDistributionConfig().type(looks.ScaleDistribution.LOG)
        panel.scale_distribution(scale.log(log))
    if decimals is not None or unit == "none":
        panel.decimals(decimals or 0)
    if red_below is not None:
        _shade(panel, [Threshold(None, "red"), Threshold(red_below, "transparent")])
    if red_above is not None:
        _shade(panel, [Threshold(None, "transparent"), Threshold(red_above, "red")])
    if mirrored:
        down = DynamicConfigValue("custom.transform", looks.GraphTransform.NEGATIVE_Y)
        panel.override_by_regexp(mirrored, [down])
    _paint(panel, queries)
    return _describe(panel, title, meaning, queries, exemplars).height(8)


def counts(title: str, meaning: str, queries: Queries, *, bars: bool = False) -> timeseries.Panel:
    """How often things happened within the window."""
    return lines(title, meaning, queries, bars=bars, stacked=bars)


seconds = partial(lines, unit="s")
"""Times, over time."""


def number(
    title: str,
    meaning: str,
    query: str,
    steps: Steps | None = None,
    *,
    unit: str = "none",
    named: str = "",
    decimals: int | None = None,
) -> stat.Panel:
    """One value of now, in large; or, `named`, what this legend says. No steps: never alarming."""
    rising = [] if steps is None else [Threshold(v, colour) for v, colour in steps.items()]
    panel = (
        stat.Panel()
        .unit(unit)
        .color_mode(looks.BigValueColorMode.BACKGROUND if steps else looks.BigValueColorMode.VALUE)
        .graph_mode(looks.BigValueGraphMode.NONE if named else looks.BigValueGraphMode.AREA)
        .text_mode(looks.BigValueTextMode.NAME if named else looks.BigValueTextMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(_thresholds([Threshold(None, "green" if steps else "text"), *rising]))
        .color_scheme(dashboards.FieldColor().mode(FieldColorModeId.THRESHOLDS))
    )
    if decimals is not None:
        panel.decimals(decimals)
    if named:  # asked for now: what held earlier in the range would be shown beside it
        _paint(panel, {named: query})
        _describe(panel, title, meaning, {})
        return panel.with_target(_target("A", named, query).instant()).height(4)
    return _describe(panel, title, meaning, {title: query}).height(4)


def share(title: str, meaning: str, query: str, steps: Steps) -> gauge.Panel:
    """A part of a whole; red below the first step."""
    rising = [Threshold(value, colour) for value, colour in steps.items()]
    panel = (
        gauge.Panel()
        .unit("percentunit")
        .min(0)
        .max(1)
        .decimals(0)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(_thresholds([Threshold(None, "red"), *rising]))
        .color_scheme(dashboards.FieldColor().mode(FieldColorModeId.THRESHOLDS))
    )
    return _describe(panel, title, meaning, {title: query}).height(4)


def buckets(title: str, meaning: str, histogram: str) -> heatmap.Panel:
    """A histogram of parts of a round over time, in rows that are fine where late begins only."""
    merged = "|".join(str(float(end)) for end in (0.25, 0.5, 0.6, 0.75, 0.85, 5))
    query = f'sum by (le) (increase({histogram}_bucket{{@, le!~"{merged}"}}[$__rate_interval]))'
    colour = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges")
    panel = (
        heatmap.Panel()
        .calculate(False)
        .unit("short")
        .y_axis(heatmap.YAxisConfig().unit("percentunit"))
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .color(colour.steps(64))
    )
    target = _target("A", "{{le}}", query).format(PromQueryFormat.HEATMAP).exemplar(True)
    return _describe(panel, title, meaning, {}).with_target(target).height(8)


def assemble(title: str, meaning: str, rows: Rows, marks: Sequence[Json], other: str) -> str:
    """One dashboard as JSON, with a link to the other one. All panels of a row are equally wide."""
    link = dashboards.DashboardLink(other).type(DashboardLinkType.LINK).include_vars(True)
    board = (
        dashboards.Dashboard(f"demo-node: {title}")
        .uid(f"demo-{title.lower()}")
        .description(meaning)
        .tags(["demo-node"])
        .timezone("browser")
        .refresh("10s")
        .time("now-30m", "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .variables(make_variables())
        .link(link.url(f"/d/demo-{other.lower()}").keep_time(True))
        .readonly()
    )
    for name, panels in rows.items():
        board.with_row(dashboards.Row(name))
        for panel in panels:
            # A copy: both dashboards may show the same panel, at other places.
            board.with_panel(copy.deepcopy(panel).span(_compute_width(len(panels))))
    document = board.build()
    for identity, item in enumerate(document.panels or (), start=1):  # the SDK gives none
        item.id_val = identity
    whole = json.loads(json.dumps(document, cls=JSONEncoder))
    whole["annotations"] = {"list": list(marks)}
    return json.dumps(whole, indent=2) + "\n"


def make_variables() -> list[Builder[VariableModel]]:
    """What can be chosen at the top."""
    changing = VariableRefresh.ON_TIME_RANGE_CHANGED
    return [
        dashboards.DatasourceVariable("datasource").label("Prometheus").type("prometheus"),
        dashboards.QueryVariable("run")
        .label("Run")
        .datasource(SOURCE)
        .query(f"query_result({RUNS})")
        .regex('/run_id="(?<value>[^"]+)".* shown="(?<text>[^"]+)"/')
        .refresh(changing)
        .sort(VariableSort.ALPHABETICAL_ASC),
        dashboards.QueryVariable("instance")
        .label("Node")
        .datasource(SOURCE)
        .query('label_values(demo_node_info{run_id=~"$run"}, instance)')
        .refresh(changing)
        .sort(VariableSort.NATURAL_ASC)
        .multi(True)
        .include_all(True),
        dashboards.CustomVariable("window")
        .label("Look back")
        .description("Over which time rounds are averaged and counted: several rounds' length.")
        .values("1m,5m,15m,1h,6h")
        .current(VariableOption(selected=True, text="5m", value="5m")),
    ]


def _compute_width(panels: int) -> int:
    """Of each of so many in a row of 24: two, three, four or eight abreast."""
    return {8: 3, 3: 8, 6: 8, 2: 12}.get(panels, 6)


def _describe(panel: Kind, title: str, meaning: str, queries: Queries, exemplars: str = "") -> Kind:
    panel.title(title).description(meaning).datasource(SOURCE)
    for index, (legend, query) in enumerate(queries.items()):
        target = _target("ABCDEFGH"[index], legend, query)
        panel.with_target(target.exemplar(True) if legend == exemplars else target)
    return panel


def _target(ref: str, legend: str, query: str) -> prometheus.Dataquery:
    asked = prometheus.Dataquery().ref_id(ref).datasource(SOURCE).range()
    return asked.expr(query.replace("@", CHOSEN)).legend_format(legend)


def _paint(panel: timeseries.Panel | stat.Panel, queries: Queries) -> None:
    """Give series the colour of what their names say."""
    for legend in queries:
        for name, word in _expand(legend).items():
            if word in COLOURS:
                panel.override_by_name(name, [_fixed(COLOURS[word])])
    if REFERENCE in queries:
        dashed = DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 8]})
        apart = DynamicConfigValue("custom.stacking", {"mode": "none", "group": "A"})
        empty = DynamicConfigValue("custom.fillOpacity", 0)
        panel.override_by_name(REFERENCE, [_fixed("#8e8e8e"), dashed, apart, empty])


def _expand(legend: str) -> dict[str, str]:
    """Names that series of this legend may have -> the word in them that has a colour."""
    label = re.search("{{(.*?)}}", legend)
    if not label:
        return {legend: legend}
    values = {v for metric in METRICS for v in metric.labels.get(label[1], ())}
    return {legend.replace(label[0], value): value for value in sorted(values)}


def _fixed(colour: str) -> DynamicConfigValue:
    return DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})


def _shade(panel: timeseries.Panel, steps: list[Threshold]) -> None:
    mode = looks.GraphThresholdsStyleMode.AREA
    panel.thresholds(_thresholds(steps))
    panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(mode))


def _thresholds(steps: list[Threshold]) -> dashboards.ThresholdsConfig:
    return dashboards.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
