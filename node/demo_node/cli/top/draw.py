"""The screen: a pure function of a reading and a size. Every line is cut to the width.

Sections stand below each other on a narrow screen and in two columns on a wide one; charts get
higher with the screen; peers get what is left of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.text import Text

from demo_node.cli.show import format_duration
from demo_node.cli.top.concerns import find_concerns
from demo_node.cli.top.figures import Figures, compute_figures
from demo_node.cli.top.legend import add_keys, draw_legend
from demo_node.cli.top.peers import draw_peers
from demo_node.cli.top.reading import Reading
from demo_node.cli.top.sections import (
    draw_agreement,
    draw_concern,
    draw_head,
    draw_lately,
    draw_latency,
    draw_learning,
    draw_network,
    draw_round,
)

WIDE: Final = 160
"""From this width on there are two columns."""

RIGHT: Final = 78
"""Width of the right one: as wide as its longest usual line."""

BETWEEN: Final = 4
CHART_LINES: Final = ((50, 8), (40, 6), (30, 4), (24, 3), (0, 2))
"""(lines of the screen at least, lines of the chart)."""

LATELY_LINES: Final = ((40, 3), (30, 2), (0, 1))
"""The same of the warnings."""

LEARNING_LINES: Final = 2
"""Of the section, beside its chart."""

ENDLESS: Final = 30
"""What is printed once has as many lines of each as a screen of this height."""

CONCERNS_MAX: Final = 4
PEER_LINES_MIN: Final = 3


@dataclass(frozen=True, slots=True)
class Look:
    """How much there is to draw on: columns, lines (None: as many as it takes), and colours.

    `has_keys`: somebody can press some. `is_explained`: what words mean, instead of the peers.
    """

    width: int
    height: int | None
    color: bool = True
    has_keys: bool = False
    is_explained: bool = False


def draw(reading: Reading, look: Look) -> Text:
    """The whole screen, of at most `look.height` lines."""
    figures = compute_figures(reading)
    top = [*draw_head(reading), *_draw_concerns(reading, figures)]
    lately = draw_lately(reading, _find_lines(LATELY_LINES, look.height))
    if look.has_keys:
        add_keys(top[0], look.width)
    lines = [*top, *_draw_middle(reading, figures, look), *lately]
    legend = draw_legend() if look.is_explained else []
    room = None
    if look.height is not None:
        room = max(look.height - len(lines) - 1, len(legend), PEER_LINES_MIN)
        del lines[max(look.height - room - 1, 0) :]
    lines += [Text(), *(legend or draw_peers(reading, look.width, room))]
    lines = lines[: look.height]
    for line in lines:
        line.truncate(look.width, overflow="ellipsis")
    return Text("\n", no_wrap=True, overflow="crop").join(lines)


def draw_waiting(datadir: Path, since_s: float) -> Text:
    """Instead of a node that has ended, until it is there again."""
    return Text(
        f"no node is running in {datadir}\n"
        f"waiting for it, q leaves ({format_duration(since_s)} so far)\n\n"
        f"start it with: demo-node start --datadir {datadir}",
        overflow="fold",
    )


def _draw_middle(reading: Reading, figures: Figures, look: Look) -> list[Text]:
    is_wide = look.width >= WIDE
    right = RIGHT if is_wide else look.width
    left = look.width - right - BETWEEN if is_wide else look.width
    height = _find_lines(CHART_LINES, look.height)
    rounds = [
        *draw_round(reading, left),
        *draw_latency(reading, figures, left, height, color=look.color),
    ]
    others = [*draw_network(reading, figures), *draw_agreement(reading, figures)]
    if not is_wide:
        return [*rounds, *draw_learning(reading, figures, right, 1), *others]
    losses = max(len(rounds) - len(others) - LEARNING_LINES, 1)
    return _beside(rounds, [*draw_learning(reading, figures, right, losses), *others], left)


def _find_lines(steps: Sequence[tuple[int, int]], height: int | None) -> int:
    shown = ENDLESS if height is None else height
    return next(lines for least, lines in steps if shown >= least)


def _draw_concerns(reading: Reading, figures: Figures) -> list[Text]:
    concerns = find_concerns(reading, figures)
    lines = [draw_concern(concern) for concern in concerns[:CONCERNS_MAX]]
    if len(concerns) > CONCERNS_MAX:
        lines.append(Text(f"!  and {len(concerns) - CONCERNS_MAX} more", "yellow"))
    return lines


def _beside(left: Sequence[Text], right: Sequence[Text], left_width: int) -> list[Text]:
    lines = []
    for index in range(max(len(left), len(right))):
        line = left[index] if index < len(left) else Text()
        line.truncate(left_width, overflow="ellipsis", pad=True)
        line.append(" " * BETWEEN)
        lines.append(line.append_text(right[index]) if index < len(right) else line)
    return lines
