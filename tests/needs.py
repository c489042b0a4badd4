"""Programs that come from apt: without one, a test that needs it is skipped, and fails in CI."""

import importlib.util
import os
import shutil

import pytest

PROGRAMS = (
    "prometheus",
    "promtool",
    "prometheus-alertmanager",
    "amtool",
    "node",
    "npm",
    "docker",
    "dockerd",
    "docker-compose",
    "debootstrap",
    "nft",
    "ip",
    "ping",
)
"""What `deploy/install-tools.sh` installs."""


def needs(*programs: str) -> None:
    """Skip the running test where one of `programs` is not installed.

    Where the environment's DEMO_REQUIRE names it (a list with commas, or `all`), fail instead.
    """
    for program in programs:
        assert program in PROGRAMS, f"{program} is not what deploy/install-tools.sh installs"
        if not shutil.which(program):
            reason = f"{program} is not installed: run sudo bash deploy/install-tools.sh"
            _skip_or_fail(program, reason)


def needs_root() -> None:
    """The same where it is not root who runs the test; `root` in DEMO_REQUIRE."""
    if os.geteuid():
        _skip_or_fail("root", "networks and engines of its own are root's")


def needs_hivemind() -> None:
    """The same where hivemind and its p2pd are not installed; `hivemind` in DEMO_REQUIRE."""
    if importlib.util.find_spec("hivemind") is None:
        _skip_or_fail("hivemind", "hivemind is not installed: make setup, on Linux x86-64")


def _skip_or_fail(what: str, reason: str) -> None:
    required = os.environ.get("DEMO_REQUIRE", "").split(",")
    if what in required or "all" in required:
        pytest.fail(f"{reason}; DEMO_REQUIRE asks for it")
    pytest.skip(reason)
