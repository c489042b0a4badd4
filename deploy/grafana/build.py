"""The dashboards: what is on them, in order. `python -m deploy.grafana.build` writes dashboards/.

*Swarm*: are we in step, with whom, how late, is it learning. *Node*: single nodes, their machines.

In a query `@` stands for the chosen nodes. What comes once a round is averaged and counted over
`$window`, which must hold several rounds; what flows all the time over `$__rate_interval`.
"""

from pathlib import Path
from typing import Final

from demo_node.observe.events import ERROR, EVENTS, WARNING
from deploy.grafana.marks import MARKS, NODE_MARKS
from deploy.grafana.panels import (
    LAG,
    LENGTH,
    ROUND,
    Rows,
    assemble,
    buckets,
    counts,
    lines,
    mean,
    number,
    quantile,
    quantiles,
    rose,
    seconds,
    share,
)

LATENCY: Final = "demo_round_latency_seconds"
PART: Final = "demo_round_latency_ratio"  # finer than seconds, whatever a round's length
WARNINGS: Final = "|".join(n for n, event in EVENTS.items() if event.level in (WARNING, ERROR))
WARNED: Final = f'demo_events_total{{@, event=~"{WARNINGS}"}}'

# On both dashboards, down to LOSS.
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

SWARM: Final[Rows] = {
    "Now": [
        number(
            "Down or out of step",
            "Nodes. 0 is good; who waits, syncs or has finished is neither: see 'Nodes by state'.",
            f"sum(up{{@}} == bool 0) + (count(({LAG}) > 2) or vector(0))",
            {1: "red"},
        ),
        BEHIND,
        share(
            "Participation",
            "Contributions in the last record over members whose turn it was. Full is good.",
            "avg(demo_round_participants{@}) / max(demo_round_due{@})",
            {0.6: "orange", 0.9: "green"},
        ),
        number(
            "Digests that differ",
            "Over the look-back. 0 is good; anything else: replicas have diverged.",
            'ceil(sum(increase(demo_digests_total{@, verdict="different"}[$window])))',
            {1: "red"},
        ),
        SLACK_NOW,
        number(
            "Sent per node",
            "Good while volunteers' home links carry it; 'Bandwidth of a node' says what it is.",
            'sum(rate(demo_network_bytes_total{@, direction="out"}[$__rate_interval]))'
            " / count(demo_ready{@})",
            unit="Bps",
        ),
        HELDOUT,
        number(
            "Tokens per second",
            "Trained on by all together. Steady is good; a step down is a node that stopped.",
            "sum(rate(demo_train_tokens_total{@}[$window]))",
            unit="short",
        ),
    ],
    "How late: round latency": [
        buckets(
            "Round latency, part of the round",
            "One narrow band below 100 % is good; a second one is slow nodes; above 100 % is late.",
            PART,
        ),
        LATENCIES,
        PHASES,
        SLACK,
    ],
    "In step, and with whom": [
        lines(
            "Rounds behind the clock, by node",
            "Up to 2 is good; in the red it follows no longer. No line: it waits, syncs, is done.",
            {"{{instance}}": f"max_over_time(({LAG})[$__rate_interval:$__interval])"},
            ceiling=6,
            red_above=5,
        ),
        OUTCOMES,
        lines(
            "Members, heard and recorded",
            "On one another is good; a header that is heard and not in the record is work lost.",
            {
                "members": "max(demo_members{@})",
                "candidates": "max(demo_candidates{@})",
                "heard, fewest": "min(demo_round_heard{@} > 0)",  # 0 before its first
                "in the record": "min(demo_round_participants{@} > 0)",
            },
        ),
        CHAIN,
        DIGESTS,
        seconds(
            "Clocks: offset by node",
            "Near 0 is good; a machine whose clock is off by more than 1 s should get NTP.",
            {"{{instance}}": "demo_clock_offset_seconds{@}"},
            floor=-0.1,
            ceiling=0.1,
        ),
    ],
    "Who comes and goes": [
        lines(
            "Nodes by state",
            "All green (active) is good; a dent is a node that is away, yellow one catching up.",
            {"{{state}}": "sum by (state) (demo_node_state{@})"},
            stacked=True,
        ),
        counts(
            "Churn",
            "Over the look-back. 0 is good. Members by the chain, connections at both ends.",
            {
                "member {{change}}": rose("demo_membership_changes_total", "change", "max"),
                "peer {{change}}": rose("demo_peer_changes_total", "change"),
            },
        ),
        PAYLOADS,
    ],
    "At what bandwidth, and is it learning": [
        BANDWIDTH,
        LOSS,
        lines(
            "Tokens per second, by node",
            "Steady is good; a layer that thins is a node that trains less.",
            {"{{instance}}": "sum by (instance) (rate(demo_train_tokens_total{@}[$window]))"},
            stacked=True,
            unit="short",
        ),
    ],
}

NODE: Final[Rows] = {
    "Now": [
        number(
            "State",
            "Active is good, syncing only after a start; docs/operating.md explains each.",
            "max by (state) (demo_node_state{@}) == 1",
            named="{{state}}",
        ),
        BEHIND,
        share(
            "Our work counted",
            "Of what this node sent, what records list. Full is good; low: a slow machine or link.",
            "sum(increase(demo_rounds_included_total{@}[$window]))"
            " / sum(increase(demo_rounds_sent_total{@}[$window]))",
            {0.6: "orange", 0.9: "green"},
        ),
        SLACK_NOW,
        number(
            "Peers",
            "Connected. Several are good; with none (red) nobody hears this node.",
            "min(demo_peers{@})",
            {-1: "red", 1: "green"},
        ),
        number(
            "Clock offset",
            "By how much peers correct the clock. Near 0 is good; above 1 s (red) set it.",
            "max(abs(demo_clock_offset_seconds{@}))",
            {0.2: "orange", 1: "red"},
            unit="s",
        ),
        HELDOUT,
        number(
            "Version",
            "The one that others run is good; an older one should be updated.",
            "count by (version) (demo_build_info{@})",
            named="{{version}}",
        ),
    ],
    "How late": [
        LATENCIES,
        PHASES,
        SLACK,
        seconds(
            "Parts of phases, mean",
            "Of one encode, pull, apply and so on. Small against the round is good.",
            {"{{op}}": mean("demo_op_seconds", "op")},
            log=10,
        ),
    ],
    "In step, at what bandwidth": [OUTCOMES, CHAIN, BANDWIDTH],
    "With whom": [
        lines(
            "Peers and gossip mesh",
            "Level is good. Mesh links are those that gossip takes; without any a node is deaf.",
            {
                "dialled {{direction}}": "sum by (direction) (demo_peer_connections{@})",
                "mesh, {{topic}}": "min by (topic) (demo_gossip_mesh_peers{@})",
            },
        ),
        seconds(
            "Network times, p95",
            "Good well below a phase's length. Headers and proposals from when they are due.",
            {
                "round trip": quantile(0.95, "demo_peer_rtt_seconds"),
                "{{topic}}": quantile(0.95, "demo_gossip_arrival_seconds", "topic"),
            },
        ),
        PAYLOADS,
    ],
    "Is it learning": [
        LOSS,
        lines(
            "Train share",
            "Of all time, inside model and optimizer. Near train's part of a round is good.",
            {"{{instance}}": "rate(demo_train_seconds_total{@}[$window])"},
            unit="percentunit",
        ),
        lines(
            "Norms",
            "Level is good; a residual that climbs for long means that too little is sent.",
            {
                "gradient {{instance}}": "demo_gradient_norm{@}",
                "local work {{instance}}": "demo_delta_norm{@}",
                "residual {{instance}}": "demo_residual_norm{@}",
            },
            decimals=1,
        ),
    ],
    "Machine": [
        lines(
            "Processor, in cores",
            "Mostly the trainer is good; a node process near 1 cannot keep up.",
            {
                "node {{instance}}": "rate(process_cpu_seconds_total{@}[$__rate_interval])",
                "trainer {{instance}}": "rate(demo_trainer_cpu_seconds_total{@}[$__rate_interval])",
            },
            decimals=2,
        ),
        lines(
            "Memory",
            "Level is good; a line that climbs for hours is a leak.",
            {
                "node {{instance}}": "process_resident_memory_bytes{@}",
                "trainer {{instance}}, {{kind}}": "demo_trainer_memory_bytes{@} > 0",
            },
            unit="bytes",
        ),
        seconds(
            "Event loop lag",
            "Below 50 ms is good; in the red something blocks the loop, or the cores are too busy.",
            quantiles("demo_event_loop_lag_seconds"),
            ceiling=0.3,
            red_above=0.25,
        ),
        counts(
            "Warnings in the log",
            "Over the look-back. 0 is good; docs/operating.md says what to do about each.",
            {
                "all": f"sum(increase({WARNED}[$window]))",
                "{{event}}": f"sum by (event) (increase({WARNED}[$window])) > 0",
            },
        ),
        lines(
            "Disk",
            "Level is good; without free space a node stops.",
            {
                "free": "min(demo_datadir_free_bytes{@})",
                "payloads": "sum(demo_payload_store_bytes{@})",
                "newest snapshot": "max(demo_snapshot_bytes{@})",
            },
            log=2,
            unit="bytes",
        ),
        lines(
            "Queues",
            "Short spikes are good; what stays is a link or a disk that is too slow.",
            {"{{queue}}": "max by (queue) (demo_queue_depth{@})"},
        ),
    ],
}


def build() -> dict[str, str]:
    """Name of a file -> its JSON."""
    return {
        "swarm.json": assemble("Swarm", "All nodes of a run.", SWARM, MARKS, "Node"),
        "node.json": assemble("Node", "Nodes and their machines.", NODE, NODE_MARKS, "Swarm"),
    }


if __name__ == "__main__":
    for name, document in build().items():
        (Path(__file__).parent / "dashboards" / name).write_text(document)
