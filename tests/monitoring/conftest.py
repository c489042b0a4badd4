"""What the tests of monitoring share: one swarm that is watched."""

from collections.abc import Iterator

import pytest

from tests.monitoring.watched import WatchedSwarm, watched
from tests.needs import needs


@pytest.fixture(scope="session")
def watched_swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedSwarm]:
    """Four nodes that train together, Prometheus, Alertmanager and a webhook."""
    needs("prometheus", "prometheus-alertmanager")
    with watched(tmp_path_factory.mktemp("watched")) as swarm:
        yield swarm
