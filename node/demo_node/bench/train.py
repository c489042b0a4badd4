"""One training of a trial: a whole swarm over virtual time, or machines without a protocol."""

import time
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from demo_node.bench.learner import CPU, InProcessLearner
from demo_node.bench.trial import Trial, What, plan_manifest
from demo_node.learn.data import evaluate, iterate_batches
from demo_node.learn.local import LocalTrainer
from demo_node.ports import Clock
from demo_node.sim.whole.swarm import SimSwarm
from demo_node.sim.whole.virtual_loop import run_virtual
from demo_node.store.corpus import Corpus
from demo_protocol.assignment import compute_samples
from demo_protocol.errors import LocalFault
from demo_protocol.initial import compute_initial_state
from demo_protocol.manifest import Manifest, compute_run_id
from demo_protocol.schema import compute_schema

DENSE_BYTES_PER_PARAMETER: Final = 4
"""fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one training came to."""

    loss: float  # held-out, nats per byte
    payload_bytes: float  # of one node in one round
    bytes_sent: float  # by one node in one round, everything


def train(trial: Trial, corpus: Corpus, seed: int) -> Outcome:
    """Train from state 0 to the last round. Raises LocalFault where a swarm does not agree."""
    manifest = plan_manifest(trial, seed, corpus.data)
    text = torch.frombuffer(bytearray(corpus.text), dtype=torch.uint8)
    match trial.what:
        case What.SWARM | What.ACCUMULATE:
            return run_virtual(_train_swarm(trial, manifest, text))
        case What.PLAIN | What.AVERAGED:
            return _train_dense(trial, manifest, text)


async def _train_swarm(trial: Trial, manifest: Manifest, text: Tensor) -> Outcome:
    """Real round machines and drivers, and every node's own learner."""
    rounds, micro_batches = trial.length.rounds, trial.length.micro_batches
    learners: list[InProcessLearner] = []

    def make_learner(manifest: Manifest, clock: Clock, name: bytes) -> InProcessLearner:
        learners.append(InProcessLearner(manifest, text, clock, micro_batches))
        return learners[-1]

    swarm = SimSwarm(manifest, make_learner)
    await swarm.start(trial.nodes, stop_round=rounds)
    await swarm.run_until_round(rounds)
    meshes = [swarm.network.find(node.name) for node in swarm.nodes]
    sent = sum(mesh.counters().bytes_out for mesh in meshes if mesh is not None)
    await swarm.run_until_round(rounds + 2)  # nodes show a round when the next one has ended
    _check(trial, swarm, learners)
    loss = await learners[0].evaluate(swarm.nodes[0].view.head)
    await swarm.stop()
    payloads = [len(trained.payload) for learner in learners for trained in learner.trained]
    return Outcome(
        loss=loss,
        payload_bytes=sum(payloads) / len(payloads),
        bytes_sent=sent / trial.nodes / rounds,
    )


def _check(trial: Trial, swarm: SimSwarm, learners: list[InProcessLearner]) -> None:
    """A loss says something only if everyone did the same work and it counted."""
    rounds, micro_batches = trial.length.rounds, trial.length.micro_batches
    if len({node.digest for node in swarm.nodes}) != 1:
        raise LocalFault(f"{trial.name}: the nodes hold different parameters")
    for node, learner in zip(swarm.nodes, learners, strict=True):
        if node.view.head_state.height != rounds:
            raise LocalFault(f"{trial.name}: {node.view.head_state.height} of {rounds} records")
        if [trained.steps for trained in learner.trained] != [micro_batches] * rounds:
            raise LocalFault(f"{trial.name}: a node did not train {micro_batches} micro-batches")
        shown = [view.participants for view in node.observer.rounds]
        if shown[:rounds] != [trial.nodes] * rounds:
            raise LocalFault(f"{trial.name}: a contribution did not count")


def _train_dense(trial: Trial, manifest: Manifest, text: Tensor) -> Outcome:
    """AdamW on one machine, or on several that average their gradients at every step.

    The mean of the machines' gradients is the gradient of one micro-batch that holds all of
    theirs; so one trainer with that micro-batch stands for them.
    """
    micro_batch = manifest.learning.micro_batch * trial.nodes
    samples_per_round = micro_batch * trial.length.micro_batches
    train_bytes, context = manifest.data.train_bytes, manifest.model.context
    total = (train_bytes - 1) // context
    run_id, root = compute_run_id(manifest), bytes.fromhex(manifest.data.root)
    schema = compute_schema(manifest.model)
    initial = compute_initial_state(schema, manifest.seed)
    state = {name: torch.from_numpy(array) for name, array in initial.items()}
    learning = replace(manifest.learning, micro_batch=micro_batch)
    trainer = LocalTrainer(manifest.model, learning, CPU.train, time.perf_counter_ns)
    for round_ in range(trial.length.rounds):
        numbers = np.arange(round_ * samples_per_round, (round_ + 1) * samples_per_round)
        samples = compute_samples(run_id, root, total, numbers)
        batches = iterate_batches(text[:train_bytes], samples, context, micro_batch)
        trainer.train(state, round_, batches, lambda step_ns: True)
        state = {n: p.detach().clone() for n, p in trainer.decoder.named_parameters()}
    dense = DENSE_BYTES_PER_PARAMETER * schema.parameters * trial.length.micro_batches
    return Outcome(
        loss=evaluate(trainer.decoder, text[train_bytes:]),
        payload_bytes=dense if trial.nodes > 1 else 0,
        # What a ring all-reduce, the cheapest way to average, sends; nothing is sent here.
        bytes_sent=dense * 2 * (trial.nodes - 1) / trial.nodes,
    )
