"""Main function of the trainer child. The node process imports this, so torch waits inside."""

import multiprocessing
import os
from multiprocessing.connection import Connection, wait

from demo_node.trainer.leash import tie_to_parent
from demo_protocol.errors import ConfigError


def run_check(answer: Connection, device: str) -> None:
    """Send what is wrong with a device's name on this machine, or nothing."""
    tie_to_parent()
    from demo_node.trainer.device import find_device

    try:
        find_device(device)
        answer.send_bytes(b"")
    except ConfigError as error:
        answer.send_bytes(str(error).encode())


def run_child(socket: str, threads: int, nice: int) -> None:
    """Serve the trainer on the unix socket until the node process ends. Prints nothing."""
    tie_to_parent()
    os.nice(nice)
    os.umask(0o177)  # the socket: 0600
    os.environ["GRPC_VERBOSITY"] = "NONE"
    # Here and not above: the node process, which names this function, must not import torch.
    from demo_node.trainer.server import serve

    server = serve(socket, threads)
    node = multiprocessing.parent_process()
    assert node is not None
    # Where the kernel has no leash, the end of a pipe tells us. Nothing here is worth a clean end.
    wait([node.sentinel])
    server.stop(grace=None)
    os._exit(0)
