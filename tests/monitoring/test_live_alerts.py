"""What is wrong with a real swarm reaches the operator, as long as it lasts, and nothing else."""

import contextlib
import os
import re
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import pytest

from tests.monitoring.deployed import PROMETHEUS
from tests.monitoring.faulty_node import Fault, planted
from tests.monitoring.stack import ask
from tests.monitoring.watched import NODES, WatchedNode, WatchedSwarm
from tests.waiting import wait_until_sync

pytestmark = [
    pytest.mark.monitoring,
    pytest.mark.swarm,
    pytest.mark.slow,
    pytest.mark.timeout(300),
]

CHANGE_S = 90.0
"""At most this long from a fault, or its end, to the notice: only a bug takes longer."""

SLOW = frozenset(
    {
        "DemoEventLoopBlocked",
        "DemoRoundLatencyHigh",
        "DemoRoundsSkipped",
        "DemoParticipationLow",
        "DemoNotIncluded",
        "DemoForksFrequent",
    }
)
"""They tell of slowness: on shared cores 2 of the 6 rounds in a short window may well be late."""

BEGINNING = frozenset({"DemoNoNodes"})
"""Prometheus may take 10 s from its start to the first scrape: more than alerts must hold here."""

FIRING = f'ALERTS{{alertstate="firing",alertname!~"{"|".join(sorted(SLOW))}"}}'
FIRED = f"last_over_time({FIRING}[1h])"

SEASONED = "count_over_time(demo_head_round[1h]) >= 30"
"""So many scrapes, 1 s apart: every window of the shortened rules has been full."""

SERIES_MAX = 800


def suffer(
    swarm: WatchedSwarm,
    fault: contextlib.AbstractContextManager[None],
    **expected: set[str],
) -> dict[str, set[str]]:
    """Let the swarm have a fault until these alerts reach the webhook as firing for at least these
    instances, end it, and return when nothing is firing any more.

    Returns all that was told as firing meanwhile, SLOW left out: alert -> instances.
    """
    webhook = swarm.webhook
    wait_for(swarm, lambda: not swarm.query(FIRING))
    begin = len(webhook.notices)
    with fault:
        wait_for(swarm, lambda: all(webhook.firing(a) >= i for a, i in expected.items()))
    wait_for(swarm, lambda: not any(webhook.firing(a) for a in expected))
    wait_for(swarm, lambda: not swarm.query(FIRING))
    told: dict[str, set[str]] = defaultdict(set)
    for notice in webhook.notices[begin:]:
        if notice.status == "firing" and notice.alert not in SLOW:
            told[notice.alert].add(notice.instance)
    return dict(told)


def wait_for(swarm: WatchedSwarm, holds: Callable[[], bool]) -> None:
    """Return when `holds()`. A failure shows what fires and what was told."""
    with contextlib.suppress(AssertionError):
        wait_until_sync(holds, CHANGE_S)
    assert holds(), (swarm.query("ALERTS"), swarm.webhook.notices)


def instances(*nodes: WatchedNode) -> set[str]:
    return {node.instance for node in nodes}


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process stands still until the block ends."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_healthy_swarm_fires_nothing(watched_swarm: WatchedSwarm) -> None:
    wait_for(watched_swarm, lambda: len(watched_swarm.query(SEASONED)) == NODES)
    told = {notice.alert for notice in watched_swarm.webhook.notices}
    assert told <= SLOW | BEGINNING
    fired = {series["metric"]["alertname"] for series in watched_swarm.query(FIRED)}
    assert fired <= BEGINNING


def test_every_rule_is_evaluated(watched_swarm: WatchedSwarm) -> None:
    groups = ask(watched_swarm.prometheus, "/api/v1/rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert [rule["lastError"] for rule in rules if rule["health"] != "ok"] == []
    alerts = {rule["name"] for rule in rules if rule["type"] == "alerting"}
    deployed = (PROMETHEUS / "rules" / "alerts.yml").read_text()
    assert alerts == set(re.findall(r"- alert: (\w+)", deployed))
    assert alerts >= SLOW


def test_every_node_has_the_same_number_of_series(watched_swarm: WatchedSwarm) -> None:
    counts = [float(s["value"][1]) for s in watched_swarm.query("scrape_samples_scraped")]
    assert len(counts) == len(watched_swarm.nodes)
    assert len(set(counts)) == 1
    assert 0 < counts[0] <= SERIES_MAX


def test_a_bucket_of_the_latency_points_to_its_round(watched_swarm: WatchedSwarm) -> None:
    def find_rounds() -> dict[str, set[int]]:
        """Instance -> rounds that exemplars of its latency name."""
        begin_s = time.time() - 3600
        found = ask(
            watched_swarm.prometheus,
            "/api/v1/query_exemplars",
            query="demo_round_latency_seconds_bucket",
            start=str(begin_s),
            end=str(begin_s + 7200),
        )
        rounds: dict[str, set[int]] = defaultdict(set)
        for series in found:
            names = [int(exemplar["labels"]["round"]) for exemplar in series["exemplars"]]
            rounds[series["seriesLabels"]["instance"]].update(names)
        return rounds

    wait_for(watched_swarm, lambda: find_rounds().keys() == instances(*watched_swarm.nodes))
    current = max(float(s["value"][1]) for s in watched_swarm.query("demo_round_current"))
    assert all(0 <= min(rounds) <= max(rounds) <= current for rounds in find_rounds().values())


def test_a_trainer_that_stands_still_stalls_rounds(watched_swarm: WatchedSwarm) -> None:
    victim = watched_swarm.nodes[1]
    fault = stopped(victim.running.status().trainer_pid)
    told = suffer(watched_swarm, fault, DemoRoundsStalled=instances(victim))
    assert told == {"DemoRoundsStalled": instances(victim)}


def test_a_node_without_peers_is_isolated(watched_swarm: WatchedSwarm) -> None:
    victim = watched_swarm.nodes[3]
    fault = planted(victim.faults, Fault.ISOLATED)
    told = suffer(watched_swarm, fault, DemoNodeIsolated=instances(victim))
    assert told == {"DemoNodeIsolated": instances(victim)}


def test_a_node_that_stands_still_is_down(watched_swarm: WatchedSwarm) -> None:
    victim = watched_swarm.nodes[2]
    told = suffer(watched_swarm, stopped(victim.pid), DemoNodeDown=instances(victim))
    assert told == {"DemoNodeDown": instances(victim)}


def test_a_clock_that_peers_correct_is_skewed(watched_swarm: WatchedSwarm) -> None:
    victim = watched_swarm.nodes[2]
    fault = planted(victim.faults, Fault.SKEWED)
    told = suffer(watched_swarm, fault, DemoClockSkew=instances(victim))
    assert told == {"DemoClockSkew": instances(victim)}


def test_unsound_payloads_are_rejected_by_all_others(watched_swarm: WatchedSwarm) -> None:
    *others, liar = watched_swarm.nodes
    fault = planted(liar.faults, Fault.UNSOUND)
    told = suffer(watched_swarm, fault, DemoPayloadsRejected=instances(*others))
    assert told == {"DemoPayloadsRejected": instances(*others)}


def test_another_digest_is_divergence_here_and_a_dispute_elsewhere(
    watched_swarm: WatchedSwarm,
) -> None:
    astray, *others = watched_swarm.nodes
    told = suffer(
        watched_swarm,
        planted(astray.faults, Fault.DIVERGED),
        DemoDigestDisputed=instances(*others),
        DemoDigestDiverged=instances(astray),
    )
    # Until most headers of the window differ, the one astray takes its peers for the few.
    disputed = told.pop("DemoDigestDisputed")
    assert disputed - instances(astray) == instances(*others)
    # Rule 20: it computes its state again, and where that says the same it is told, too.
    assert told.pop("DemoStateFault", instances(astray)) == instances(astray)
    assert told == {"DemoDigestDiverged": instances(astray)}
