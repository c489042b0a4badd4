"""The keys of the screen, and what words on it mean for whoever asks."""

from typing import Final

from rich.text import Text

from demo_node.cli.top.sections import LABEL

KEYS: Final = "q quits  ? explains"

WORDS: Final = {
    "slack": "what was left of the newest round when its update was applied here",
    "exchange": "from the end of the train phase until the update was applied (median)",
    "came": "how long after its round began the peer's newest header came here",
    "held": "the peer's contribution is here; missing: it is not, or not yet",
    "heartbeat": "the peer lives, but contributed nothing in that round",
}


def draw_legend() -> list[Text]:
    """A line for each word."""
    return [
        Text.assemble((f"{word:<{LABEL}}", "bold"), meaning, no_wrap=True)
        for word, meaning in WORDS.items()
    ]


def add_keys(line: Text, width: int) -> None:
    """At the right end of a line, if need be instead of its last part; none in a tiny window."""
    room = width - len(KEYS) - 2
    if room > len(KEYS):
        if line.cell_len > room:
            line.right_crop(len(line) - line.plain.rindex("  "))
        line.truncate(room, overflow="ellipsis", pad=True)
        line.append(f"  {KEYS}", "dim")
