"""The picture of `demo-node top` in the docs, from a node that runs now:

.venv/bin/demo-node swarm --rounds 60 --keep FOLDER &
.venv/bin/python -m tests.cli.top_picture FOLDER/node0 docs/img/top.svg
"""

import asyncio
import io
import re
import sys
from pathlib import Path

from rich.console import Console

from demo_node.cli.top.draw import Look, draw
from demo_node.cli.top.reading import Reading
from demo_node.cli.top.watch import Asker
from demo_node.control.client import control_client

WIDTH, HEIGHT = 120, 34
TRAFFIC_S = 6.0
"""Bytes per second need two answers, whole rounds apart."""

FONTS = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)
"""Where a picture in a page may not fetch fonts from, and need not."""


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
    console.print(draw(reading, Look(width, height, has_keys=True)))
    svg = console.export_svg(title="demo-node top", unique_id="top")
    path.write_text(FONTS.sub("", svg))


async def _read(datadir: Path) -> Reading:
    async with control_client(datadir) as client:
        asker = Asker()
        await asker.ask(client)
        await asyncio.sleep(TRAFFIC_S)
        return await asker.ask(client)


if __name__ == "__main__":
    export(asyncio.run(_read(Path(sys.argv[1]))), Path(sys.argv[2]))
