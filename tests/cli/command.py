"""The installed command as a test runs it: another process, an environment of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "demo_node.cli")


NOT_INHERITED = ("DEMO_NODE_", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
"""How names begin of what would change a command; make says more where it runs below another."""


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(NOT_INHERITED)}


def list_imported(*arguments: object) -> set[str]:
    """The modules that a command has imported by its end. It must end with 0."""
    script = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        "import demo_node.cli; demo_node.cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
        env=environment(),
    )
    return set(done.stderr.split())


def demo_node(*arguments: object, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=timeout_s,
    )
