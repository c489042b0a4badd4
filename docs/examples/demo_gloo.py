"""Two processes, one model, DeMo: torchrun --nproc-per-node 2 docs/examples/demo_gloo.py"""
# ruff: noqa: T201

import os

import torch
import torch.distributed as dist

from demo_node.learn import DeMo

dist.init_process_group("gloo")
torch.manual_seed(0)  # the same start everywhere
model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 1))
optimizer = DeMo(model.parameters(), lr=2e-3)
torch.manual_seed(1 + dist.get_rank())  # different data
for step in range(100):
    x = torch.randn(32, 64)
    loss = (model(x).squeeze(1) - x[:, :8].sum(dim=1)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()  # sends 32 coefficients per 64 x 64 chunk instead of the gradient
    if step % 20 == 0:
        print(f"process {dist.get_rank()} step {step} loss {loss.item():.3f}")
total = sum(p.sum() for p in model.parameters())
print(f"process {dist.get_rank()} parameters {total:.6f}", flush=True)
dist.barrier()  # nobody hangs up before the other is done
os._exit(0)  # Python's own end now and then aborts here, after destroy_process_group() too
