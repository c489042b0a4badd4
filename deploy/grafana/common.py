"""Panels that are on both dashboards."""

from typing import Final

from deploy.grafana.panels import (
    LAG,
    LENGTH,
    ROUND,
    counts,
    lines,
    mean,
    number,
    quantiles,
    rose,
    seconds,
)

LATENCY: Final = "demo_round_latency_seconds"
PART: Final = "demo_round_latency_ratio"  # finer than seconds, whatever a round's length

BEHIND: Final = number(
    "Rounds behind the clock",
    "The most of those active or paused. Up to 2 is good; from 5 on it follows no longer.",
    f"max({LAG})",
    {3: "orange", 5: "red"},
)
SLACK_NOW: Final = number(
    "Least slack",
    "Time left in the newest round when its update was applied. Below 0 (red) it came late.",
    'min(demo_round_slack_seconds{@, phase="settle"} != 0)',  # 0 before the first round
    {-1e9: "red", 0: "green"},
    unit="s",
)
HELDOUT: Final = number(
    "Held-out loss",
    "Nats per byte on text that nobody trains on. Falling is good, rising for long is not.",
    "avg(demo_heldout_loss{@} > 0)",
)
LATENCIES: Final = seconds(
    "Round latency, quantiles",
    "Good while p99 is below the round's length; above it is late. Points lead to traces.",
    {
        **quantiles(PART, times=LENGTH),
        "mean": mean(LATENCY, exemplars=True),
        "exchange, mean": mean("demo_round_exchange_seconds"),
        **ROUND,
    },
    exemplars="mean",
)
PHASES: Final = seconds(
    "Phases of a round, mean",
    "They add up to the mean latency. Mostly train is good; what grows says where the time goes.",
    {
        phase: f'sum(rate(demo_round_phase_seconds_sum{{@, phase="{phase}"}}[$window]))'
        f" / sum(rate({LATENCY}_count{{@}}[$window]))"
        for phase in ("train", "contribute", "propose", "settle")
    }
    | ROUND,
    stacked=True,
)
SLACK: Final = seconds(
    "Slack by phase, least of those chosen",
    "Time left when a phase's work was done. In the red it was late. (Training takes all it has.)",
    {"{{phase}}": 'min by (phase) (demo_round_slack_seconds{@, phase!="train"} != 0)'},
    red_below=0,
)
OUTCOMES: Final = lines(
    "Rounds by outcome",
    "All recorded is good; some skipped, late or forked is a busy machine, most is a broken swarm.",
    {
        "{{outcome}}": f"{rose('demo_rounds_total', 'outcome')}"
        " / on () group_left () sum(increase(demo_rounds_total{@}[$window]))"
    },
    unit="percentunit",
    stacked=True,
    ceiling=1,
)
CHAIN: Final = counts(
    "Head changes and forks",
    "Over the look-back. Applied is good; rolled back (red) means that branches competed.",
    {
        "{{change}}": rose("demo_records_total", "change"),
        "forks": "sum(increase(demo_forks_total{@}[$window]))",
    },
)
DIGESTS: Final = lines(
    "Digests of others equal to ours, by node",
    "100 % is good; who falls to 0 holds other parameters than all others. No line: none heard.",
    {
        "{{instance}}": 'sum by (instance) (increase(demo_digests_total{@, verdict="equal"}'
        "[$window])) / sum by (instance) (increase(demo_digests_total{@}[$window]))"
    },
    unit="percentunit",
    ceiling=1,
)
PAYLOADS: Final = counts(
    "Payloads of others",
    "Over the look-back. Accepted is good; missing is a slow link, rejected (red) a bad peer.",
    {"{{verdict}}": rose("demo_payloads_total", "verdict")},
    bars=True,
)
BANDWIDTH: Final = lines(
    "Bandwidth of a node, by protocol",
    "Mean; out above, in below. Mostly payload is good, and sync only while somebody catches up.",
    {
        f"{way} {{{{protocol}}}}": "sum by (protocol) (rate(demo_network_bytes_total"
        f'{{@, direction="{way}"}}[$__rate_interval])) / on () group_left () count(demo_ready{{@}})'
        for way in ("out", "in")
    },
    mirrored="/^in .*/",
    unit="Bps",
)
LOSS: Final = lines(
    "Loss, nats per byte",
    "Falling is good; held-out above training by more and more is learning by heart.",
    {
        "held-out": "avg(demo_heldout_loss{@} > 0)",
        "training, lowest": "min(demo_train_loss{@})",
        "training, highest": "max(demo_train_loss{@})",
    },
    floor=None,
    decimals=2,
)
