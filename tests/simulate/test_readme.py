"""The README shows what its command prints, to the event log's digest: the same on any machine."""

import re
from pathlib import Path

from tests.cli.command import demo_node

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_readme_shows_what_its_simulation_prints() -> None:
    command, shown = re.findall(
        r"^demo-node (simulate --nodes .*?) +# ten seconds\n.*?^```\n(full mix: .*?)^```",
        README,
        re.MULTILINE | re.DOTALL,
    )[0]
    result = demo_node(*command.split())
    assert result.returncode == 0, result.stderr
    printed = [line for line in result.stdout.splitlines() if not line.startswith("  took")]
    assert printed == [line for line in shown.splitlines() if not line.startswith("  took")]
