"""The same seed is the same run, to the last event, on any machine."""

import json
import subprocess
from pathlib import Path

import pytest

from demo_node import sim
from tests.cli.command import COMMAND, environment


def run(seed: int, hash_seed: int) -> dict[str, object]:
    """In a process of its own, whose sets of bytes have another order."""
    ended = subprocess.run(
        [*COMMAND, "simulate", "--nodes", "12", "--rounds", "15", "--seed", str(seed), "--json"],
        check=True,
        capture_output=True,
        text=True,
        env=environment() | {"PYTHONHASHSEED": str(hash_seed)},
        timeout=100,
    )
    document: dict[str, object] = json.loads(ended.stdout)
    return document


def test_the_order_of_sets_changes_nothing() -> None:
    first, second = run(7, 1), run(7, 2)
    del first["seconds"], second["seconds"]
    assert first == second
    assert run(8, 1)["event_log_digest"] != first["event_log_digest"]


@pytest.mark.parametrize("word", ["random.random(", "time.time(", "os.urandom(", "uuid"])
def test_no_other_source_of_chance_is_in_the_simulator(word: str) -> None:
    folder = Path(sim.__file__).parent
    files = sorted(folder.rglob("*.py"))
    assert len(files) > 20
    assert [file.name for file in files if word in file.read_text()] == []
