"""Writes dashboards/ from swarm.py and node.py: `python -m deploy.grafana.build`."""

from pathlib import Path

from deploy.grafana import node, swarm
from deploy.grafana.marks import MARKS, NODE_MARKS
from deploy.grafana.panels import assemble


def build() -> dict[str, str]:
    """Name of a file -> its JSON."""
    return {
        "swarm.json": assemble("Swarm", "All nodes of a run.", swarm.ROWS, MARKS, "Node"),
        "node.json": assemble("Node", "Nodes and their machines.", node.ROWS, NODE_MARKS, "Swarm"),
    }


if __name__ == "__main__":
    for name, document in build().items():
        (Path(__file__).parent / "dashboards" / name).write_text(document)
