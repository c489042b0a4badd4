"""deploy/compose.yaml, up: its nodes by name, asked over their control sockets, and Prometheus."""

import contextlib
import json
import socket
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from tests.containers.engine import Engine
from tests.containers.images import Images
from tests.e2e.nodes import CALMLY
from tests.pages import take_line
from tests.waiting import wait_until_sync

PAGE: Final = "docs/containers.md"

PROJECT: Final = "demotest"

SERVICES: Final = ("bootstrap", "node", "archive", "prometheus", "alertmanager")
"""All but Grafana, whose image is nowhere to be had without a registry."""

PRE_STOP: Final = ["sh", "-c", "kill -TERM 1; sleep 3600"]
"""What Kubernetes runs in a container that is to end."""

STEP_S: Final = 120.0
"""Nothing here is about speed; whatever is waited for takes some rounds of 3 s."""

ASK_S: Final = 1.0
"""Between two questions. One takes half a second of a processor: a process in a container."""


class Stack:
    """The project on an engine."""

    def __init__(self, engine: Engine, images: Images) -> None:
        self.engine = engine
        self.images = images
        self.prometheus_port, alertmanager_port, mesh_port = find_ports(3)
        host = engine.find_host_address()
        self.address = f"/ip4/{host}/tcp/{mesh_port}"
        self.settings = {
            "COMPOSE_PROJECT_NAME": PROJECT,
            "IMAGE": images.node,
            "PROMETHEUS_IMAGE": images.prometheus,
            "ALERTMANAGER_IMAGE": images.alertmanager,
            "PROMETHEUS_PORT": str(self.prometheus_port),
            "ALERTMANAGER_PORT": str(alertmanager_port),
            "MESH": f"{host}:{mesh_port}",
            "ANNOUNCE": self.address,
            "ROUND_SECONDS": "3",
            "TRAIN_PERCENT": CALMLY[1],
        }

    def up(self, replicas: int) -> None:
        """Start what does not run, and so many of `node`; more of it later, by the same command."""
        line = take_line(PAGE, "docker compose -f deploy/compose.yaml up --scale")
        line = line.replace("node=3", f"node={replicas}")
        try:
            self.engine.compose(line, self.settings, "--detach", "--no-build", *SERVICES)
        except AssertionError as error:
            logs = [self.engine.docker("logs", "--tail", 20, node) for node in self.nodes()]
            raise AssertionError(f"{error}\n{logs}") from None

    def down(self, *options: str) -> None:
        """Stop and remove the containers."""
        line = "docker compose -f deploy/compose.yaml down"
        self.engine.compose(line, self.settings, *options)

    def nodes(self) -> list[str]:
        """Names of all nodes' containers, running or not."""
        shown = self.engine.docker("ps", "--all", "--format", "{{.Names}}").split()
        ours = tuple(f"{PROJECT}_{service}_" for service in ("bootstrap", "node", "archive"))
        return sorted(name for name in shown if name.startswith(ours))

    def status(self, node: str) -> dict[str, Any]:
        """`demo-node status --json` inside of a container; empty where nothing answers."""
        return self._demo(node, "status")

    def rounds(self, node: str) -> set[tuple[int, str, str]]:
        """Number, record and digest of its newest rounds that have a record."""
        return {
            (shown["round"], shown["record"], shown["digest"])
            for shown in self._demo(node, "rounds").get("rounds", [])
            if shown["record"]
        }

    def wait_agreed(self, nodes: Sequence[str], rounds: int = 1) -> dict[str, Any]:
        """Wait until these have one record and one digest of a round to come; a status then.

        That is one at least so many after the newest of now. They are asked what they stood at, and
        not where they stand: to ask seven takes longer than a round. So the first is asked alone,
        until there is something to ask the others for.
        """
        first = next(filter(None, map(self.status, nodes)), {"round": 0})["round"] + rounds
        found: list[set[tuple[int, str, str]]] = []

        def find(node: str) -> set[tuple[int, str, str]]:
            return {one for one in self.rounds(node) if one[0] >= first}

        def is_agreed() -> bool:
            time.sleep(ASK_S)
            found[:] = [find(nodes[0])]
            if not found[0]:
                return False
            with ThreadPoolExecutor() as threads:
                found.extend(threads.map(find, nodes[1:]))
            return bool(set.intersection(*found))

        try:
            wait_until_sync(is_agreed, STEP_S)
        except AssertionError:
            raise AssertionError(f"{dict(zip(nodes, found, strict=False))}") from None
        return self.status(nodes[0])

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Prometheus' answer, now."""
        return self._fetch("query", {"query": query})

    def ask_range(self, query: str, begin_s: float, end_s: float) -> list[dict[str, Any]]:
        """As a dashboard asks."""
        span = {"start": str(begin_s), "end": str(end_s), "step": "5"}
        return self._fetch("query_range", {"query": query, **span})

    def _demo(self, node: str, command: str) -> dict[str, Any]:
        with contextlib.suppress(AssertionError):
            document: dict[str, Any] = json.loads(
                self.engine.docker("exec", node, "demo-node", command, "--json")
            )
            return document
        return {}

    def _fetch(self, path: str, fields: dict[str, str]) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:{self.prometheus_port}/api/v1/{path}"
        with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(fields)}", timeout=20) as reply:
            document = json.load(reply)
        assert document["status"] == "success", document
        assert not document.get("warnings"), document
        result: list[dict[str, Any]] = document["data"]["result"]
        return result


def find_ports(count: int) -> Iterator[int]:
    """Free ports of the loopback."""
    with contextlib.ExitStack() as held:
        for _ in range(count):
            each = held.enter_context(socket.socket())
            each.bind(("127.0.0.1", 0))
            yield each.getsockname()[1]
