"""What systemd hears of a node, where its unit is of Type=notify: sd_notify(3), by one datagram."""

import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from demo_node.views import NodeState, StatusView

ADDRESS: Final = "NOTIFY_SOCKET"
"""Environment variable with a path, or with @ and an abstract name."""


class ServiceManager:
    """Tells it that the node is up, what it does, and that its event loop turns; else nobody."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        named = environ.get(ADDRESS, "")
        self._address = "\0" + named[1:] if named.startswith("@") else named

    def tell(self, view: StatusView) -> None:
        """To be called often: what is not heard for WatchdogSec is killed.

        READY is said each time, since only its first time counts. Never waits, never raises: a
        node goes on whether its supervisor listens or not.
        """
        if not self._address:
            return
        doing = f"{view.state.value}: {view.detail}" if view.detail else view.state.value
        lines = [f"STATUS={doing}".replace("\n", " "), "WATCHDOG=1"]
        is_leaving = view.state in (NodeState.DRAINING, NodeState.STOPPED)
        lines.append("STOPPING=1" if is_leaving else "READY=1")
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(lines).encode(), self._address)
