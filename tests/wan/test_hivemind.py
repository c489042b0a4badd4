"""Go libp2p behind routers: two that nobody can dial meet by a peer that carries them."""

import contextlib
from pathlib import Path

import pytest

from tests.needs import needs_hivemind
from tests.wan.child import child
from tests.wan.network import made_network

pytestmark = [pytest.mark.wan, pytest.mark.slow, pytest.mark.timeout(180)]

PUBLIC, CONE, SYMMETRIC = 0, 1, 2
SIZE = 300_000


def test_two_behind_routers_reach_each_other_by_a_relay(tmp_path: Path) -> None:
    needs_hivemind()
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(made_network(tmp_path / "network", 3))
        network.hide(CONE)
        network.hide(SYMMETRIC, is_symmetric=True)
        network.change(delay_ms=20)
        public = stack.enter_context(child(network, PUBLIC, "hivemind_child"))
        (address,) = public.ask("addresses", network.address(PUBLIC))
        hidden = [
            stack.enter_context(child(network, index, "hivemind_child", address))
            for index in (CONE, SYMMETRIC)
        ]
        names = [one.ask("connect", address) for one in hidden]
        views = [one.ask("meet", other) for one, other in zip(hidden, names[::-1], strict=True)]
        # Whoever dialled did so by way of the relay, and there is no other way.
        assert any(f"{address}/p2p-circuit" in view["address"] for view in views), views
        for one, other in zip(hidden, names[::-1], strict=True):
            assert one.ask("pull", other, str(SIZE)) == SIZE
