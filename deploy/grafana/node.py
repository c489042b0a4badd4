"""The dashboard Node: single nodes, their machines."""

from typing import Final

from demo_node.observe.events import ERROR, EVENTS, WARNING
from deploy.grafana.common import (
    BANDWIDTH,
    BEHIND,
    CHAIN,
    HELDOUT,
    LATENCIES,
    LOSS,
    OUTCOMES,
    PAYLOADS,
    PHASES,
    SLACK,
    SLACK_NOW,
)
from deploy.grafana.panels import (
    Rows,
    counts,
    lines,
    mean,
    number,
    quantile,
    quantiles,
    seconds,
    share,
)

WARNINGS: Final = "|".join(n for n, event in EVENTS.items() if event.level in (WARNING, ERROR))
WARNED: Final = f'demo_events_total{{@, event=~"{WARNINGS}"}}'

ROWS: Final[Rows] = {
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
                "momentum file": "max(demo_momentum_file_bytes{@})",
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
