"""The picture of `demo-node top` in the docs, from a node that runs now:

.venv/bin/demo-node swarm --rounds 60 --keep FOLDER &
.venv/bin/python -m tests.cli.top_picture FOLDER/node-0 docs/img/top.svg
"""

import asyncio
import io
import sys
from pathlib import Path

from rich.console import Console

from demo_node.cli.top.draw import Look, draw
from demo_node.cli.top.reading import Reading
from demo_node.cli.top.watch import Asker
from demo_node.control.client import control_client

WIDTH, HEIGHT = 120, 34
TRAFFIC_S = 5.0
"""Bytes per second need two answers."""


def export(reading: Reading, path: Path, width: int = WIDTH, height: int | None = HEIGHT) -> None:
    """Write what a terminal would show as an SVG."""
    console = Console(
        file=io.StringIO(),
        record=True,
        width=width,
        force_terminal=True,
        color_system="truecolor",
        highlight=False,
    )
    console.print(draw(reading, Look(width, height)))
    console.save_svg(str(path), title="demo-node top")


async def _read(datadir: Path) -> Reading:
    async with control_client(datadir) as client:
        asker = Asker(client)
        await asker.ask()
        await asyncio.sleep(TRAFFIC_S)
        return await asker.ask()


if __name__ == "__main__":
    export(asyncio.run(_read(Path(sys.argv[1]))), Path(sys.argv[2]))
