"""Who cannot have this mesh is told what to do, in one line."""

import importlib.util
import platform

import pytest

from demo_node.mesh.hivemind.installed import check_installed
from demo_protocol.errors import ConfigError


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"run: pip install 'demo-node\[hivemind\]'$"):
        check_installed()


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("linux", "aarch64")])
def test_on_another_platform_it_says_what_to_use(
    system: str, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(ConfigError, match=f"{machine}; use --mesh libp2p"):
        check_installed()
