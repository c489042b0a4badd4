"""The README shows what its command prints, to the event log's digest: the same on any machine."""

import re

from tests.cli.command import demo_node
from tests.pages import ROOT, take_line


def test_the_readme_shows_what_its_simulation_prints() -> None:
    command = take_line("README.md", "demo-node simulate --nodes 30 --rounds 60")
    page = (ROOT / "README.md").read_text()
    (shown,) = re.findall(r"^```\n(full mix: .*?)^```", page, re.MULTILINE | re.DOTALL)
    result = demo_node(*command.split()[1:])
    assert result.returncode == 0, result.stderr
    printed = [line for line in result.stdout.splitlines() if not line.startswith("  took")]
    assert printed == [line for line in shown.splitlines() if not line.startswith("  took")]
