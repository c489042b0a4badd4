"""Makes docs/img/stack.svg: a terminal beside the stack of deploy/compose.yaml, while that runs.

python -m tests.containers.picture     # as root; eight minutes
"""

import io
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from tests.cli.command import ROOT
from tests.cli.top_picture import FONTS
from tests.containers.engine import Engine, running_engine
from tests.containers.images import build_images, make_base, make_wheels
from tests.containers.stack import PAGE, Stack
from tests.distribution import copy_tree
from tests.pages import take_line
from tests.waiting import wait_until_sync

IMAGE: Final = ROOT / "docs" / "img" / "stack.svg"

WIDTH: Final = 112

HEIGHT: Final = 30
"""Records: by then something has been learnt."""

ASKED: Final = ("ps", "exec bootstrap demo-node status", "exec --index 2 node demo-node peers")


def show(stack: Stack) -> str:
    """What was typed, and what came of it."""
    up = take_line(PAGE, "docker compose -f deploy/compose.yaml up --scale")
    shown = [f"$ {up} --detach", ""]
    for words in ASKED:
        line = f"docker compose -f deploy/compose.yaml {words}"
        said = stack.engine.compose(line.replace(" exec ", " exec -T "), stack.settings)
        shown += [f"$ {line}", said.rstrip(), ""]
    return "\n".join(shown)


def draw(shown: str) -> str:
    """As an SVG."""
    console = Console(file=io.StringIO(), record=True, width=WIDTH, force_terminal=True)
    for line in shown.splitlines():
        style = "bold" if line.startswith("$") else ""
        console.print(Text(line, style=style), no_wrap=True, crop=True)
    return FONTS.sub("", console.export_svg(title="docker compose", unique_id="stack"))


def run(engine: Engine, folder: Path) -> str:
    """The stack, until it has its records."""
    make_base(engine, folder)
    copy_tree(folder / "tree")
    make_wheels(folder / "wheels")
    stack = Stack(engine, build_images(engine, folder / "tree", folder / "wheels"))
    stack.up(3)
    try:
        first = next(name for name in stack.nodes() if "bootstrap" in name)
        wait_until_sync(lambda: stack.status(first).get("height", 0) >= HEIGHT, 400)
        return show(stack)
    finally:
        stack.down("--volumes")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name, running_engine(Path(name)) as running:
        IMAGE.write_text(draw(run(running, Path(name))))
