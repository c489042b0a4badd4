"""The runs of `simulate`, one after another or several at a time, and what ends them early."""

import concurrent.futures
import contextlib
import multiprocessing
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from types import FrameType
from typing import TYPE_CHECKING

from demo_node.cli.simulate.progress import show_progress
from demo_node.trainer.leash import name_parent, tie_to_parent

if TYPE_CHECKING:
    from demo_node.sim.scenario import Scenario
    from demo_node.sim.simulation import Progress, Report


class Terminated(KeyboardInterrupt):
    """SIGTERM came: as Ctrl-C, with an exit code of its own."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """In here SIGTERM raises Terminated, so that what was begun is ended, too."""
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    # timeout(1) and service managers signal a process and then its group: one request.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated


def run_all(scenario: "Scenario", seeds: range, jobs: int) -> "Generator[Report]":
    """In the order of the seeds. Close it: processes that still run end then."""
    if len(seeds) == 1:
        with show_progress(sys.stderr) as on_round:
            report = _run(scenario, seeds[0], on_round)
        yield report
        return
    if jobs == 1:
        for seed in seeds:
            yield _run(scenario, seed)
        return
    name_parent()
    pool = concurrent.futures.ProcessPoolExecutor(
        min(jobs, len(seeds)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=tie_to_parent,
    )
    try:
        for future in [pool.submit(_run, scenario, seed) for seed in seeds]:
            yield future.result()
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.kill()  # there is nothing to be kept
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _run(
    scenario: "Scenario", seed: int, on_round: "Callable[[Progress], None] | None" = None
) -> "Report":
    from demo_node.sim.simulation import simulate as run

    return run(scenario, seed, on_round)
