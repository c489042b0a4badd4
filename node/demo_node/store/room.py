"""How much room the data folder's disk still has."""

import asyncio
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from demo_node.observer import Figure

LOOK_S: Final = 5.0
"""Between two looks: a disk does not fill in less."""


class FreeRoom:
    """What can still be written beside `folder`, looked up now and then in a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._free_bytes = _measure(folder)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            self._free_bytes = await asyncio.to_thread(_measure, self._folder)

    def figures(self) -> Iterator[Figure]:
        """As of the last look."""
        yield Figure("demo_datadir_free_bytes", self._free_bytes)


def _measure(folder: Path) -> float:
    """Bytes for whoever is not root; NaN where the disk does not say, say because it is gone."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return math.nan
