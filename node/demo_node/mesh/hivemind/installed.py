"""Can this mesh be had here? Answers without importing hivemind."""

import importlib.util
import platform
import sys

from demo_protocol.errors import ConfigError


def check_installed() -> None:
    """Raise ConfigError where hivemind is missing, or no p2pd runs on this machine."""
    machine = f"{platform.system()} {platform.machine()}"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise ConfigError(
            f"--mesh hivemind: its p2pd is built for Linux x86-64 only, and this is {machine};"
            " use --mesh libp2p, the default"
        )
    if importlib.util.find_spec("hivemind") is None:
        raise ConfigError("--mesh hivemind needs hivemind; run: pip install 'demo-node[hivemind]'")
