"""Rounds missed over home links, with k by the uplink and with a fixed one: a table.

    .venv/bin/python -m tests.sim.link_rates

Whole nodes (`sim/whole/`) with payloads of the `base` preset's size, in virtual time; a stand-in
trains. A link carries its rate in both directions.
"""

import functools
import hashlib
import statistics
from dataclasses import dataclass, replace

import click
import numpy as np

from demo_node.cli.plan import plan_run, plan_schedule
from demo_node.ports import Trained, TrainOrder
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.link_rates import LinkRates
from demo_node.sim.whole.model_learner import ModelLearner
from demo_node.sim.whole.swarm import SimNode, SimSwarm
from demo_node.sim.whole.virtual_loop import EPOCH_MS, run_virtual
from demo_protocol.manifest import Data, Manifest
from demo_protocol.payload import PREFIX_BYTES, Payload, encode_payload, rice_bits
from demo_protocol.schema import SLOTS, Schema

MBIT = (2, 10, 100)
ROUND_MS = 30_000
K_MAX = 128
FIRST = 4
"""Rounds before this one are not counted: a node becomes a member in them."""

DELAY_S = 0.04
"""One way: across a continent."""


def base_manifest(seed: int) -> Manifest:
    """A run of the base preset, in rounds of 30 s, that allows k 128."""
    planned = plan_run(
        name="links",
        seed=seed,
        preset="base",
        schedule=plan_schedule(EPOCH_MS + 1_000, ROUND_MS),
        data=Data(kind="stdlib-bytes", root="00" * 32, train_bytes=1 << 20, heldout_bytes=1 << 16),
    )
    return replace(
        planned,
        learning=replace(planned.learning, k=K_MAX),
        # Snapshots of ten million parameters have nothing to do with it.
        agreement=replace(planned.agreement, contributors=0, snapshot_every=100_000),
    )


class SizedLearner(ModelLearner):
    """Sends payloads as long as real ones that differ in some signs: encoding takes too long."""

    async def train(self, order: TrainOrder) -> Trained:
        """See ModelLearner."""
        trained = await super().train(replace(order, k=0))
        return replace(trained, k=order.k, payload=self._make(order) if order.k else b"")

    def _make(self, order: TrainOrder) -> bytes:
        raw = bytearray(_make_template(self._schema, order.k))
        name = hashlib.sha256(self._name + order.round.to_bytes(8)).digest()
        chunk_bits = 1 + order.k * (1 + rice_bits(order.k))
        for number in range(64):  # the first sign of so many chunks
            if name[number // 8] >> number % 8 & 1:
                bit = number * chunk_bits + 1
                raw[PREFIX_BYTES + bit // 8] ^= 1 << bit % 8
        return bytes(raw)


@functools.cache
def _make_template(schema: Schema, k: int) -> bytes:
    """A payload whose coefficients lie anywhere."""
    rng = np.random.default_rng(k)
    positions = [np.sort(rng.choice(SLOTS, k, replace=False)) for _ in range(schema.chunks)]
    return encode_payload(
        Payload(
            k=k,
            positions=np.array(positions, dtype=np.uint16),
            negative=rng.random((schema.chunks, k)) < 0.5,
            scales=rng.normal(128, 1, schema.chunks).astype(np.uint8),
        )
    )


@dataclass(frozen=True)
class Outcome:
    """One node's rounds. `missed`: those whose record does not list its contribution."""

    mbit: int
    rounds: int
    missed: int
    k: tuple[int, ...]
    """Of those that it lists."""
    uplink_mbit: float
    """What the node takes its uplink for, in the end."""


def run_links(seed: int, k: int, *, rounds: int, each: int) -> list[Outcome]:
    """`each` nodes of each link; `k` 0: by the uplink."""
    return run_virtual(_run(seed, k, rounds, each))


async def _run(seed: int, k: int, rounds: int, each: int) -> list[Outcome]:
    links = np.random.default_rng(seed).permutation([mbit for mbit in MBIT for _ in range(each)])
    mbit_of = {peer_name(index): int(mbit) for index, mbit in enumerate(links)}
    rates = LinkRates(lambda peer: (mbit_of[peer] * 1e6, mbit_of[peer] * 1e6))
    swarm = SimSwarm(base_manifest(seed), make_learner=SizedLearner, links=rates)
    swarm.network.delay_s = lambda sender, receiver, size: DELAY_S
    for index in range(len(links)):
        await swarm.add(index, k=k)
    await swarm.run_until_round(rounds + 1)
    assert len({node.view.chain.root.record for node in swarm.nodes}) == 1
    fastest = max(swarm.nodes, key=lambda node: mbit_of[node.name])
    outcomes = [_judge(node, fastest, mbit_of[node.name], rounds) for node in swarm.nodes]
    await swarm.stop()
    return outcomes


def _judge(node: SimNode, seen_by: SimNode, mbit: int, rounds: int) -> Outcome:
    """By the chain that the node with the best link has."""
    view = seen_by.view
    sent = {
        record.round: sealed.body.k
        for record in view.chain.ancestors(view.head)
        for sealed in record.contributions
        if sealed.body.peer == node.name and FIRST <= record.round < rounds
    }
    uplink_mbit = node.driver.sending.view().uplink_bits_per_s / 1e6
    counted = rounds - FIRST
    return Outcome(mbit, counted, counted - len(sent), tuple(sent.values()), uplink_mbit)


def compose_row(label: str, mbit: int, found: list[Outcome]) -> str:
    """One line of the table, of the nodes with one link."""
    of = [outcome for outcome in found if outcome.mbit == mbit]
    ks = sorted(k for outcome in of for k in outcome.k)
    missed = sum(outcome.missed for outcome in of) / sum(outcome.rounds for outcome in of)
    worst = max(outcome.missed / outcome.rounds for outcome in of)
    tenths = f"{statistics.median(ks):g} ({ks[len(ks) // 10]} to {ks[-1]})" if ks else "-"
    return f"| {label} | {mbit} Mbit/s | {missed:.1%} | {worst:.1%} | {tenths} |"


@click.command()
@click.option("--seeds", default=3)
@click.option("--rounds", default=60)
@click.option("--each", default=3, help="Nodes of each link.")
def main(seeds: int, rounds: int, each: int) -> None:
    """The table of docs/benchmarks.md."""
    click.echo("| k | link, both ways | rounds missed | by the worst node | k of what counted |")
    click.echo("|---|---|---|---|---|")
    for k, label in ((0, "by the uplink"), (K_MAX, f"{K_MAX}, fixed")):
        found = [
            o for seed in range(seeds) for o in run_links(seed + 1, k, rounds=rounds, each=each)
        ]
        for mbit in MBIT:
            click.echo(compose_row(label, mbit, found))


if __name__ == "__main__":
    main()
