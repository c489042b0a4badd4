"""The momentum file: what a restart would lose of this node, `momentum.safetensors`.

The trainer makes its bytes and reads them (trainer/momentum_file.py); here they are put on the
disk, whole or not at all. It is this node's alone: nobody is given it, and no digest knows of it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from demo_node.store.atomic import AtomicFile
from demo_node.store.disk import Disk
from demo_node.store.tensorfile import NotTensors, compute_header_end, decode_header

BATCH_BYTES: Final = 4 << 20
"""Written and synced at once: so long, and no longer, a signature may have to wait for the device
(rule 10)."""


class MomentumFile:
    """The newest one only: an older one knows less, and what was sent since it would be more."""

    def __init__(self, disk: Disk, path: Path) -> None:
        """Looks at the file's size."""
        self.path = path
        self.file_bytes = 0
        """0 while there is none."""
        self._disk = disk
        with suppress(FileNotFoundError):
            self.file_bytes = disk.size(path)

    async def save(self, pieces: AsyncIterator[bytes]) -> int:
        """Replace it as the pieces come; returns its size. Writes in threads; fsyncs.

        Without a piece it stays. Raises ConfigError when the disk is full; the old one is there
        then, as it is when this is cancelled or `pieces` raises.
        """
        with await asyncio.to_thread(AtomicFile, self._disk, self.path) as file:
            size, batch = 0, []
            async for piece in pieces:
                batch.append(piece)
                size += len(piece)
                if sum(map(len, batch)) >= BATCH_BYTES:
                    await asyncio.to_thread(_write, file, batch)
                    batch = []
            if size:
                await asyncio.to_thread(_write, file, batch)
                await asyncio.to_thread(file.commit)
                self.file_bytes = size
        return size

    def read_round(self) -> int | None:
        """The newest round whose work is in it, as its header says; None where that is damaged.

        Reads the header alone.
        """
        try:
            end = compute_header_end(self._disk.read(self.path, 0, 8))
            metadata = decode_header(self._disk.read(self.path, 0, end)).metadata
            return int(metadata["demo.round"])
        except (FileNotFoundError, NotTensors, KeyError, ValueError):
            return None


def _write(file: AtomicFile, pieces: list[bytes]) -> None:
    for piece in pieces:
        file.write(piece)
    file.sync()
