"""What all tests with an engine share: the engine, a bare Debian in it, wheels and a clean tree."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.containers.engine import Engine, find_traces, running_engine
from tests.containers.images import make_base, make_wheels
from tests.distribution import copy_tree
from tests.e2e.processes import find_processes
from tests.needs import needs, needs_root


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="session")
def wheels_to_come(folder: Path) -> Iterator[Future[Path]]:
    """They are made while Debian is: the one waits for the network, the other for the disk."""
    with ThreadPoolExecutor() as threads:
        yield threads.submit(make_wheels, folder / "wheels")


@pytest.fixture(scope="session")
def engine(folder: Path, wheels_to_come: Future[Path]) -> Iterator[Engine]:
    needs("dockerd", "docker", "docker-compose", "debootstrap", "nft")
    needs_root()
    before = find_traces(folder)
    with running_engine(folder) as running:
        make_base(running, folder)
        yield running
    assert find_traces(folder) == before
    assert not find_processes(folder)


@pytest.fixture(scope="session")
def tree(folder: Path) -> Path:
    copy_tree(folder / "tree")
    return folder / "tree"


@pytest.fixture(scope="session")
def wheels(wheels_to_come: Future[Path]) -> Path:
    return wheels_to_come.result()
