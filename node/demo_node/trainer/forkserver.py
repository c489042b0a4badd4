"""Trainer children from a fork server: 0.2 s each, where importing torch takes 2 to 12 s.

One server per process, `multiprocessing`'s own. No torch here: the node process imports this.
"""

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from multiprocessing.forkserver import ensure_running
from types import ModuleType
from typing import Final

from demo_node.trainer.child import run_check
from demo_node.trainer.leash import name_parent
from demo_protocol.errors import ConfigError

CHECK_S: Final = 120.0
"""A graphics card may take long to wake."""


def start_server() -> None:
    """Make sure that the fork server runs, or is importing torch. Returns in milliseconds.

    Call it in the main thread: the server dies with the thread that started it.
    """
    name_parent()
    multiprocessing.get_context("forkserver").set_forkserver_preload(["demo_node.trainer.preload"])
    ensure_running()


def wait_for_server() -> None:
    """Return when the server has torch: from now on a child takes 0.2 s. Call it in a thread."""
    child = start_child(_do_nothing)
    child.join()
    child.close()


def check_device(name: str) -> None:
    """Raise ConfigError where this machine has no such device. Call it in a thread.

    Blocks until the server has torch where that takes torch to say: a node that named a device
    that is not there shall hear of it before it joins anything.
    """
    if name in ("auto", "cpu"):
        return
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = start_child(run_check, theirs, name)
    theirs.close()
    try:
        answered = ours.poll(CHECK_S)
        problem = ours.recv_bytes().decode() if answered else f"device {name!r} does not answer"
    except EOFError:
        problem = f"device {name!r} made the process that looked at it crash: use auto or cpu"
    finally:
        ours.close()
        child.kill()
        child.join()
        child.close()
    if problem:
        raise ConfigError(problem)


def start_child(target: Callable[..., None], *arguments: object) -> ForkServerProcess:
    """A child that runs `target(*arguments)`. Blocks until the server has torch."""
    context = multiprocessing.get_context("forkserver")
    child = context.Process(target=target, args=arguments, name="trainer", daemon=True)
    with _no_main_module():
        child.start()
    return child


def _do_nothing() -> None:
    """Its birth was all that mattered."""


@contextmanager
def _no_main_module() -> Iterator[None]:
    """Let multiprocessing find a `__main__` without a file.

    It would have the child import ours again: the whole command line, mesh and all, for nothing.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
