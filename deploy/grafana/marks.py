"""What is marked in all panels of a dashboard when it happens: Grafana's annotations.

In a query `@` stands for the chosen nodes.
"""

from collections.abc import Sequence
from typing import Final

from deploy.grafana.panels import CHOSEN, SOURCE, Json


def mark(name: str, colour: str, query: str, text: str, *, at_value: bool = False) -> Json:
    """A switch at the top that marks when a query's series are above 0.

    `at_value`: when their values say, in ms of Unix time. The SDK's builder lacks what Grafana's
    Prometheus plugin asks for, so this is its JSON.
    """
    return {
        "name": name,
        "datasource": {"type": SOURCE.type_val, "uid": SOURCE.uid},
        "enable": True,
        "hide": False,
        "iconColor": colour,
        "expr": query.replace("@", CHOSEN),
        "step": "15s",
        "titleFormat": text,
        "useValueForTime": at_value,
    }


MARKS: Final[Sequence[Json]] = (
    mark("Not answering", "red", "up{@} == bool 0", "{{instance}} does not answer"),
    mark(
        "Starts",
        "blue",
        "1000 * process_start_time_seconds{@}",
        "{{instance}} starts",
        at_value=True,
    ),
    mark(
        "Trainer deaths",
        "orange",
        'increase(demo_events_total{@, event="trainer.died"}[$__rate_interval])',
        "trainer of {{instance}} died",
    ),
    mark(
        "Alerts",
        "purple",
        'ALERTS{@, alertname=~"Demo.*", alertstate="firing"}',
        "{{alertname}} {{instance}}",
    ),
)

NODE_MARKS: Final[Sequence[Json]] = (
    *MARKS,
    mark(
        "States",
        "#8e8e8e",
        "demo_node_state{@} == 1 unless demo_node_state{@} offset $__rate_interval == 1",
        "{{instance}} is {{state}}",
    ),
)
"""Of many nodes, *Nodes by state* shows it better: a start alone has three states."""
