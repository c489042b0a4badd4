"""Nodes behind routers of both kinds take part like everybody else, with nothing configured."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.nodes import RunningNode, make_run
from tests.wan.network import Network, made_network
from tests.wan.nodes import started_on, wait_agreed

pytestmark = [pytest.mark.wan, pytest.mark.slow, pytest.mark.timeout(420)]

ROUND_S = 4
ROUNDS = 12
SHARE_MIN = 0.75
"""On a busy machine. Without other work all are in every record."""

CONE, SYMMETRIC = 2, 3


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """Two machines that everybody reaches, two that nobody does."""
    with made_network(tmp_path / "network", 4) as made:
        made.hide(CONE)
        made.hide(SYMMETRIC, is_symmetric=True)
        made.change(delay_ms=20)
        yield made


def measure_share(node: RunningNode, since: int) -> float:
    """Of the records of rounds from `since` on, those that list this node."""
    views = [view for view in node.rounds() if view.round >= since and view.record]
    assert len(views) >= ROUNDS // 2
    return sum(view.included for view in views) / len(views)


def test_who_is_behind_a_router_contributes_in_nearly_every_round(
    network: Network, tmp_path: Path
) -> None:
    make_run(
        tmp_path / "0", "--preset", "tiny", "--round-seconds", str(ROUND_S), "--genesis", "+20"
    )
    with ExitStack() as stack:
        nodes = [stack.enter_context(started_on(network, 0, tmp_path / "0"))]
        line = nodes[0].invitation()
        nodes += [
            stack.enter_context(started_on(network, index, tmp_path / str(index), *line))
            for index in (1, CONE, SYMMETRIC)
        ]
        nodes[0].wait_for_status(lambda status: status.members == 4)
        begin = nodes[0].status().round + 2
        nodes[0].wait_for_status(lambda status: status.head_round >= begin + ROUNDS)
        wait_agreed(nodes, 0)
        shares = [measure_share(node, begin) for node in nodes]
        assert min(shares) >= SHARE_MIN, shares
