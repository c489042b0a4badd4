"""Does our way of exchanging cost anything? The same trainings, with nothing but it different.

"exact": the nodes' integers against the same algorithm in float64. "accumulate": DeMo as published,
with our payloads against with the reference's. Both sides of a comparison train alike, from the
same state on the same samples in the same order, with each of a few learning rates; what is
compared is the best of each.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import fmean
from typing import Final

import numpy as np
import torch
from torch import Tensor

from demo_node.bench.exchange import Exchange, OwnExchange, ReferenceExchange
from demo_node.bench.ideal import IdealExchange
from demo_node.bench.learner import CPU
from demo_node.bench.trial import Length, Trial, What, plan_manifest, plan_trials
from demo_node.learn.data import EVALUATION_BATCH, gather_batch, iterate_batches
from demo_node.learn.local import LocalTrainer
from demo_node.learn.model import Decoder, load_state
from demo_node.store.corpus import Corpus
from demo_node.trainer.tensors import make_initial
from demo_protocol.assignment import compute_samples
from demo_protocol.manifest import PPB, Learning, Manifest
from demo_protocol.schema import Schema, compute_schema

PRESET: Final = "tiny"

EVALUATED_SAMPLES: Final = 4096
"""From all of the held-out text: on the 16 KiB that nodes look at, two trainings of one kind differ
by 1.2 % (standard deviation), on these by 0.7 %."""


class Comparison(StrEnum):
    """What differs between the two sides."""

    EXACT = "exact"
    """Scale codes, integer votes and the integer transform, or float64 throughout."""
    ACCUMULATE = "accumulate"
    """One bit a value and votes, or fp32 values and their mean over senders."""


class Side(StrEnum):
    """How the nodes exchange."""

    OWN = "demo-node"
    IDEAL = "float64"
    REFERENCE = "reference"


MakeExchange = Callable[[Schema, Learning, int], Exchange]

EXCHANGES: Final[dict[Side, MakeExchange]] = {
    Side.OWN: OwnExchange,
    Side.IDEAL: IdealExchange,
    Side.REFERENCE: ReferenceExchange,
}

SIDES: Final[dict[Comparison, tuple[Side, Side]]] = {
    Comparison.EXACT: (Side.OWN, Side.IDEAL),
    Comparison.ACCUMULATE: (Side.OWN, Side.REFERENCE),
}
"""Ours, and what it is compared with."""

LEARNS_AS: Final[dict[Comparison, What]] = {
    Comparison.EXACT: What.SWARM,
    Comparison.ACCUMULATE: What.ACCUMULATE,
}

LRS_PPB: Final[dict[Comparison, tuple[int, ...]]] = {
    Comparison.EXACT: (7_000_000, 12_000_000, 20_000_000),
    Comparison.ACCUMULATE: (4_000_000, 5_500_000, 7_000_000),
}
"""Tried on both sides. Each side's best must lie inside (docs/benchmarks.md, "Is it DeMo?")."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row: one side of a comparison at one learning rate."""

    comparison: Comparison
    side: Side
    trial: Trial

    @property
    def name(self) -> str:
        """Short and unique within a table."""
        lr = self.trial.learning.lr_ppb / PPB
        return f"{self.comparison}, {self.side}, lr {lr:g}"


@dataclass(frozen=True, slots=True)
class Row:
    """A setting and the held-out loss of each seed, nats per byte."""

    setting: Setting
    losses: Sequence[float]

    @property
    def loss(self) -> float:
        """Mean over the seeds."""
        return fmean(self.losses)


def plan_settings(comparisons: Sequence[Comparison], nodes: int, length: Length) -> list[Setting]:
    """Every side of every comparison at every learning rate. Raises ConfigError."""
    settings = []
    for comparison in comparisons:
        for side in SIDES[comparison]:
            for lr_ppb in LRS_PPB[comparison]:
                (trial,) = plan_trials(
                    whats=[LEARNS_AS[comparison]],
                    nodes=[nodes],
                    length=length,
                    preset=PRESET,
                    changes={"lr_ppb": lr_ppb},
                )
                settings.append(Setting(comparison, side, replace(trial, nodes=nodes)))
    return settings


def train(setting: Setting, corpus: Corpus, seed: int) -> float:
    """Held-out loss after the last round, nats per byte."""
    manifest = plan_manifest(setting.trial, seed, corpus.data)
    exchange = EXCHANGES[setting.side](
        compute_schema(manifest.model), manifest.learning, setting.trial.nodes
    )
    text = torch.frombuffer(bytearray(corpus.text), dtype=torch.uint8)
    return train_with(exchange, setting.trial, manifest, text)


def train_with(exchange: Exchange, trial: Trial, manifest: Manifest, text: Tensor) -> float:
    """As `train`. text: uint8 [train_bytes + heldout_bytes].

    Nodes take their samples in turns; a swarm draws their order anew in every round.
    """
    train_bytes, context = manifest.data.train_bytes, manifest.model.context
    micro_batch = manifest.learning.micro_batch
    share = micro_batch * trial.length.micro_batches
    # Not the run id, which covers the learning rate: every setting of a seed reads alike.
    text_order = manifest.seed.to_bytes(32, "little")
    state: Mapping[str, Tensor] = make_initial(manifest, compute_schema(manifest.model), None)
    trainers = [
        LocalTrainer(manifest.model, manifest.learning, CPU.train, time.perf_counter_ns)
        for _ in range(trial.nodes)
    ]
    for round_ in range(trial.length.rounds):
        deltas = []
        for node, trainer in enumerate(trainers):
            first = (round_ * trial.nodes + node) * share
            numbers = np.arange(first, first + share)
            samples = compute_samples(text_order, b"", (train_bytes - 1) // context, numbers)
            batches = iterate_batches(text[:train_bytes], samples, context, micro_batch)
            deltas.append(trainer.train(state, round_, batches, lambda step_ns: True).delta)
        state = exchange.advance(round_, state, deltas)
    decoder = trainers[0].decoder
    load_state(decoder, state)
    return evaluate_spread(decoder, text[train_bytes:])


@torch.no_grad()
def evaluate_spread(decoder: Decoder, heldout: Tensor) -> float:
    """Mean loss in nats per byte over EVALUATED_SAMPLES samples from all of `heldout`."""
    context = decoder.model.context
    count = (len(heldout) - 1) // context
    taken = torch.arange(min(count, EVALUATED_SAMPLES)) * count // min(count, EVALUATED_SAMPLES)
    losses = [
        decoder.loss(gather_batch(heldout, part, context)) * len(part)
        for part in torch.split(taken, EVALUATION_BATCH)
    ]
    return torch.stack(losses).double().sum().item() / len(taken)
