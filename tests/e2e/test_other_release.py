"""A node of the protocol before this one, installed from a wheel: it and ours refuse each other."""

from pathlib import Path

import pytest

from demo_protocol.manifest import PROTOCOL_VERSION
from tests.distribution import build, copy_tree, install
from tests.e2e.nodes import RunningNode, make_run, started

pytestmark = [pytest.mark.swarm, pytest.mark.slow, pytest.mark.timeout(300)]

OLD = PROTOCOL_VERSION - 1


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the other release is installed; as PYTHONPATH it comes before ours."""
    folder = tmp_path_factory.mktemp("other")
    copy_tree(folder / "tree")
    source = folder / "tree" / "protocol" / "demo_protocol" / "manifest.py"
    before, after = (
        f"PROTOCOL_VERSION: Final = {version}\n" for version in (PROTOCOL_VERSION, OLD)
    )
    text = source.read_text()
    assert text.count(before) == 1
    source.write_text(text.replace(before, after))
    install(build(folder / "tree").wheel, folder / "site")
    return str(folder / "site")


def refuse(node: RunningNode) -> str:
    """The last line of one that could not join."""
    assert node.wait() == 76, node.stderr[-2000:]
    assert "Traceback" not in node.stderr
    return node.stderr.splitlines()[-1]


def tell(made: int, speaks: int) -> str:
    return f"protocol version {made}, this node speaks {speaks}; install the demo-node release that"


def test_neither_joins_the_other_and_both_go_on(site: str, tmp_path: Path) -> None:
    make_run(tmp_path / "ours")
    with started(tmp_path / "ours") as ours:
        with started(tmp_path / "joining", *ours.invitation(), PYTHONPATH=site) as joining:
            assert tell(PROTOCOL_VERSION, OLD) in refuse(joining)
        reached = ours.status().height
        ours.wait_for_status(lambda status: status.height > reached)


def test_the_other_way_round(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("PYTHONPATH", site)
        make_run(tmp_path / "opened")
    with started(tmp_path / "opened", "start", PYTHONPATH=site) as opened:
        with started(tmp_path / "ours", *opened.invitation()) as ours:
            assert tell(OLD, PROTOCOL_VERSION) in refuse(ours)
        assert opened.process.poll() is None
