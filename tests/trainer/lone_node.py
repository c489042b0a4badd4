"""A node process that only keeps a trainer busy, for tests to kill.

python lone_node.py FOLDER: prints a line when the trainer trains.
python lone_node.py --early: prints it when the fork server has just begun to import torch.
"""

import asyncio
import sys
import time
from pathlib import Path

import uvloop

from demo_node.ports import TrainOrder
from demo_node.trainer.client import TrainerClient
from demo_node.trainer.forkserver import start_server
from demo_node.trainer.settings import TrainerSettings
from demo_node.trainer.supervisor import Supervisor

HOUR_MS = 3_600_000


async def keep_busy(folder: Path) -> None:
    manifest = (folder / "manifest").read_bytes()
    settings = TrainerSettings(manifest=manifest, corpus=folder / "corpus", threads=1)
    supervisor = Supervisor(settings)
    client = TrainerClient(supervisor)
    order = TrainOrder(
        round=0,
        base=bytes(32),
        deadline_ms=time.time_ns() // 1_000_000 + HOUR_MS,
        sample_first=0,
        sample_count=1 << 15,
        k=2,
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(supervisor.run())
        await client.load(order.base, None)
        group.create_task(client.train(order))
        await client.evaluate(order.base)
        sys.stdout.write("busy\n")
        sys.stdout.flush()


# No `if __name__ == "__main__"`: were the child to import this file again, tests would notice.
if sys.argv[1] == "--early":
    start_server()
    sys.stdout.write("early\n")
    sys.stdout.flush()
    time.sleep(60)
else:
    uvloop.run(keep_busy(Path(sys.argv[1])))
