"""A process of a test on a machine of its network, which does what it is asked on its input."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from tests.cli.command import ROOT
from tests.wan.network import Network


class Child:
    """Answers lines of JSON with one each."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, *words: str) -> Any:
        """What it answers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def kill(self) -> None:
        """As a machine that loses power, but for the kernel's goodbye."""
        self._process.kill()
        self._process.wait()

    @property
    def is_alive(self) -> bool:
        """Has it not ended?"""
        return self._process.poll() is None


@contextlib.contextmanager
def child(network: Network, index: int, module: str, *arguments: str) -> Iterator[Child]:
    """Of `tests.wan.<module>`, until the block ends."""
    command = [*network.inside(index), sys.executable, "-m", f"tests.wan.{module}"]
    with subprocess.Popen(
        [*command, str(index + 1), *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Child(process)
        finally:
            process.kill()
