"""A Docker engine of the tests' own, in one folder: nothing of it is left, nothing else is touched.

Needs root, and no other engine on this machine: both would write the same firewall tables.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tests.cli.command import ROOT
from tests.e2e.processes import marked_environment, nothing_left
from tests.waiting import wait_until_sync

UP_S: Final = 60.0
"""Until an engine answers; it takes one."""


class Engine:
    """Runs `docker` and compose against one engine."""

    def __init__(self, socket: Path) -> None:
        self._environment = {**os.environ, "DOCKER_HOST": f"unix://{socket}"}
        # Debian 12 has no buildx: what is built here is built by the engine itself.
        self._environment["DOCKER_BUILDKIT"] = "0"

    def docker(self, *arguments: object, timeout_s: float = 60, fails: bool = False) -> str:
        """What `docker` prints. Fails the test with its last words where it ends with an error,
        unless that `fails`, as it should."""
        return self._run("docker", *arguments, timeout_s=timeout_s, fails=fails)

    def find_host_address(self) -> str:
        """This machine as containers reach it, and nobody outside: the engine's own bridge."""
        command = ["ip", "-json", "-4", "address", "show", "docker0"]
        (bridge,) = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        address: str = bridge["addr_info"][0]["local"]
        return address

    def compose(self, line: str, settings: Mapping[str, str], *more: object) -> str:
        """The same of a line as docs/containers.md shows it; `settings` name the project."""
        assert line.startswith("docker compose -f ")
        words = line.removeprefix("docker compose").split()
        return self._run("docker-compose", *words, *more, settings=settings, timeout_s=240)

    def _run(
        self,
        *command: object,
        settings: Mapping[str, str] | None = None,
        timeout_s: float,
        fails: bool = False,
    ) -> str:
        ended = subprocess.run(
            list(map(str, command)),
            cwd=ROOT,
            env=self._environment | dict(settings or {}),
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert (ended.returncode != 0) == fails, (
            f"{command}: {ended.stdout[-2000:]}{ended.stderr[-3000:]}"
        )
        return ended.stdout or ended.stderr  # what a container said may have been said there


@contextlib.contextmanager
def running_engine(folder: Path) -> Iterator[Engine]:
    """An engine with its data in `folder`; ended, and cleared away, at the end of the block."""
    before = find_traces(folder)
    socket = folder / "docker.sock"
    command = ["dockerd", "--data-root", folder / "data", "--exec-root", folder / "exec"]
    command += ["--host", f"unix://{socket}", "--pidfile", folder / "pid"]
    command += ["--default-ulimit", "nofile=4096:4096"]
    with (
        nothing_left(folder),
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            list(map(str, command)), env=marked_environment(folder), stdout=log, stderr=log
        ) as process,
    ):
        engine = Engine(socket)
        try:
            wait_until_sync(lambda: _answers(engine, process, folder / "log"), UP_S)
            yield engine
        finally:
            process.terminate()
            process.wait(60)
            _clear_away(find_traces(folder) - before)


def find_traces(folder: Path) -> set[str]:
    """What an engine leaves on a machine: interfaces, firewall tables, mounts under `folder`."""
    interfaces = {f"interface {each.name}" for each in Path("/sys/class/net").iterdir()}
    ruled = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True)
    mounts = {
        f"mount {line.split()[1]}"
        for line in Path("/proc/mounts").read_text().splitlines()
        if line.split()[1].startswith(str(folder))
    }
    return interfaces | set(ruled.stdout.splitlines()) | mounts


def _answers(engine: Engine, process: "subprocess.Popen[bytes]", log: Path) -> bool:
    if process.poll() is not None:
        raise AssertionError(f"dockerd has ended: {log.read_text()[-2000:]}")
    with contextlib.suppress(AssertionError):
        return bool(engine.docker("info", "--format", "{{.ServerVersion}}").strip())
    return False


def _clear_away(traces: set[str]) -> None:
    """What dockerd leaves behind: its bridge, its tables, the mount of its network namespace."""
    for trace in traces:
        what, *words = trace.split()
        if what == "interface" and words[0].startswith(("docker", "br-")):
            subprocess.run(["ip", "link", "del", *words], check=True)
        if what == "table":
            subprocess.run(["nft", "delete", "table", *words], check=True)
        if what == "mount":
            subprocess.run(["umount", *words], check=True)
