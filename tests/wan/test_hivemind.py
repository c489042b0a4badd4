"""Go libp2p behind routers: two that nobody can dial meet by a peer that carries them."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import ROOT
from tests.needs import needs_hivemind
from tests.wan.network import Network, made_network

pytestmark = [pytest.mark.wan, pytest.mark.slow, pytest.mark.timeout(180)]

PUBLIC, CONE, SYMMETRIC = 0, 1, 2
SIZE = 300_000


class Child:
    """A mesh of `hivemind_child` on a machine of the network."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, *words: str) -> Any:
        """What it answers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextlib.contextmanager
def child(network: Network, index: int, *named: str) -> Iterator[Child]:
    command = [*network.inside(index), sys.executable, "-m", "tests.wan.hivemind_child"]
    with subprocess.Popen(
        [*command, str(index + 1), *named],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Child(process)
        finally:
            process.kill()


def test_two_behind_routers_reach_each_other_by_a_relay(tmp_path: Path) -> None:
    needs_hivemind()
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(made_network(tmp_path / "network", 3))
        network.hide(CONE)
        network.hide(SYMMETRIC, is_symmetric=True)
        network.change(delay_ms=20)
        public = stack.enter_context(child(network, PUBLIC))
        (address,) = public.ask("addresses", network.address(PUBLIC))
        hidden = [
            stack.enter_context(child(network, index, address)) for index in (CONE, SYMMETRIC)
        ]
        names = [one.ask("connect", address) for one in hidden]
        views = [one.ask("meet", other) for one, other in zip(hidden, names[::-1], strict=True)]
        # Whoever dialled did so by way of the relay, and there is no other way.
        assert any(f"{address}/p2p-circuit" in view["address"] for view in views), views
        for one, other in zip(hidden, names[::-1], strict=True):
            assert one.ask("pull", other, str(SIZE)) == SIZE
