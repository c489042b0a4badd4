"""docs/architecture.md shows the layers that import-linter keeps."""

import re
import tomllib

from tests.cli.command import ROOT


def test_the_architecture_shows_the_contract_of_the_node() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (layers,) = [
        contract["layers"]
        for contract in document["tool"]["importlinter"]["contracts"]
        if contract.get("containers") == ["demo_node"]
    ]
    shown = re.search(
        r"```\n(cli → .*?)\ndemo_protocol:", (ROOT / "docs/architecture.md").read_text(), re.DOTALL
    )
    assert shown
    # A long layer goes on in the next line.
    assert [" ".join(layer.split()) for layer in shown[1].split("→")] == layers
