"""Programs that come from apt: without one, a test that needs it is skipped, and fails in CI."""

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
)
"""What `deploy/install-tools.sh` installs."""


def needs(*programs: str) -> None:
    """Skip the running test where one of `programs` is not installed.

    Where the environment's DEMO_REQUIRE names it (a list with commas, or `all`), fail instead.
    """
    for program in programs:
        assert program in PROGRAMS, f"{program} is not what deploy/install-tools.sh installs"
        if shutil.which(program):
            continue
        required = os.environ.get("DEMO_REQUIRE", "").split(",")
        reason = f"{program} is not installed: run sudo bash deploy/install-tools.sh"
        if program in required or "all" in required:
            pytest.fail(f"{reason}; DEMO_REQUIRE asks for it")
        pytest.skip(reason)
