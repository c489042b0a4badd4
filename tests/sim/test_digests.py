"""Rule 20: digests accuse, replays decide, whoever errs: a memory, a device, or most of the others.

(PROTOCOL.md, "Truth of state" and "Digest and eclipse".)
"""

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
import torch

from demo_node.bench.learner import InProcessLearner
from demo_node.ports import ApplyOrder, Clock, Learner
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.model_learner import ModelLearner
from demo_node.sim.whole.swarm import SimNode, SimSwarm
from demo_protocol.effects import Replay
from demo_protocol.manifest import Agreement, Manifest
from demo_protocol.schema import compute_schema
from tests.builders import manifest
from tests.sim.rogue import TRAIN_END, Rogue
from tests.sim.scenes import assert_agree, height, play, resyncs
from tests.trainer.builders import corpus_bytes

ERRING = peer_name(0)
"""The node whose memory or device errs."""

SHORT = Agreement(payload_window_rounds=40, snapshot_every=4)

Errs = Callable[[ApplyOrder, int], bool]
"""(what is applied, how often this record was before) -> does one bit of the result flip?"""


@dataclass
class Erring:
    """Learners of a swarm in which one errs."""

    errs: Errs
    applied: dict[bytes, int] = field(default_factory=dict)

    def __call__(self, run: Manifest, clock: Clock, name: bytes) -> Learner:
        """One whose tensors can be compared with the others'."""
        return ErringLearner(run, clock, name, self)


class ErringLearner(ModelLearner):
    """Flips one bit of one tensor where it is told to; the error stays in all that follows."""

    def __init__(self, run: Manifest, clock: Clock, name: bytes, erring: Erring) -> None:
        super().__init__(run, clock, name)
        self._erring = erring
        self._flawed: set[bytes] = set()

    async def apply(self, order: ApplyOrder) -> bytes:
        """As it should be, but for a bit. What is held is not computed again (ports.Learner)."""
        if order.record in self.states:
            return self.states[order.record]
        digest = await super().apply(order)
        times = self._erring.applied.get(order.record, 0)
        is_erring = self._name == ERRING
        self._erring.applied[order.record] = times + is_erring
        if is_erring and self._erring.errs(order, times):
            digest = bytes([digest[0] ^ 1]) + digest[1:]
            self.states[order.record] = digest
            self._flawed.add(order.record)
        elif order.parent in self._flawed:
            self._flawed.add(order.record)
        else:
            self._flawed.discard(order.record)
        return digest

    async def forget(self, records: Sequence[bytes]) -> None:
        """A trainer that is busy takes its time over it."""
        await asyncio.sleep(0.05)
        await super().forget(records)

    async def tensor_digests(self, record: bytes) -> tuple[bytes, ...]:
        """The error is in the third tensor, whatever else the model of a state can show."""
        digests = [b"sound..."] * len(compute_schema(self._manifest.model).shapes)
        if record in self._flawed:
            digests[2] = b"flawed.."
        return tuple(digests)


def events(node: SimNode, name: str) -> list[dict[str, object]]:
    return [fields for event, fields in node.observer.events if event == name]


def swarm_of(errs: Errs) -> SimSwarm:
    return SimSwarm(manifest(agreement=SHORT), make_learner=Erring(errs))


def contributed(node: SimNode, author: bytes) -> set[int]:
    """Rounds in which it was listed, on the node's chain."""
    return {
        step.round
        for step in node.view.chain.ancestors(node.view.head)
        if any(h.body.peer == author and h.body.k for h in step.contributions)
    }


@pytest.mark.parametrize("round_", [9, 10])
def test_a_bit_that_flipped_once_is_found_and_healed_by_a_replay(round_: int) -> None:
    """A snapshot is taken of the state after round 10: it is wrong, and not replayed from."""

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(5)
        await swarm.run_until_round(20)
        assert_agree(swarm)
        erring = swarm.nodes[0]
        assert [fields["round"] for fields in events(erring, "state.doubted")] == [round_]
        assert len(events(erring, "state.healed")) == 1
        assert not events(erring, "state.fault")
        assert resyncs(erring) == 0
        assert contributed(swarm.nodes[1], ERRING) >= set(range(round_ + 3, 19))
        for node in swarm.nodes[1:]:
            assert not events(node, "state.doubted")
            assert height(node) == 20

    play(scenario, swarm_of(lambda order, times: order.round == round_ and times == 0))


def test_a_snapshot_that_most_contradict_is_no_start_even_where_none_is_verified() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(5)
        await swarm.run_until_round(14)
        erring = swarm.nodes[0]
        assert events(erring, "state.healed")
        load = await erring.driver.recovering.find_replay(Replay(erring.view.head, frozenset()))
        assert isinstance(load, functools.partial)
        (start,) = load.args
        assert start.state.round == 6  # that of 10 is wrong, and gone

    play(scenario, swarm_of(lambda order, times: order.round == 10 and times == 0))


def test_after_a_restart_a_snapshot_of_the_wrong_state_is_not_begun_with_for_long() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(5)
        await swarm.run_until_round(14)
        erring = swarm.nodes[0]
        assert events(erring, "state.healed")
        await swarm.kill(erring)
        again = await swarm.add(0, disk=erring.disk, syncing=True, patience_ms=2_000)
        await swarm.run_until_round(24)
        assert_agree(swarm)
        assert not events(again, "state.fault")
        assert contributed(swarm.nodes[0], ERRING) >= set(range(20, 23))

    play(scenario, swarm_of(lambda order, times: order.round == 10 and times == 0))


@pytest.mark.parametrize("round_", [9, 10])
def test_a_device_that_errs_always_falls_silent_and_stands_by_what_it_computes(
    round_: int,
) -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(5)
        await swarm.run_until_round(24)
        erring, others = swarm.nodes[0], swarm.nodes[1:]
        assert len({node.view.head for node in swarm.nodes}) == 1  # it follows
        assert len({node.digest for node in others}) == 1
        assert erring.digest != others[0].digest  # and copies nobody's state
        third = sorted(erring.view.schema.shapes)[2]
        assert events(erring, "state.fault") == [{"round": round_, "tensor": third}]
        assert erring.driver.fault == f"round {round_}, {third}"
        assert len(events(erring, "state.doubted")) == 1
        # Silent: no contribution and no vote after the round that it was accused in.
        assert contributed(others[0], ERRING) == set(range(round_ + 2))
        assert {node.view.votes.newest[ERRING][0] for node in swarm.nodes} == {round_ + 1}
        for node in others:
            assert height(node) == 24
            assert contributed(node, node.name) == set(range(24))
            assert not events(node, "state.doubted")

    play(scenario, swarm_of(lambda order, times: order.round == round_))


def test_of_two_peers_nobody_is_most_and_nothing_is_replayed() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(16)
        assert swarm.nodes[0].digest != swarm.nodes[1].digest
        assert not [node for node in swarm.nodes if events(node, "state.doubted")]
        assert events(swarm.nodes[0], "digest.differed")

    play(scenario, swarm_of(lambda order, times: order.round == 9))


def test_a_third_of_liars_makes_nobody_replay() -> None:
    """Three of ten, who say the same wrong digest in every round, and before everybody else."""

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(7)
        rogues = await asyncio.gather(
            *(Rogue.enter_as_member(swarm, number) for number in (20, 21, 22))
        )
        for round_ in range(3, 16):
            await rogues[0].wait_until(round_, TRAIN_END)
            for rogue in rogues:
                await rogue.publish(rogue.header(round_, digest=b"forged!!"))
        await swarm.run_until_round(18)
        assert_agree(swarm)
        for node in swarm.nodes:
            # They propose nothing: where both slots are theirs there is no record.
            assert height(node) >= 14
            assert events(node, "digest.differed")
            assert not events(node, "state.doubted")

    play(scenario)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_bit_that_flips_in_a_real_trainers_memory_is_healed() -> None:
    """After its digest was computed: the next state is the first that shows it."""
    run = manifest(agreement=SHORT)
    corpus = torch.frombuffer(bytearray(corpus_bytes(run)), dtype=torch.uint8)

    def make(made: Manifest, clock: Clock, name: bytes) -> Learner:
        return InProcessLearner(made, corpus, clock, micro_batches=1)

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(7)
        erring, honest = swarm.nodes[0], swarm.nodes[1]
        learner = erring.learner
        assert isinstance(learner, InProcessLearner)
        held = learner._learner._states[erring.view.head]
        name = sorted(held.tensors)[3]
        held.tensors[name].view(torch.int32).reshape(-1)[5] ^= 1 << 22
        await swarm.run_until_round(8)
        assert erring.digest != honest.digest
        await swarm.run_until_round(11)
        assert_agree(swarm)
        assert [event["round"] for event in events(erring, "state.doubted")] == [7]
        assert len(events(erring, "state.healed")) == 1
        assert not events(erring, "state.fault")
        assert torch.equal(
            learner._learner._states[erring.view.head].tensors[name],
            _tensors(honest)[name],
        )

    play(scenario, SimSwarm(run, make_learner=make))


def _tensors(node: SimNode) -> Mapping[str, torch.Tensor]:
    assert isinstance(node.learner, InProcessLearner)
    return node.learner._learner._states[node.view.head].tensors
