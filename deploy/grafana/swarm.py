"""The dashboard Swarm: are we in step, with whom, how late, is it learning."""

from typing import Final

from deploy.grafana.common import (
    BANDWIDTH,
    BEHIND,
    CHAIN,
    DIGESTS,
    HELDOUT,
    LATENCIES,
    LOSS,
    OUTCOMES,
    PART,
    PAYLOADS,
    PHASES,
    SLACK,
    SLACK_NOW,
)
from deploy.grafana.panels import LAG, Rows, buckets, counts, lines, number, rose, seconds, share

ROWS: Final[Rows] = {
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
