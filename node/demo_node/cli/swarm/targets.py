"""Where the swarm's nodes can be scraped, in a file that Prometheus reads (`file_sd_configs`)."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Target:
    """A node: where it can be scraped (HOST:PORT), and by what its operator finds it."""

    address: str
    index: int
    datadir: Path


@contextlib.contextmanager
def listed_targets(path: Path, targets: Sequence[Target]) -> Iterator[None]:
    """The file is there, with these in it, until the block ends. Raises OSError."""
    document = [{"targets": [target.address], "labels": _make_labels(target)} for target in targets]
    # Prometheus looks at it whenever it changes: it must never see half of it.
    unfinished = path.with_name(f".{path.name}.new")
    try:
        unfinished.write_text(json.dumps(document, indent=1) + "\n")
        os.replace(unfinished, path)
        yield
    finally:
        for left in (unfinished, path):
            left.unlink(missing_ok=True)


def _make_labels(target: Target) -> dict[str, str]:
    """Ports are random: an alert would name nothing that tells one node from another."""
    return {
        "run_by": "demo-node swarm",
        "node": str(target.index),
        "datadir": str(target.datadir),
    }
