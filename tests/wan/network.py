"""Network namespaces that a test makes itself, joined by a switch (tests/wan/switch.py) with links
as bad as asked for. Needs root. Nothing of it is left when the block ends.
"""

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from tests.cli.command import ROOT
from tests.needs import needs, needs_root
from tests.waiting import wait_until_sync
from tests.wan.switch import INTERFACE, Change, mac

INSIDE: Final = "lan0"
"""The interface of a machine behind a router; the router's is `lan1`."""


class Network:
    """Numbered machines. Each has 10.99.0.(number + 1) and fd99::(number + 1)."""

    def __init__(self, folder: Path, count: int) -> None:
        self._prefix = f"demo{os.getpid()}"
        self._socket = folder / "switch"
        self._client = folder / "client"
        self.count = count
        self.namespaces = [f"{self._prefix}n{index}" for index in range(count)]
        self.hidden: dict[int, str] = {}

    def address(self, index: int) -> str:
        """IPv4, as others reach it."""
        return f"10.99.0.{index + 1}"

    def address_6(self, index: int) -> str:
        """IPv6."""
        return f"fd99::{index + 1:x}"

    def inside(self, index: int) -> tuple[str, ...]:
        """What a command begins with to be run on that machine, or on the one behind it."""
        return ("ip", "netns", "exec", self.hidden.get(index, self.namespaces[index]))

    def change(
        self,
        sources: Iterable[int] | None = None,
        targets: Iterable[int] | None = None,
        *,
        rate_mbit_s: float | None = None,
        **link: float | bool,
    ) -> dict[str, int]:
        """Links from each source to each target, both ways; None: all. Returns the counters."""
        everybody = range(self.count)
        ends = [list(everybody if some is None else some) for some in (sources, targets)]
        uplink = {} if rate_mbit_s is None else {"rate_mbit_s": rate_mbit_s}
        self._tell(Change(ends[0], ends[1], link, uplink))
        return self._tell(Change(ends[1], ends[0], link, {}))

    def hide(self, index: int, *, is_symmetric: bool = False) -> None:
        """Make the machine a router, with another one behind it that commands go to from now on.

        It maps each inner port to one outer port whoever is spoken to, or, if `is_symmetric`, to
        another one for each. Nobody outside begins a connection to the inside.
        """
        router, inner = self.namespaces[index], f"{self._prefix}i{index}"
        _ip("netns", "add", inner)
        self.hidden[index] = inner
        _ip("-n", router, "link", "add", "lan1", "type", "veth", "peer", INSIDE, "netns", inner)
        for namespace, interface, host in ((router, "lan1", 1), (inner, INSIDE, 2)):
            _ip("-n", namespace, "addr", "add", f"192.168.{index}.{host}/24", "dev", interface)
            _ip("-n", namespace, "link", "set", interface, "up")
        _ip("-n", inner, "link", "set", "lo", "up")
        _ip("-n", inner, "route", "add", "default", "via", f"192.168.{index}.1")
        run = ("ip", "netns", "exec", router)
        subprocess.run([*run, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"], check=True)
        rules = _make_rules("fully-random" if is_symmetric else "")
        subprocess.run([*run, "nft", "-f", "-"], input=rules, text=True, check=True)

    def move(self, index: int, host: int) -> None:
        """Give the machine another IPv4 address, 10.99.0.(host), in place of its own."""
        line = ("-n", self.namespaces[index], "addr")
        _ip(*line, "del", f"{self.address(index)}/24", "dev", INTERFACE)
        _ip(*line, "add", f"10.99.0.{host}/24", "dev", INTERFACE)
        _ip("-n", self.namespaces[index], "route", "add", "default", "dev", INTERFACE)

    def close_way_out(self, index: int) -> None:
        """Leave the machine nothing but its own network."""
        _ip("-n", self.namespaces[index], "route", "del", "default")

    def make(self) -> None:
        """The namespaces."""
        for namespace in self.namespaces:
            _ip("netns", "add", namespace)

    @contextlib.contextmanager
    def switched(self, seed: int) -> Iterator[None]:
        """With the switch between them."""
        command = [sys.executable, "-m", "tests.wan.switch", self._socket, seed, *self.namespaces]
        with subprocess.Popen(list(map(str, command)), cwd=ROOT) as process:
            try:
                wait_until_sync(lambda: self._socket.exists() or process.poll() is not None)
                assert process.poll() is None
                for index, namespace in enumerate(self.namespaces):
                    self._configure(index, namespace)
                yield
            finally:
                process.terminate()

    def remove(self) -> None:
        """All namespaces, and with them their interfaces and rules."""
        for namespace in (*self.namespaces, *self.hidden.values()):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)

    def _configure(self, index: int, namespace: str) -> None:
        line = ("-n", namespace, "link", "set", INTERFACE, "address", mac(index))
        _ip(*line, "txqueuelen", "10000", "up")
        _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", namespace, "addr", "add", f"{self.address(index)}/24", "dev", INTERFACE)
        _ip(
            "-n", namespace, "addr", "add", f"{self.address_6(index)}/64", "dev", INTERFACE, "nodad"
        )
        _ip("-n", namespace, "route", "add", "default", "dev", INTERFACE)  # nodes look for it

    def _tell(self, change: Change) -> dict[str, int]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.settimeout(20)
            client.bind(str(self._client))
            try:
                client.sendto(json.dumps(dataclasses.asdict(change)).encode(), str(self._socket))
                told: dict[str, int] = json.loads(client.recv(1 << 16))
            finally:
                self._client.unlink()
        return told


@contextlib.contextmanager
def made_network(folder: Path, count: int, seed: int = 1) -> Iterator[Network]:
    """`count` machines whose links are perfect at first. Skips the test where none can be made."""
    needs("ip", "nft")
    needs_root()
    folder.mkdir(exist_ok=True)
    network = Network(folder, count)
    try:
        network.make()
        with network.switched(seed):
            yield network
    finally:
        network.remove()
    assert network.namespaces[0] not in os.listdir("/run/netns")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _make_rules(how: str) -> str:
    return f"""
        table ip nat {{
            chain leaving {{
                type nat hook postrouting priority 100;
                oifname "{INTERFACE}" masquerade {how}
            }}
        }}
        table ip filter {{
            chain passing {{
                type filter hook forward priority 0; policy drop;
                ct state established,related accept
                iifname "lan1" accept
            }}
        }}
    """
