"""Where the swarm's nodes can be scraped, in a file that Prometheus reads (`file_sd_configs`)."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path


@contextlib.contextmanager
def listed_targets(path: Path, addresses: Sequence[str]) -> Iterator[None]:
    """The file is there, with these HOST:PORT in it, until the block ends. Raises OSError."""
    document = [{"targets": list(addresses), "labels": {"run_by": "demo-node swarm"}}]
    # Prometheus looks at it whenever it changes: it must never see half of it.
    unfinished = path.with_name(f".{path.name}.new")
    try:
        unfinished.write_text(json.dumps(document, indent=1) + "\n")
        os.replace(unfinished, path)
        yield
    finally:
        for left in (unfinished, path):
            left.unlink(missing_ok=True)
