"""A copied data folder is refused; a run that everybody left goes on a week later."""

import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo_node.views import RoundView, StatusView
from tests.cli.command import demo_node
from tests.e2e.nodes import LONG_S, ROUND_S, RunningNode, make_run, started
from tests.waiting import wait_until_sync

pytestmark = [pytest.mark.swarm, pytest.mark.slow, pytest.mark.timeout(300)]

WEEK_S = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Before:
    """Two nodes took part, somebody tried a copy of the second's folder, then both were killed."""

    copy_code: int
    copy_stderr: str
    second_rounds: Sequence[RoundView]
    copied_round: int
    head: StatusView


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("return")


@pytest.fixture(scope="module")
def before(folder: Path) -> Before:
    make_run(folder / "first", "--preset", "tiny")
    with started(folder / "first") as first:
        invitation = first.invitation()
        with started(folder / "second", *invitation) as second:
            second.wait_for_rounds(lambda rounds: sum(v.included for v in rounds) >= 2)
            copied_round = second.status().round
            shutil.copytree(folder / "second", folder / "copy", ignore=_no_sockets)
            with started(folder / "copy", *invitation) as copy:
                code = copy.wait()
            second.wait_for_rounds(
                lambda rounds: sum(v.included and v.round > copied_round for v in rounds) >= 5
            )
            head = wait_for_one_head(first, second)
            before = Before(code, copy.stderr, second.rounds(), copied_round, head)
            second.signal(signal.SIGKILL)
            first.signal(signal.SIGKILL)
    return before


def wait_for_one_head(first: RunningNode, second: RunningNode) -> StatusView:
    """The first one's status while both have the same parameters."""
    shown: list[StatusView] = []

    def agree() -> bool:
        shown[:] = [first.status(), second.status()]
        return shown[0].head == shown[1].head and shown[0].digest == shown[1].digest

    wait_until_sync(agree, LONG_S)
    return shown[0]


def _no_sockets(folder: str, names: list[str]) -> list[str]:
    """`cp -r` would copy everything else of a running node."""
    return [name for name in names if (Path(folder) / name).is_socket()]


def test_a_copied_folder_is_refused_with_one_line(before: Before) -> None:
    assert before.copy_code == 78
    last = before.copy_stderr.strip().splitlines()[-1]
    assert last.startswith("demo-node: another node in this run signs with this node's key")
    assert "--datadir" in last
    assert "Traceback" not in before.copy_stderr


def test_the_node_that_was_copied_goes_on_and_nobody_signed_twice(
    folder: Path, before: Before
) -> None:
    since = [view for view in before.second_rounds if view.round > before.copied_round]
    assert sum(view.included for view in since) >= 5
    for name in ("first", "second"):
        done = demo_node("verify", "--datadir", folder / name)
        assert done.returncode == 0, done.stdout  # two headers of one round would be a finding


@pytest.fixture(scope="module")
def week_later(folder: Path, before: Before) -> Iterator[tuple[RunningNode, RunningNode]]:
    """The joiner comes back first, from the addresses it remembers, and nobody is there yet."""
    later = ("start", "--clock-offset", str(WEEK_S))
    with started(folder / "second", *later) as second:
        second.wait_for_rounds(lambda rounds: any(view.included for view in rounds))
        invitation = second.invitation()
        with started(folder / "first", *invitation, *later[1:]) as first:
            first.wait_for_rounds(lambda rounds: sum(v.included for v in rounds) >= 2)
            yield first, second


def test_a_week_later_the_chain_goes_on(
    before: Before, week_later: tuple[RunningNode, RunningNode]
) -> None:
    first, second = week_later
    status = wait_for_one_head(first, second)
    assert status.round - before.head.round > WEEK_S / ROUND_S - 10
    # Not one record is lost but what stood after the last payload or snapshot on a disk.
    assert status.height > before.head.height
    assert status.members == 2
