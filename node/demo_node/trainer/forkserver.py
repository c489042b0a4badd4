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


def start_server() -> None:
    """Make sure that the fork server runs, or is importing torch. Returns in milliseconds.

    Call it in the main thread: the server dies with the thread that started it.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(["demo_node.trainer.preload"])
    ensure_running()


def wait_for_server() -> None:
    """Return when the server has torch: from now on a child takes 0.2 s. Call it in a thread."""
    child = start_child(_do_nothing, "", 0)
    child.join()
    child.close()


def start_child(target: Callable[[str, int], None], socket: str, threads: int) -> ForkServerProcess:
    """A child that runs `target(socket, threads)`. Blocks until the server has torch."""
    context = multiprocessing.get_context("forkserver")
    child = context.Process(target=target, args=(socket, threads), name="trainer", daemon=True)
    with _no_main_module():
        child.start()
    return child


def _do_nothing(_socket: str, _threads: int) -> None:
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
