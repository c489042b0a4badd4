"""Check DeMo's reference semantics against the golden vectors of the published optimizer.

    python -m tests.conformance DIR

DIR holds index.json and the safetensors files (its README names the keys and tolerances). One
line per case, then `N passed, N failed`; exit code 0 only if none failed.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from demo_node.learn.dct import compute_basis
from demo_node.learn.reference import (
    Chunking,
    Coefficients,
    DeMo,
    largest_divisor,
    scatter_mean,
    top_k,
)

Tensors = dict[str, Tensor]
Case = tuple[str, Callable[[], None]]


class Mismatch(AssertionError):
    """The vector says otherwise."""


def main(arguments: list[str]) -> int:
    """Run all cases of the folder named on the command line; returns the exit code."""
    if len(arguments) != 1 or not (Path(arguments[0]) / "index.json").is_file():
        sys.stderr.write(
            "say where the vectors are, index.json and all: make conformance VECTORS=DIR\n"
        )
        return 2
    passed = failed = 0
    for name, check in iterate_cases(Path(arguments[0])):
        try:
            check()
        except Mismatch as mismatch:
            failed += 1
            sys.stdout.write(f"FAIL  {name}: {mismatch}\n")
        else:
            passed += 1
            sys.stdout.write(f"ok    {name}\n")
    sys.stdout.write(f"{passed} passed, {failed} failed\n")
    return 0 if failed == 0 else 1


def iterate_cases(folder: Path) -> Iterator[Case]:
    """Name and check of every vector in `folder`. A check raises Mismatch."""
    index = json.loads((folder / "index.json").read_bytes())
    for name, entry in index["files"].items():
        yield f"file {name}", partial(check_file, folder / name, entry)
    for limit, table in index["split"].items():
        yield f"split {limit}", partial(check_split, int(limit), table)
    for name, basis in load_file(folder / "dct_bases.safetensors").items():
        yield f"dct {name}", partial(check_basis, name, basis)
    codec = load_file(folder / "codec.safetensors")
    for name, case in index["codec"].items():
        yield f"codec {name}", partial(check_codec, case, select(codec, name))
    aggregate = load_file(folder / "aggregate.safetensors")
    for name, case in index["aggregate"].items():
        yield f"aggregate {name}", partial(check_aggregate, case, select(aggregate, name))
    for name, case in index["trajectory"].items():
        tensors = load_file(folder / f"trajectory_{name}.safetensors")
        yield f"trajectory {name}", partial(check_trajectory, case, tensors)


def select(tensors: Tensors, case: str) -> Tensors:
    """Those of one case, without its prefix."""
    return {k.removeprefix(case + "."): t for k, t in tensors.items() if k.startswith(case + ".")}


def check_file(path: Path, entry: dict[str, Any]) -> None:
    """The file is the one the index speaks of."""
    if hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
        raise Mismatch("SHA-256 differs from the index")


def check_split(limit: int, table: dict[str, int]) -> None:
    """Chunk length of every dimension, for one target."""
    for length, expected in table.items():
        found = largest_divisor(int(length), limit)
        if found != expected:
            raise Mismatch(f"length {length}: {found} != {expected}")


def check_basis(name: str, expected: Tensor) -> None:
    """`forward.<n>` or `inverse.<n>`."""
    basis = compute_basis(len(expected)).float()
    close("basis", basis if name.startswith("forward") else basis.T, expected, 1e-6)


def check_codec(case: dict[str, Any], vectors: Tensors) -> None:
    """Transform, selection and reconstruction of one tensor."""
    x = vectors["x"]
    chunking = Chunking.of(x, case["chunk"])
    coefficients = chunking.forward(x)
    close_relative("coef", coefficients.view(case["coef_shape"]), vectors["coef"])
    sent = top_k(coefficients, case["topk"])
    check_sent(sent, vectors["idx"], vectors["val"], 1e-6 * vectors["coef"].abs().max().item())
    if sent.slots.shape[1] != case["effective_k"]:
        raise Mismatch(f"k is {sent.slots.shape[1]}, not {case['effective_k']}")
    close_relative("recon", chunking.inverse(scatter_mean([sent], chunking)), vectors["recon"])


def check_aggregate(case: dict[str, Any], vectors: Tensors) -> None:
    """Payloads of several workers, combined."""
    chunking = Chunking.of(vectors["x0"], case["chunk"])
    sent = []
    for worker in range(case["workers"]):
        x = vectors[f"x{worker}"]
        part = top_k(chunking.forward(x), case["topk"])
        idx, val = vectors[f"idx{worker}"], vectors[f"val{worker}"]
        check_sent(part, idx, val, 1e-6 * val.abs().max().item())
        sent.append(part)
    mean = scatter_mean(sent, chunking)
    close_relative("mean_coef", mean.view_as(vectors["mean_coef"]), vectors["mean_coef"])
    decoded = chunking.inverse(mean)
    close_relative("decoded", decoded, vectors["decoded"])
    if not torch.equal(decoded.sign(), vectors["decoded"].sign()):
        raise Mismatch("signs differ")


def check_trajectory(case: dict[str, Any], vectors: Tensors) -> None:
    """Whole steps of all workers, from recorded gradients, through the optimizer itself."""
    names = list(case["shapes"])
    workers = [
        {n: vectors[f"init.{n}"].clone().requires_grad_() for n in names}
        for _ in range(case["workers"])
    ]
    optimizers = [
        DeMo(
            w.values(),
            compression_decay=case["compression_decay"],
            compression_topk=case["topk"],
            compression_chunk=case["chunk"],
            weight_decay=case["weight_decay"],
        )
        for w in workers
    ]
    moved_max = 0.0
    for step, lr in enumerate(case["lr"]):
        gathered = []
        for i, (worker, optimizer) in enumerate(zip(workers, optimizers, strict=True)):
            optimizer.param_groups[0]["lr"] = lr
            for name in names:
                gradient = vectors[f"s{step}.w{i}.grad.{name}"]
                worker[name].grad = gradient
                moved_max = max(moved_max, lr * gradient.abs().max().item())
            gathered.append(optimizer.encode())
            for name, sent in zip(names, gathered[-1], strict=True):
                at = f"s{step}.w{i}."
                idx, val = vectors[f"{at}idx.{name}"], vectors[f"{at}val.{name}"]
                check_sent(sent, idx, val, 2e-6 * moved_max)
                delta = optimizer.state[worker[name]]["delta"]
                close(f"{at}delta.{name}", delta, vectors[f"{at}delta.{name}"], 2e-6 * moved_max)
        check_signs(case, vectors, step, names, gathered)
        for worker, optimizer in zip(workers, optimizers, strict=True):
            optimizer.apply(gathered)
            for name in names:
                param = f"s{step}.param.{name}"
                close(param, worker[name].detach(), vectors[param], 1e-6)


def check_signs(
    case: dict[str, Any],
    vectors: Tensors,
    step: int,
    names: list[str],
    gathered: list[list[Coefficients]],
) -> None:
    """The decoded mean before the sign, and the sign of every element."""
    for i, name in enumerate(names):
        expected = vectors[f"s{step}.aggregate.{name}"]
        chunking = Chunking.of(expected, case["chunk"])
        update = chunking.inverse(scatter_mean([sent[i] for sent in gathered], chunking))
        close_relative(f"s{step}.aggregate.{name}", update, expected, 2e-6)
        if not torch.equal(update.sign(), expected.sign()):
            raise Mismatch(f"s{step}.aggregate.{name}: signs differ")


def check_sent(sent: Coefficients, idx: Tensor, val: Tensor, tolerance: float) -> None:
    """Slots equal as sets per chunk; values close."""
    if not torch.equal(sent.slots, idx.reshape(sent.slots.shape).long()):
        raise Mismatch("index sets differ")
    close("val", sent.values, val.reshape(sent.values.shape), tolerance)


def close_relative(what: str, found: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    """Within `tolerance` of the tensor's largest magnitude."""
    close(what, found, expected, tolerance * expected.abs().max().item())


def close(what: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Within `tolerance`, absolutely, everywhere; shapes too."""
    if found.shape != expected.shape:
        raise Mismatch(f"{what}: shape {tuple(found.shape)} != {tuple(expected.shape)}")
    gap = (found - expected).abs().max().item()
    if not gap <= tolerance:
        raise Mismatch(f"{what}: off by {gap:.3g}, allowed {tolerance:.3g}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
