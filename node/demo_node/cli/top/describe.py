"""The document of `top --json`: what the screen shows, for programs."""

import math
from dataclasses import asdict
from typing import Any

from demo_node.cli.show import SCHEMA, describe_view
from demo_node.cli.top.concerns import find_concerns
from demo_node.cli.top.figures import Figures, compute_figures
from demo_node.cli.top.peers import sort_peers
from demo_node.cli.top.reading import Reading
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.views import Outcome


def describe_top(reading: Reading) -> dict[str, Any]:
    """Status, figures of the newest rounds, what to look at, and all peers that were listed."""
    figures = compute_figures(reading)
    swarm = reading.swarm
    return {
        "schema": SCHEMA,
        "now_ms": reading.now_ms,
        "status": describe_view(reading.status),
        "health": describe_view(reading.health),
        "figures": _describe_figures(figures),
        "concerns": [asdict(concern) for concern in find_concerns(reading, figures)],
        "known": swarm.known,
        "peers": [
            {"peer_id": encode_peer_id(peer.peer), **describe_view(peer)}
            for peer in sort_peers(reading)
        ],
    }


def _describe_figures(figures: Figures) -> dict[str, Any]:
    """Counters as objects by name; JSON has no NaN."""
    fields = asdict(figures)
    fields["outcomes"] = {str(outcome): figures.outcomes[outcome] for outcome in Outcome}
    fields["phases_s"] = {str(phase): _finite(s) for phase, s in figures.phases_s.items()}
    return {name: _finite(value) for name, value in fields.items()}


def _finite(value: object) -> object:
    return None if isinstance(value, float) and math.isnan(value) else value
