"""Training is real: replicas that each compute their own states hold the same bits, and learn."""

from dataclasses import replace

import pytest
import torch

from demo_node.sim.real_learning import RealLearning
from demo_node.sim.scenario import Do, Event, Scenario, standard_mix
from demo_node.sim.simulation import simulate
from demo_protocol.effects import Apply, Train
from tests.simulate.stages import Stage, sized

QUIET = Scenario(nodes=4, rounds=12, learner="real")


@pytest.mark.slow
def test_a_quiet_swarm_learns() -> None:
    report = simulate(QUIET, 1)
    assert not report.violations, report.transcript
    assert report.records == 12
    assert report.losses is not None
    first, last = report.losses
    assert first == pytest.approx(5.5, abs=0.3)  # of 256 bytes each is about as likely: ln 256
    assert last < first - 0.8


def test_equal_seeds_give_equal_bits_and_others_do_not() -> None:
    one, again, other = (simulate(replace(QUIET, rounds=4), seed) for seed in (1, 1, 2))
    assert one.event_log_digest == again.event_log_digest
    assert one.losses == again.losses
    assert other.losses != one.losses


@pytest.mark.slow
def test_replicas_agree_whatever_befalls_them() -> None:
    """Deaths, cuts, joiners, lost trainers, liars: states come from snapshots and by replaying."""
    report = simulate(replace(sized(standard_mix(), 8, 30), learner="real"), 3)
    assert not report.violations, report.transcript
    assert report.faults.total() > 10
    assert report.losses is not None
    assert report.losses[1] < report.losses[0] - 0.8


def test_one_wrong_bit_in_one_replica_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    honest, seen = RealLearning.apply, list[bytes]()

    def drop_a_payload(learning: RealLearning, effect: Apply, parent_digest: bytes) -> bytes:
        seen.append(effect.record)
        if len(seen) == 5:
            effect = replace(effect, payload_hashes=effect.payload_hashes[1:])
        return honest(learning, effect, parent_digest)

    monkeypatch.setattr(RealLearning, "apply", drop_a_payload)
    report = simulate(replace(QUIET, rounds=4), 1)
    assert {v.invariant for v in report.violations} == {"equal records have equal digests"}


@pytest.mark.slow
def test_a_trainer_that_dies_loads_a_real_snapshot_and_agrees() -> None:
    dies = Event(do=Do.TRAINER_DIES, round=9, nodes=(1,))
    report = simulate(replace(QUIET, events=(dies,)), 1)
    assert report.faults["trainer_dies"] == 1
    assert not report.violations, report.transcript
    assert report.records == 12


@pytest.mark.parametrize("released", [False, True])
def test_rule_24_what_did_not_count_comes_back_and_what_did_does_not(released: bool) -> None:
    world = Stage(QUIET).world
    learning = RealLearning(world)
    learning.begin(world.first)
    order = Train(
        round=0,
        base=world.root.record,
        deadline_ms=1,
        sample_first=0,
        sample_count=8,
        probation_key=b"",
    )
    assert learning.train(order, 8).payload_bytes > 0
    residual = learning._learner._encoder.residual
    before = residual.clone()
    if released:
        learning.release(0)
    learning.restore(0)
    assert torch.equal(before, learning._learner._encoder.residual) == released
