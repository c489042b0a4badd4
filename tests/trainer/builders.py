"""A run small enough to train in tests: corpus, orders, states. Valid by default."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from demo_node.ports import ApplyOrder, Trained, TrainOrder
from demo_node.trainer.device import Devices
from demo_node.trainer.learner import LocalLearner
from demo_protocol.manifest import Learning, Manifest
from tests.builders import manifest

GENESIS = bytes(32)

ENDLESS = 1 << 15
"""Samples that take some ten seconds: longer than any test looks on."""

CPU = Devices(torch.device("cpu"), torch.device("cpu"))


def record(number: int) -> bytes:
    return number.to_bytes(32, "big")


def corpus_bytes(manifest_: Manifest) -> bytes:
    """Text with something to learn: words of a small vocabulary."""
    size = manifest_.data.train_bytes + manifest_.data.heldout_bytes
    words = [b"def ", b"return ", b"self.", b"value\n", b"import ", b"None, "]
    drawn = np.random.default_rng(0).integers(len(words), size=size)
    return b"".join(words[i] for i in drawn)[:size]


def write_corpus(folder: Path, manifest_: Manifest) -> Path:
    path = folder / "corpus"
    path.write_bytes(corpus_bytes(manifest_))
    return path


def learner(
    learning: Learning | None = None,
    devices: Devices = CPU,
    run: Manifest | None = None,
    **changes: Any,
) -> LocalLearner:
    """With state 0 loaded as GENESIS."""
    run = run or manifest(learning=learning)
    corpus = torch.frombuffer(bytearray(corpus_bytes(run)), dtype=torch.uint8)
    made = LocalLearner(run, corpus, devices, **changes)
    made.load(GENESIS, None)
    return made


def train_order(*, seconds: float = 60, **changes: object) -> TrainOrder:
    """Twelve samples from GENESIS, with time enough; the k of `manifest()`."""
    usual = TrainOrder(
        round=0,
        base=GENESIS,
        deadline_ms=time.time_ns() // 1_000_000 + round(seconds * 1000),
        sample_first=0,
        sample_count=12,
        k=2,
    )
    return replace(usual, **changes)  # type: ignore[arg-type]  # a wrong type fails in the test


def apply_order(*trained: Trained, number: int = 1, parent: bytes = GENESIS) -> ApplyOrder:
    """Record `number` lists the payloads of `trained`."""
    return ApplyOrder(
        record=record(number),
        parent=parent,
        round=trained[0].round if trained else 0,
        payloads=tuple(t.payload for t in trained if t.k),
    )
