"""Our AdamW beside torch's, and what it spares a node."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from demo_node.learn.adamw import AdamW
from demo_protocol.manifest import PPM, Learning

LEARNING = Learning(inner_weight_decay_ppm=PPM // 10)
ON, SKIPPED = torch.tensor(0.0), torch.tensor(1.0)

A_STEP = """
import sys, torch
from demo_node.learn.local import LocalTrainer
from demo_protocol.manifest import Learning, Model
model = Model(layers=1, width=64, hidden=64, heads=2, context=16)
trainer = LocalTrainer(model, Learning(micro_batch=2), torch.device("cpu"), lambda: 0)
trainer.rehearse(1 << 40)
assert trainer.get_moments()
sys.exit("torch._dynamo" in sys.modules)
"""


def make_parameters() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((64, 3), (7,), (2, 4, 64))
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("fused", [True, False])
def test_it_has_the_bits_of_torchs(fused: bool) -> None:
    mine, theirs = make_parameters(), make_parameters()
    decays = {"params": [theirs[0], theirs[2]], "weight_decay": 0.1}
    ours = AdamW(mine, LEARNING, fused=fused)
    expected = torch.optim.AdamW(
        [decays, {"params": [theirs[1]], "weight_decay": 0.0}],
        betas=(LEARNING.inner_beta1_ppm / PPM, LEARNING.inner_beta2_ppm / PPM),
        fused=fused,
    )
    for step in range(1, 5):
        for one, other in zip(mine, theirs, strict=True):
            one.grad, other.grad = one.detach().sin() * step, other.detach().sin() * step
        for group in expected.param_groups:
            group["lr"] = 0.01 * step
        expected.step()
        ours.step(0.01 * step, ON)
        assert all(map(torch.equal, mine, theirs))
    for one, other in zip(mine, theirs, strict=True):
        kept, moments = ours.state[one], expected.state[other]
        assert all(torch.equal(kept[key], moments[key]) for key in moments)


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_that_is_not_finite_is_left_out(fused: bool) -> None:
    parameters = make_parameters()
    ours = AdamW(parameters, LEARNING, fused=fused)
    before = [parameter.detach().clone() for parameter in parameters]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, torch.nan)
    ours.step(0.01, SKIPPED)
    assert all(map(torch.equal, before, parameters))
    assert not any(tensor.any() for moments in ours.state.values() for tensor in moments.values())


def test_no_trainer_imports_torchs_compiler() -> None:
    """It is 1.2 to 2.3 s and 74 MB on every node; nothing is compiled."""
    subprocess.run([sys.executable, "-c", A_STEP], check=True)
