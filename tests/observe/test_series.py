"""However many peers, rounds and events: the same series, and nothing of others in a label."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import Histogram
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)

import demo_node
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.observe.events import EVENTS
from demo_node.observe.meter import Meter
from demo_node.observe.metrics import METRICS, OPS
from demo_node.observe.network_metrics import VERDICTS
from demo_node.observer import Figure
from demo_node.ports import Topic
from demo_node.sim.keys import peer_name
from demo_node.views import NodeState, Outcome, Phase, PhaseView, RoundView
from tests.control.fake_node import round_view, status_view
from tests.observe.exposition import OWN, SERIES_MAX, get_labels, read_samples, read_series

ROUNDS = 10_000
DECLARED = {metric.name: metric for metric in METRICS}
SUFFIXES = re.compile(r"_(bucket|sum|count)$")


def feed(meter: Meter, peers: int) -> set[str]:
    """All that a node may tell, of a run with so many peers; returns what names others in it."""
    told: set[str] = set()
    for number in range(peers):
        peer = peer_name(number)
        address = f"/ip4/10.0.{number // 250}.{number % 250}/tcp/4001/p2p/{encode_peer_id(peer)}"
        reason = f"{encode_peer_id(peer)} broke off: [Errno 104]"
        told |= {peer.hex(), encode_peer_id(peer), address, reason, peer[:8].hex()}
        for event in (*EVENTS, f"peer.{peer.hex()}"):
            meter.on_event(event, peer=peer.hex(), address=address, reason=reason, round=number)
        meter.on_measured("demo_peer_rtt_seconds", 0.01 * number)
        meter.on_loop_lag(0.001 * number)
        meter.on_figures(list_figures(number))
        meter.on_status(
            status_view(
                state=list(NodeState)[number % len(NodeState)],
                detail=reason,
                addresses=(address,),
                head=peer,
                digest=peer[:8],
                snapshot_record=peer,
                snapshot_path=f"/snapshots/{peer.hex()}",
                round=number,
                peers=number,
                members=number,
                forks_total=number,
            )
        )
    for round_ in range(ROUNDS):
        told.add(str(round_ + 100_000))
        meter.on_round_begun(round_ + 100_000)
        for op in OPS:
            meter.on_op(op, 0.1)
        meter.on_message(list(Topic)[round_ % 3], VERDICTS[round_ // 3 % 3])
        meter.on_round(make_round(round_ + 100_000))
    for metric in METRICS:
        if metric.kind is Histogram:
            for labels in list_labels(metric.labels):
                meter.on_measured(metric.name, 0.2, *labels)
    return told


def make_round(round_: int) -> RoundView:
    name = peer_name(round_)
    return round_view(
        round_,
        outcome=list(Outcome)[round_ % len(Outcome)],
        record=name,
        digest=name[:8],
        phases=tuple(
            PhaseView(phase, round_, round_ + 9, round_ + 20)
            for phase in Phase
            if phase is not Phase.NONE
        ),
    )


def list_labels(labels: Mapping[str, tuple[str, ...]]) -> Iterable[tuple[str, ...]]:
    """Some values of each label, all of them at least once."""
    longest = max((len(values) for values in labels.values()), default=1)
    for turn in range(longest):
        yield tuple(values[turn % len(values)] for values in labels.values())


def list_figures(number: int) -> Iterable[Figure]:
    """What the parts of a node say of levels and totals: of every metric that has no other way."""
    for metric in METRICS:
        if metric.kind is not Histogram and metric.name not in OWN:
            for labels in list_labels(metric.labels):
                yield Figure(metric.name, float(number), labels)


@dataclass(frozen=True, slots=True)
class Fed:
    """A meter that was told all, and whatever in it named others."""

    meter: Meter
    told: set[str]


@pytest.fixture(scope="module")
def pair() -> Fed:
    """In a run with one other node."""
    meter = Meter()
    return Fed(meter, feed(meter, 1))


@pytest.fixture(scope="module")
def swarm() -> Fed:
    """In a run with 1,000 others."""
    meter = Meter()
    return Fed(meter, feed(meter, 1_000))


def test_a_swarm_of_1_000_has_the_series_of_a_pair(pair: Fed, swarm: Fed) -> None:
    of_pair, of_swarm = read_series(pair.meter), read_series(swarm.meter)
    assert of_pair == of_swarm
    assert len(of_swarm) <= SERIES_MAX
    assert {s for s in of_swarm if s[0] not in OWN} == {
        s for s in read_series(Meter()) if s[0] not in OWN
    }


def test_no_label_says_who_others_are_or_which_round_it_was(pair: Fed, swarm: Fed) -> None:
    for fed in (pair, swarm):
        samples = [s for s in read_samples(fed.meter) if s.name not in OWN]
        for sample in samples:
            declared = DECLARED.get(SUFFIXES.sub("", sample.name)) or DECLARED.get(sample.name)
            labels = get_labels(sample)
            if declared is None:
                assert re.match(r"(python|process)_", sample.name), sample.name
                assert all(value.isdigit() for value in labels.values())  # of the collector
                continue
            assert labels.keys() == declared.labels.keys()
            assert all(value in declared.labels[label] for label, value in labels.items())
        assert fed.told.isdisjoint(value for s in samples for value in get_labels(s).values())


def test_the_info_metrics_say_what_this_node_is_and_no_more(swarm: Fed) -> None:
    view = status_view()
    (info,) = [s for s in read_samples(swarm.meter) if s.name == "demo_node_info"]
    assert info.labels == {
        "peer_id": view.peer_id,
        "run_id": view.run_id.hex(),
        "run_name": view.run_name,
    }
    assert len([s for s in read_samples(swarm.meter) if s.name == "demo_build_info"]) == 1


def test_what_is_not_declared_is_refused_and_makes_no_series() -> None:
    meter, stranger = Meter(), encode_peer_id(peer_name(7))
    before = read_series(meter)
    for name, labels in (
        ("demo_dials_total", (stranger,)),
        ("demo_gossip_mesh_peers", (stranger,)),
        ("demo_peers", (stranger,)),
        ("demo_dials_total", ()),
        ("demo_peers_by_name", ()),
    ):
        with pytest.raises(KeyError):
            meter.on_figures([Figure(name, 1, labels)])
    with pytest.raises(KeyError):
        meter.on_message(Topic.HEADERS, stranger)
    with pytest.raises(KeyError):
        meter.on_measured("demo_payload_bytes", 1, stranger)
    with pytest.raises(KeyError):
        meter.on_op(stranger, 1)
    meter.on_event(f"peer.{stranger}")
    assert read_series(meter) == before


def test_exemplars_point_to_a_round_and_its_trace_only(swarm: Fed) -> None:
    text = generate_openmetrics(swarm.meter.registry).decode()  # type: ignore[no-untyped-call]
    exemplars = [
        sample.exemplar
        for family in parse_openmetrics(text)  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.exemplar is not None
    ]
    assert exemplars
    assert all(exemplar.labels.keys() <= {"round", "trace_id"} for exemplar in exemplars)


@pytest.mark.parametrize("name", DECLARED)
def test_somebody_in_the_node_feeds_every_metric(name: str) -> None:
    folder = Path(demo_node.__file__).parent
    assert [
        path
        for path in folder.rglob("*.py")
        if path.name != "metrics.py" and f'"{name}"' in path.read_text()
    ]
