"""Digests of a short chain, by every way this process has to compute it: one JSON list.

`python -m tests.learn.chain_digests`; test_settings.py runs it under settings that only a new
process takes.
"""

import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Final
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from demo_node.learn import exact
from demo_node.learn.digest import compute_digest
from demo_node.learn.exact import apply_update
from demo_node.native import find_codec, torch_only
from demo_protocol.fp32 import Step, round_to_fp32_bits
from demo_protocol.payload import Payload
from demo_protocol.schema import SLOTS
from tests.learn.builders import make_payload, make_schema, make_state

SCHEMA: Final = make_schema()

PLANTED: Final = (0x8000_0000, 1, 0x1F7F_FFFF, 0x1F80_0000, 0x9F80_0000, 0x807F_FFFF, 0x2000_0000)
"""Bits at the start of every tensor: -0, subnormals, both sides of 2^-64, 2^-63."""


def make_records() -> list[tuple[list[Payload], Step]]:
    """Votes that cancel, so that only the snap acts on what is planted; unlike k and scales from
    end to end; large sums of one sign; few votes."""
    one = make_payload(SCHEMA, 16, 5)
    opposite = replace(one, negative=~one.negative)
    alike = make_payload(SCHEMA, SLOTS, 1, code_min=255)
    alike.negative[:] = False
    third = round_to_fp32_bits(1, 3)
    return [
        ([one, opposite], Step(third, round_to_fp32_bits(1, 1))),
        (
            [make_payload(SCHEMA, k, k) for k in (1, 7, 32, 32, 64, 500)],
            Step(round_to_fp32_bits(1, 100), round_to_fp32_bits(999, 1000)),
        ),
        ([alike, alike, make_payload(SCHEMA, 40, 9)], Step(third, round_to_fp32_bits(1, 1))),
        ([make_payload(SCHEMA, 2, 5, code_max=3)], Step(third, third)),
    ]


def make_start() -> dict[str, Tensor]:
    """State 0 with numbers in it that flushing, or an unexact zero, would change."""
    state = make_state(SCHEMA)
    planted = torch.from_numpy(np.array(PLANTED, dtype=np.uint32).view(np.int32))
    for tensor in state.values():
        words = tensor.reshape(-1).view(torch.int32)
        words[: len(planted)] = planted[: len(words)]
    return state


def compute_chain(*, reverse: bool = False) -> list[str]:
    """The digest after each record."""
    state: Mapping[str, Tensor] = make_start()
    digests = []
    for payloads, step in make_records():
        state = apply_update(state, payloads[::-1] if reverse else payloads, SCHEMA, step)
        digests.append(compute_digest(state).hex())
    return digests


@contextmanager
def flushing(is_on: bool) -> Iterator[None]:
    """Subnormals are zero in this thread and in those that it starts."""
    if is_on and not torch.set_flush_denormal(True):
        sys.exit("this processor cannot flush subnormals")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def main() -> None:
    """Paths x threads x flushing x precision and default type x blocks x order of payloads."""
    found = []
    paths: list[Callable[[], AbstractContextManager[None]]] = [torch_only]
    if find_codec() is not None:
        paths.append(nullcontext)
    for path, threads, is_flushed in itertools.product(paths, (1, 2), (False, True)):
        torch.set_num_threads(threads)
        with path(), flushing(is_flushed):
            for precision, block in (("highest", 32), ("medium", 1), ("high", 5)):
                torch.set_float32_matmul_precision(precision)
                torch.set_default_dtype(torch.float64 if block == 5 else torch.float32)
                mixed = torch.autocast("cpu", dtype=torch.bfloat16, enabled=block == 1)
                with mixed, mock.patch.object(exact, "_BLOCK", block):
                    found.append(compute_chain(reverse=block == 5))
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
