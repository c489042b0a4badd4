"""A learner in a process whose address space may grow by so many MiB only.

python cramped_trainer.py FOLDER MIB: prints what it found, as name=value lines.
"""

import resource
import sys
from pathlib import Path

import torch

from demo_node.trainer.pb import trainer_pb2 as pb
from demo_node.trainer.server import TrainerService
from demo_node.trainer.settings import DoesNotFit
from tests.trainer.builders import GENESIS, train_order


def find_size() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmSize"):
            return int(line.split()[1]) << 10
    raise AssertionError


def main(folder: Path, room_mb: int) -> None:
    torch.set_num_threads(1)
    one = torch.ones(1, requires_grad=True)
    torch.autograd.grad(one * 2, one)  # its threads exist from now on
    most = find_size() + (room_mb << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    request = pb.ConfigureRequest(
        manifest=(folder / "manifest").read_bytes(), corpus=str(folder / "corpus"), device="cpu"
    )
    service = TrainerService()
    try:
        learner = service._make_learner(request)
    except DoesNotFit as error:
        show(refused=error)
        return
    learner.load(GENESIS, None)
    order = train_order(sample_count=64)
    trained = learner.train(order)
    show(
        micro_batch=learner.micro_batch,
        events=",".join(happening.name for happening in service._take_happened()),
        k=trained.k,
        samples=trained.samples,
    )


def show(**found: object) -> None:
    for name, value in found.items():
        sys.stdout.write(f"{name}={value}\n")


main(Path(sys.argv[1]), int(sys.argv[2]))
