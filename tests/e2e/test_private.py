"""A run of one's own, real processes: a private swarm by a pre-shared key, members from a list."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo_node.views import NodeState, Standing
from tests.cli.command import COMMAND, ROOT, demo_node
from tests.e2e.nodes import LOCAL, RunningNode, make_run, started
from tests.waiting import wait_until_sync

pytestmark = [pytest.mark.swarm, pytest.mark.slow, pytest.mark.timeout(360)]

PSK = "--psk-file"
STUBBORN = (sys.executable, str(ROOT / "tests/e2e/stubborn_node.py"))


@dataclass(frozen=True)
class Club:
    """Two listed nodes, two that are not, all with the key; what others need but for that."""

    folder: Path
    first: RunningNode
    second: RunningNode
    archive: RunningNode
    rude: RunningNode
    line: list[str]

    @property
    def key(self) -> str:
        return str(self.folder / "swarm.key")


@pytest.fixture(scope="module")
def club(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Club]:
    folder = tmp_path_factory.mktemp("club")
    made = demo_node("key", "psk", folder / "swarm.key")
    assert made.returncode == 0, made.stderr
    friend = demo_node("key", "new", "--datadir", folder / "second").stdout.split()[2]
    make_run(folder / "first", "--preset", "tiny", "--admission", "allowlist", "--allow", friend)
    key = (PSK, str(folder / "swarm.key"))
    with ExitStack() as stack:

        def begin(name: str, *flags: str, command: Sequence[str] = COMMAND) -> RunningNode:
            return stack.enter_context(started(folder / name, *flags, *key, command=command))

        first = begin("first", "start")
        line = first.invitation()
        assert line[-2:] == [PSK, "swarm.key"], "who is invited is told what else it takes"
        del line[-2:]
        second = begin("second", *line)
        archive = begin("archive", *line, "--role", "archive")
        rude = begin("rude", *line, command=STUBBORN)
        yield Club(folder, first, second, archive, rude, line)


def refuse(club: Club, name: str, *flags: str) -> tuple[int, str]:
    """(exit code, last line) of a node that cannot join."""
    done = demo_node(*club.line, *LOCAL, "--datadir", club.folder / name, *flags, timeout_s=100)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines()[-1]


def members(node: RunningNode) -> set[bytes]:
    """As its chain says."""
    views = node.ask(lambda client: client.swarm()).peers
    return {view.peer for view in views if view.standing is Standing.MEMBER}


def test_who_lacks_the_key_is_refused_and_both_sides_say_so(club: Club) -> None:
    code, line = refuse(club, "keyless")
    assert code == 75
    assert "of a private swarm (--psk-file)" in line
    other = str(club.folder / "other.key")
    assert demo_node("key", "psk", other).returncode == 0
    code, line = refuse(club, "stranger", PSK, other)
    assert code == 75
    assert "what answers there has another pre-shared key; is --psk-file the one" in line
    told = [line for line in club.first.stderr.splitlines() if "stranger.refused" in line]
    assert any("it has no pre-shared key" in line for line in told)
    assert any("it has another pre-shared key" in line for line in told)


def test_a_mesh_that_knows_no_private_swarms_is_refused(club: Club) -> None:
    code, line = refuse(club, "hivemind", PSK, club.key, "--mesh", "hivemind")
    assert code == 78
    assert line.endswith("hivemind's p2pd knows no private swarms; use --mesh libp2p")


def test_two_that_have_the_key_and_are_listed_train_together(club: Club) -> None:
    for node in (club.first, club.second):
        node.wait_for_status(lambda status: status.members == 2)
    views = club.second.wait_for_rounds(
        lambda rounds: any(view.included and view.participants == 2 for view in rounds)
    )
    assert views
    wait_until_sync(lambda: club.first.status().digest == club.second.status().digest, 60)


def test_who_is_not_listed_is_told_so_and_may_follow(club: Club) -> None:
    code, line = refuse(club, "unlisted", PSK, club.key)
    assert code == 77
    assert "takes only nodes that it lists, and not 12D3Koo" in line
    follow(club, club.archive)
    status = club.archive.status()
    assert status.state is NodeState.PAUSED
    assert status.detail.startswith("an archive that the run does not list: keeps and serves")
    assert "lists its nodes, and not this one: it follows, no more" in club.archive.stderr


def test_who_pushes_in_is_kept_out(club: Club) -> None:
    """A node without the check of its own: its join is refused, and no record ever lists it."""
    club.rude.wait_until_active()
    honest = (club.first, club.second)
    wait_until_sync(lambda: any("who is not admitted" in n.stderr for n in honest), 90)
    begun = club.first.status().height
    club.first.wait_for_status(lambda status: status.height >= begun + 3)
    listed = {node.status().peer for node in honest}
    assert all(members(node) == listed for node in honest)
    assert members(club.rude) <= listed
    status = club.rude.status()
    assert status.contribution.standing is Standing.UNKNOWN
    assert status.contribution.rounds == 0


def follow(club: Club, node: RunningNode) -> None:
    """Until it has applied some records that others made; it is no member for anybody."""
    own = node.wait_for_status(lambda status: status.height > 1)
    node.wait_for_status(lambda status: status.height >= own.height + 3)
    for each in (club.first, club.second, node):
        assert members(each) == {club.first.status().peer, club.second.status().peer}
        assert own.peer not in members(each)
