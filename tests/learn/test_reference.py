"""DeMo as published, its edges, and the same bits over gloo as in one process."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from demo_node.learn import DeMo
from demo_node.learn.reference import (
    Chunking,
    Coefficients,
    largest_divisor,
    scatter_mean,
    top_k,
)

ROOT = Path(__file__).parents[2]


def parameter(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype).requires_grad_()


def give_gradient(tensor: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    tensor.grad = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
    return tensor.grad


def test_one_step_moves_every_element_by_lr_times_a_sign() -> None:
    p = parameter(64, 64)
    before = p.detach().clone()
    give_gradient(p, 1)
    DeMo([p], lr=0.5, compression_topk=4096).step()
    assert p.grad is not None
    assert torch.equal(p.detach(), before - 0.5 * p.grad.sign())


def test_what_was_not_sent_stays_in_the_delta() -> None:
    p = parameter(64, 64)
    gradient = give_gradient(p, 1)
    optimizer = DeMo([p], lr=0.1, compression_topk=5)
    chunking = Chunking.of(p, 64)
    (sent,) = optimizer.encode()
    assert sent.slots.shape == (1, 5)
    delivered = chunking.inverse(scatter_mean([sent], chunking))
    delta = optimizer.state[p]["delta"]
    assert torch.allclose(delta + delivered, 0.1 * gradient, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 16, 24), (2, 3, 6, 5)])
def test_more_than_two_dimensions_are_slices_over_the_last_two(shape: tuple[int, ...]) -> None:
    whole = parameter(*shape)
    gradient = give_gradient(whole, 1)
    slices = [s.detach().clone().requires_grad_() for s in whole.detach().view(-1, *shape[-2:])]
    for one, part in zip(slices, gradient.view(-1, *shape[-2:]), strict=True):
        one.grad = part.clone()
    for parameters in ([whole], slices):
        DeMo(parameters, lr=0.1, compression_topk=3, compression_chunk=8).step()
    assert torch.equal(whole.detach().view(-1, *shape[-2:]), torch.stack(slices).detach())


def test_a_scalar_is_a_vector_of_one_element() -> None:
    scalar, vector = torch.tensor(2.0, requires_grad=True), torch.tensor([2.0], requires_grad=True)
    scalar.grad, vector.grad = torch.tensor(-3.0), torch.tensor([-3.0])
    DeMo([scalar, vector], lr=0.25).step()
    assert scalar.item() == vector.item() == 2.25
    assert scalar.shape == ()


def test_a_parameter_without_gradient_decays_its_delta_and_takes_part() -> None:
    p = parameter(8, 8)
    optimizer = DeMo([p], lr=0.1, compression_topk=4, compression_decay=0.5)
    give_gradient(p, 1)
    optimizer.step()
    delta, before = optimizer.state[p]["delta"].clone(), p.detach().clone()
    p.grad = None
    (sent,) = optimizer.encode()
    chunking = Chunking.of(p, 64)
    delivered = chunking.inverse(scatter_mean([sent], chunking))
    assert torch.allclose(optimizer.state[p]["delta"] + delivered, 0.5 * delta, atol=1e-7)
    optimizer.apply([[sent]])
    assert torch.equal(p.detach(), before - 0.1 * delivered.sign())


def test_a_parameter_that_never_had_a_gradient_stays() -> None:
    p = parameter(8, 8)
    before = p.detach().clone()
    DeMo([p], lr=0.1).step()
    assert torch.equal(p.detach(), before)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0, 3)])
def test_an_empty_tensor_is_skipped(shape: tuple[int, ...]) -> None:
    empty, other = parameter(*shape), parameter(4, 4)
    for p in (empty, other):
        give_gradient(p, 1)
    optimizer = DeMo([empty, other], lr=0.1)
    assert len(optimizer.encode()) == 1
    optimizer.step()
    assert empty.shape == shape
    DeMo([parameter(*shape)]).step()


def test_bf16_parameters_keep_fp32_state_and_are_cast_at_the_end() -> None:
    half, full = parameter(64, 128, dtype=torch.bfloat16), parameter(64, 128)
    full.data = half.detach().float()
    optimizers = [DeMo([p], lr=0.01, weight_decay=0.1, compression_topk=8) for p in (half, full)]
    for step in range(5):
        gradient = give_gradient(half, step)
        full.grad = gradient.float()
        sent = [optimizer.encode()[0] for optimizer in optimizers]
        assert torch.equal(sent[0].slots, sent[1].slots)
        assert torch.equal(sent[0].values, sent[1].values)
        for optimizer, part in zip(optimizers, sent, strict=True):
            optimizer.apply([[part]])
        assert half.dtype == torch.bfloat16
        assert torch.allclose(half.detach().float(), full.detach(), rtol=1e-2, atol=1e-2)
        full.data = half.detach().float()
    assert optimizers[0].state[half]["delta"].dtype == torch.float32


def test_bf16_gradients_of_fp32_data_select_the_same_coefficients() -> None:
    p = parameter(64, 64)
    give_gradient(p, 3)
    optimizer = DeMo([p], lr=1.0, compression_topk=8)
    (sent,) = optimizer.encode()
    assert torch.equal(sent.values, sent.values.float())


def test_state_dict_carries_the_delta_in_fp32_also_for_bf16_parameters() -> None:
    p = parameter(16, 16, dtype=torch.bfloat16)
    optimizer = DeMo([p], lr=0.1, compression_topk=4)
    give_gradient(p, 1)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    q = p.detach().clone().requires_grad_()
    resumed = DeMo([q], lr=0.7)
    resumed.load_state_dict(saved)
    assert resumed.param_groups[0]["lr"] == 0.1
    assert torch.equal(resumed.state[q]["delta"], optimizer.state[p]["delta"])
    assert resumed.state[q]["delta"].dtype == torch.float32
    for tensor, one in ((p, optimizer), (q, resumed)):
        give_gradient(tensor, 2)
        one.step()
    assert torch.equal(p, q)


def test_groups_have_their_own_lr_decay_and_k() -> None:
    a, b = parameter(8, 8), parameter(8, 8)
    before = a.detach().clone()
    for p in (a, b):
        give_gradient(p, 1)
    optimizer = DeMo(
        [{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.2, "weight_decay": 0.5}],
        compression_topk=64,
    )
    optimizer.step()
    assert a.grad is not None
    assert torch.allclose(a.detach(), before - 0.1 * a.grad.sign())
    assert torch.allclose(b.detach(), before * (1 - 0.2 * 0.5) - 0.2 * a.grad.sign())


def test_the_closure_runs_before_the_step_and_its_loss_is_returned() -> None:
    p = parameter(4, 4)
    optimizer = DeMo([p], lr=0.1, compression_topk=16)
    before = p.detach().clone()

    def closure() -> Tensor:
        loss = (p * p).sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss

    assert optimizer.step(closure).item() == pytest.approx(before.square().sum().item())
    assert torch.allclose(p.detach(), before - 0.1 * before.sign())


def test_a_gradient_that_is_not_finite_raises() -> None:
    p = parameter(8, 8)
    give_gradient(p, 1)[2, 3] = float("nan")
    with pytest.raises(FloatingPointError, match="finite"):
        DeMo([p]).step()


@pytest.mark.parametrize(
    "wrong",
    [{"compression_decay": 1.0}, {"compression_decay": -0.1}, {"compression_topk": 0}],
)
def test_impossible_options_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="compression"):
        DeMo([parameter(2)], **wrong)  # type: ignore[arg-type]  # mixed on purpose


def test_the_mean_is_over_those_who_sent_a_slot() -> None:
    chunking = Chunking.of(torch.zeros(4), 4)
    one = Coefficients(torch.tensor([[0, 2]]), torch.tensor([[4.0, 6.0]]))
    two = Coefficients(torch.tensor([[2, 3]]), torch.tensor([[-2.0, 5.0]]))
    assert scatter_mean([one, two], chunking).tolist() == [[4.0, 0.0, 2.0, 5.0]]


@given(st.integers(1, 400), st.integers(1, 130))
def test_chunk_lengths_are_the_largest_divisors_up_to_the_limit(length: int, limit: int) -> None:
    divisor = largest_divisor(length, limit)
    assert length % divisor == 0
    assert divisor <= limit
    assert all(length % larger for larger in range(divisor + 1, min(length, limit) + 1))


@given(st.lists(st.integers(1, 20), max_size=4), st.integers(1, 9))
def test_any_shape_is_transformed_and_comes_back(shape: list[int], limit: int) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    chunking = Chunking.of(x, limit)
    coefficients = chunking.forward(x)
    assert coefficients.shape == (chunking.chunks, chunking.slots)
    assert torch.allclose(chunking.inverse(coefficients), x, atol=1e-5)
    assert torch.allclose(coefficients.norm(), x.norm(), atol=1e-4)
    everything = top_k(coefficients, 10_000)
    assert torch.equal(scatter_mean([everything], chunking), coefficients)


def train(optimizers: list[DeMo], workers: list[list[Tensor]], steps: int) -> None:
    for step in range(steps):
        for rank, tensors in enumerate(workers):
            for i, tensor in enumerate(tensors):
                give_gradient(tensor, 1000 * step + 10 * i + rank)
        gathered = [optimizer.encode() for optimizer in optimizers]
        for optimizer in optimizers:
            optimizer.apply(gathered)


OVER_GLOO = """
import os, sys, torch, torch.distributed as dist
from demo_node.learn import DeMo
from tests.learn.test_reference import SHAPES, give_gradient, parameter
dist.init_process_group("gloo", init_method=sys.argv[3], rank=int(sys.argv[1]), world_size=2)
tensors = [parameter(*shape, seed=i) for i, shape in enumerate(SHAPES)]
optimizer = DeMo(tensors, lr=0.01, compression_topk=6, weight_decay=0.1)
for step in range(4):
    for i, tensor in enumerate(tensors):
        give_gradient(tensor, 1000 * step + 10 * i + int(sys.argv[1]))
    optimizer.step()
torch.save([t.detach() for t in tensors], sys.argv[2])
dist.barrier()
os._exit(0)  # gloo's threads abort the interpreter's shutdown now and then
"""

SHAPES = [(64, 128), (70,), (), (3, 8, 8), (0, 4)]


def test_two_processes_over_gloo_have_the_bits_of_two_workers_in_one_process(
    tmp_path: Path,
) -> None:
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                OVER_GLOO,
                str(rank),
                str(tmp_path / f"{rank}.pt"),
                f"file://{tmp_path}/rendezvous",
            ],
            cwd=ROOT,
            env=environment,
        )
        for rank in range(2)
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    workers = [[parameter(*s, seed=i) for i, s in enumerate(SHAPES)] for _ in range(2)]
    optimizers = [
        DeMo(tensors, lr=0.01, compression_topk=6, weight_decay=0.1) for tensors in workers
    ]
    train(optimizers, workers, 4)
    for rank in range(2):
        received = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for i, tensor in enumerate(received):
            assert torch.equal(tensor, workers[0][i].detach())
            assert torch.equal(tensor, workers[1][i].detach())


def test_importing_demo_needs_no_network_library() -> None:
    source = (
        "import sys; from demo_node.learn import DeMo;"
        "print({'libp2p', 'grpc', 'google.protobuf', 'aiohttp', 'trio'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
