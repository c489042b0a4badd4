"""Whole nodes over virtual time: do they agree, and is every run of a scenario the same?"""

import hashlib
import os
import random
import subprocess
import sys

import pytest

from demo_node.sim.keys import peer_name
from demo_node.sim.whole.swarm import SimSwarm
from demo_protocol.effects import Effect
from demo_protocol.events import Event
from demo_protocol.manifest import Learning
from demo_protocol.payload import payload_bytes_range
from demo_protocol.schema import compute_schema
from tests.builders import manifest
from tests.sim.scenes import assert_agree, height, play, rolled_back


@pytest.mark.parametrize(("count", "rounds"), [(1, 10), (2, 10), (4, 40), (8, 20), (16, 20)])
def test_nodes_on_a_quiet_network_record_every_round_with_everybody_in_it(
    count: int, rounds: int
) -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(count)
        await swarm.run_until_round(rounds)
        assert_agree(swarm)
        for node in swarm.nodes:
            assert height(node) == rounds
            assert [r.participants for r in node.observer.rounds] == [count] * (rounds - 1)
            assert all(r.included for r in node.observer.rounds)
            assert rolled_back(node) == []
        assert len({r.digest for r in swarm.nodes[0].observer.rounds}) == rounds - 1

    play(scenario)


def test_each_node_may_choose_its_own_k_up_to_the_manifests() -> None:
    """All are listed, all agree, and the header says what it was. 0: the manifest's."""
    chosen = (0, 8, 1, 32, 3)

    async def scenario(swarm: SimSwarm) -> None:
        for index, k in enumerate(chosen):
            await swarm.add(index, k=k)
        await swarm.run_until_round(12)
        assert_agree(swarm)
        view = swarm.nodes[0].view
        records = list(view.chain.ancestors(view.head))[:-1]  # the last is the genesis
        assert len(records) == 12
        schema = compute_schema(swarm.manifest.model)
        for record in records:
            said = {header.body.peer: header.body for header in record.contributions}
            for index, k in enumerate(chosen):
                body = said[peer_name(index)]
                assert body.k == (k or 32)
                assert body.payload_bytes in payload_bytes_range(schema, k or 32)
        assert {node.digest for node in swarm.nodes} == {swarm.nodes[0].digest}

    play(scenario, SimSwarm(manifest(learning=Learning(k=32))))


def test_nodes_that_stop_training_at_a_round_end_with_its_predecessors_record() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4, stop_round=7)
        await swarm.run_until_round(12)
        assert_agree(swarm)
        assert swarm.nodes[0].view.head_state.round == 6

    play(scenario)


def log_of(seed: int) -> str:
    """A digest of everything that happened to every node of a stormy swarm, and what it did."""
    log = hashlib.sha256()

    def watch(name: bytes, event: Event, effects: list[Effect]) -> None:
        log.update(repr((name, event, effects)).encode())

    async def scenario(swarm: SimSwarm) -> None:
        rng = random.Random(seed)
        swarm.network.delay_s = lambda sender, receiver, size: rng.uniform(0.005, 0.5)
        swarm.faults.held_back_s = lambda heard: None if rng.random() < 0.2 else 0.0
        await swarm.start(5)
        await swarm.run_until_round(8)
        assert rolled_back(swarm.nodes[0])

    play(scenario, SimSwarm(manifest(), watch=watch))
    return log.hexdigest()


def test_the_same_seed_is_the_same_run_to_the_last_effect() -> None:
    assert log_of(1) == log_of(1)
    assert log_of(1) != log_of(2)


def test_the_run_does_not_depend_on_the_order_of_sets() -> None:
    """Python's hashes of bytes differ from process to process."""
    command = "from tests.sim.test_swarm import log_of; print(log_of(1))"
    logs = {
        subprocess.run(
            [sys.executable, "-c", command],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert logs == {log_of(1).encode() + b"\n"}
