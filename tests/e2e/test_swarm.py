"""The issue's main job: four real nodes train one model and agree, bit for bit."""

import hashlib
import itertools
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from safetensors.numpy import load_file

from demo_node.ports import ApplyOrder, TrainOrder
from demo_node.store.datadir import DataDir
from demo_node.views import Outcome
from demo_protocol.digest import compute_digest
from demo_protocol.errors import Reject
from tests.cli.command import demo_node
from tests.e2e.audit import replay
from tests.e2e.processes import find_processes, is_alive
from tests.e2e.swarm_run import NODES, ROUNDS, Audit, SwarmRun, audit, mesh_port

pytestmark = [pytest.mark.swarm, pytest.mark.slow, pytest.mark.timeout(300)]

DENSE_BYTES = 4 * 147_776
"""Every parameter of `tiny` as fp32."""

KEYS: dict[str, Callable[[Any], bool]] = {
    "schema": lambda v: v == 1,
    "nodes": lambda v: v == NODES,
    "rounds": lambda v: v == ROUNDS,
    "rounds_completed": lambda v: isinstance(v, int) and 0 < v <= ROUNDS,
    "digests_equal": lambda v: v is True,
    "loss_first": lambda v: 4 < v < 8,
    "loss_last": lambda v: 0 < v < 8,
    "participants_median": lambda v: 0 < v <= NODES,
    "payload_bytes_per_parameter": lambda v: 0 < v <= 0.033,
    "bytes_sent_per_node_per_round": lambda v: v > 0,
    "round_latency_p50_s": lambda v: 0 < v < 60,
    "round_latency_p95_s": lambda v: 0 < v < 60,
    "exchange_p95_s": lambda v: 0 < v < 60,
    "train_share": lambda v: 0 < v < 1,
    "pids": lambda v: len(set(v)) == NODES and all(isinstance(pid, int) for pid in v),
    "links": lambda v: all(isinstance(pid, int) for a, b in v for pid in (a, b)),
    "kills": lambda v: v == 0,
    "joins": lambda v: v == 0,
    "stalls": lambda v: v == 0,
    "replayed_rounds": lambda v: v == 0,
    "faults": lambda v: v == [],
    "scenario": lambda v: isinstance(v, str),
    "nodes_started": lambda v: v == NODES,
    "leaves": lambda v: v == 0,
    "cuts": lambda v: v == 0,
    "heals": lambda v: v == [],
    "held": lambda v: isinstance(v, int | bool),
    "rollbacks": lambda v: isinstance(v, int) and v >= 0,
}


def test_the_command_succeeds_and_says_so(swarm_run: SwarmRun) -> None:
    assert swarm_run.exit_code == 0, swarm_run.stderr
    digest = swarm_run.last_looks[0].status.digest.hex()
    sentence = f"4 of 4 nodes hold the same 147,776 parameters after {ROUNDS} rounds"
    assert f"{sentence} (digest {digest})" in swarm_run.stderr


def test_the_document_has_the_keys_of_the_issue(swarm_run: SwarmRun) -> None:
    document = swarm_run.document
    assert document.keys() == KEYS.keys()
    wrong = {key: document[key] for key, holds in KEYS.items() if not holds(document[key])}
    assert not wrong


def test_the_swarm_learns_and_hardly_misses_a_round(swarm_run: SwarmRun) -> None:
    document = swarm_run.document
    assert document["loss_last"] < document["loss_first"]
    assert document["rounds_completed"] >= ROUNDS - 2
    # 0.45 is the goal, on a machine that does nothing else.
    assert document["train_share"] >= 0.30


def test_median_participants_are_nearly_all(swarm_run: SwarmRun, swarm_audit: Audit) -> None:
    path = swarm_audit.books.path_to(swarm_audit.head)
    counts = [sum(header.body.k > 0 for header in record.contributions) for record in path]
    assert statistics.median(counts) >= 3.5
    assert swarm_run.document["participants_median"] == statistics.median(counts)


def test_four_processes_hold_connections_to_each_other(swarm_run: SwarmRun) -> None:
    pids = [look.status.pid for look in swarm_run.last_looks]
    assert sorted(pids) == sorted(swarm_run.document["pids"])
    ports = {look.status.pid: mesh_port(look.status) for look in swarm_run.last_looks}
    # Of the last looks, since one may fall into the moment in which nodes end.
    seen = {
        frozenset((look.status.pid, pid))
        for looks in swarm_run.looks
        for look in looks[-4:]
        for pid, port in ports.items()
        if port in look.remote_ports and pid != look.status.pid
    }
    pairs = {frozenset(pair) for pair in itertools.combinations(pids, 2)}
    assert seen == pairs
    assert {frozenset(link) for link in swarm_run.document["links"]} == pairs


def test_the_digest_changes_at_every_record(swarm_run: SwarmRun, swarm_audit: Audit) -> None:
    assert len(swarm_audit.digests) == swarm_run.document["rounds_completed"] + 1
    assert len(set(swarm_audit.digests.values())) == len(swarm_audit.digests)


def test_a_replay_of_the_chain_gives_the_digests_that_the_nodes_reported(
    swarm_run: SwarmRun, swarm_audit: Audit
) -> None:
    digests = swarm_audit.digests
    for look in swarm_run.last_looks:
        assert look.status.digest == digests[look.status.head]
        reported = {v.record: v.digest for v in look.rounds if v.outcome is Outcome.RECORDED}
        assert len(reported) >= ROUNDS // 2
        assert reported.items() <= digests.items()
    headers = [
        header.body
        for record in swarm_audit.books.path_to(swarm_audit.head)
        for header in record.contributions
    ]
    # Rule 9: after a fork, a base may be a sibling that the chain left; its state is not replayed.
    on_chain = [header for header in headers if header.base in digests]
    assert len(on_chain) > len(headers) / 2
    assert all(header.digest == digests[header.base] for header in on_chain)


def test_every_node_kept_the_same_chain_and_the_parameters_at_its_end(
    swarm_run: SwarmRun, swarm_audit: Audit
) -> None:
    path = [record.hash for record in swarm_audit.books.path_to(swarm_audit.head)]
    for index in range(NODES):
        other = audit(swarm_run, index)
        assert [record.hash for record in other.books.path_to(other.head)] == path
        snapshots = DataDir(swarm_run.datadir(index)).snapshots
        (file,) = snapshots.glob(f"*-{path[-1].hex()[:16]}.safetensors")
        assert compute_digest(load_file(file)) == swarm_audit.digests[path[-1]]


def test_verify_and_replay_find_every_folder_sound(swarm_run: SwarmRun) -> None:
    for index in range(NODES):
        for command in (["verify"], ["replay", "--device", "cpu"]):
            done = demo_node(*command, "--datadir", swarm_run.datadir(index), "--json")
            assert done.returncode == 0, done.stdout + done.stderr
            document = json.loads(done.stdout)
            assert document["findings"] == []
            assert document["notes"] == []
        assert document["looked"]["begin"] == "with state 0"


def test_a_flipped_bit_of_one_payload_changes_the_digest(swarm_audit: Audit) -> None:
    books = swarm_audit.books
    path = books.path_to(swarm_audit.head)
    record = path[len(path) // 2]
    learner = books.make_learner()
    replay(learner, [books.order(step) for step in path if step.round < record.round])
    order = books.order(record)
    first, *others = order.payloads
    refused, digests = 0, []
    for position in range(64, len(first) * 8, len(first)):
        flipped = bytearray(first)
        flipped[position // 8] ^= 1 << position % 8
        assert hashlib.sha256(flipped).digest() not in books.payloads
        try:
            digests.append(learner.apply(_change(order, (bytes(flipped), *others))))
        except Reject:
            refused += 1
        learner.forget([record.hash])
    assert digests, f"all {refused} were refused before they could change anything"
    # Where the other three outvote the flipped one in every value, the steps are rightly equal.
    changed = [digest for digest in digests if digest != swarm_audit.digests[record.hash]]
    assert len(changed) > len(digests) / 2
    assert learner.apply(order) == swarm_audit.digests[record.hash]


def test_a_node_alone_would_have_come_to_other_parameters(swarm_audit: Audit) -> None:
    books = swarm_audit.books
    path = [r for r in books.path_to(swarm_audit.head) if len(r.contributions) == NODES][:3]
    learner, base = books.make_learner(), books.run_id
    for number, record in enumerate(path):
        trained = learner.train(
            TrainOrder(
                round=record.round,
                base=base,
                deadline_ms=2**62,
                sample_first=16 * number,
                sample_count=16,
                k=books.manifest.learning.k,
            )
        )
        order = _change(books.order(record), (trained.payload,), parent=base)
        assert learner.apply(order) not in swarm_audit.digests.values()
        base = record.hash
    assert path


def test_nothing_dense_crosses_a_socket(swarm_run: SwarmRun) -> None:
    assert swarm_run.document["bytes_sent_per_node_per_round"] < DENSE_BYTES / 5
    for look in swarm_run.last_looks:
        steady = [view for view in look.rounds if view.included][1:]
        assert len(steady) >= ROUNDS // 2
        assert max(view.bytes_out for view in steady) < DENSE_BYTES / 3
        assert max(view.bytes_in for view in steady) < DENSE_BYTES / 3
        assert 0 < sum(view.bytes_out for view in steady) / len(steady) < DENSE_BYTES / 5


def test_metrics_grow_by_what_the_chain_says(swarm_run: SwarmRun, swarm_audit: Audit) -> None:
    records = {r.round: r for r in swarm_audit.books.path_to(swarm_audit.head)}
    for look in swarm_run.last_looks:
        metrics, me, shown = look.metrics, look.status.peer, look.rounds
        own = {
            round_: header.body
            for round_, record in records.items()
            for header in record.contributions
            if header.body.peer == me and round_ in {view.round for view in shown}
        }
        assert _count_rounds(metrics, Outcome.RECORDED, Outcome.LATE) == sum(
            view.round in records for view in shown
        )
        assert _count_rounds(metrics, *Outcome) == len(shown)
        assert metrics["demo_rounds_included_total"] == len(own) > 0
        assert [view.round for view in shown if view.included] == list(own)
        contributed = [view for view in shown if view.payload_bytes]
        assert metrics['demo_payload_bytes_count{direction="sent"}'] == len(contributed)
        sent = metrics['demo_payload_bytes_sum{direction="sent"}']
        assert sent == sum(view.payload_bytes for view in contributed)
        for view in contributed:
            if view.round in own and own[view.round].k:
                assert view.payload_bytes == own[view.round].payload_bytes
                assert view.samples == own[view.round].samples
        samples = [view.samples for view in shown]
        # Of the running round and the one before, too, which are not shown yet.
        assert 0 <= metrics["demo_train_samples_total"] - sum(samples) <= 2 * max(samples)


def test_metrics_never_fall_and_follow_the_head(swarm_run: SwarmRun) -> None:
    for looks in swarm_run.looks:
        for before, after in itertools.pairwise(looks):
            fallen = [
                series
                for series, value in before.metrics.items()
                if series.split("{")[0].endswith(("_total", "_count", "_sum", "_bucket"))
                and after.metrics[series] < value
            ]
            assert not fallen
        last = looks[-1]
        assert last.metrics["demo_peers"] == NODES - 1
        assert last.metrics["demo_members"] == NODES
        assert last.metrics["demo_head_height"] <= last.status.height
        for protocol in ("gossip", "payload", "other"):
            assert (
                last.metrics[f'demo_network_bytes_total{{direction="out",protocol="{protocol}"}}']
                > 0
            )


def test_the_network_side_of_a_node_leaves_the_cores_to_training(
    swarm_run: SwarmRun, figures: dict[str, str]
) -> None:
    spent = []
    for looks in swarm_run.looks:
        first = next(look for look in looks if look.status.height > 0)
        last = looks[-1]
        rounds = last.status.round - first.status.round
        spent.append((last.cpu_s - first.cpu_s) / rounds)
        assert rounds >= ROUNDS // 2
        assert spent[-1] < 0.25 * last.status.round_ms / 1000
    figures["CPU seconds per round of the node process"] = f"{statistics.fmean(spent):.3f}"


def test_no_process_is_left(swarm_run: SwarmRun) -> None:
    assert not find_processes(swarm_run.folder)
    pids = {look.status.pid for looks in swarm_run.looks for look in looks}
    trainers = {look.status.trainer_pid for looks in swarm_run.looks for look in looks} - {0}
    assert len(trainers) == NODES
    assert not [pid for pid in pids | trainers if is_alive(pid)]


def _change(order: ApplyOrder, payloads: tuple[bytes, ...], parent: bytes = b"") -> ApplyOrder:
    return replace(order, payloads=payloads, parent=parent or order.parent)


def _count_rounds(metrics: dict[str, float], *outcomes: Outcome) -> float:
    return sum(metrics[f'demo_rounds_total{{outcome="{outcome}"}}'] for outcome in outcomes)
