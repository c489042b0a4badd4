"""What a round costs one node of a real run, by arithmetic: python -m tests.simulate.round_costs

Tables of docs/scale.md, from what was measured elsewhere: gossip in a mesh of six links
(tests/mesh/gossip_costs.py, docs/decisions/header-bundles.md), one request of a pull
(docs/decisions/snapshots.md), and the round machine, whose rows (machine_costs.py) are read from
docs/scale.md itself.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from demo_protocol.limits import GOSSIP_BYTES_MAX, MEMBERSHIP_BYTES_MAX
from demo_protocol.payload import typical_payload_bytes
from demo_protocol.presets import PRESETS
from demo_protocol.schema import compute_schema

SCALE: Final = Path(__file__).parents[2] / "docs/scale.md"

COPIES: Final = 5
"""Of a message that reach a node over six links: all but those by which it passed it on first."""

HEADER_IN_BYTES: Final = 2_365
"""Off the socket, for all copies of a header of 230 bytes."""

FRAME_BYTES: Final = HEADER_IN_BYTES // COPIES - 230
"""Beside each copy: gossipsub's signature, key and topic, yamux, Noise."""

NOTICE_BYTES: Final = 174

GOSSIP_MS: Final = (4.3, 6.3)
"""A message and its copies: at 333 messages a second, at 62."""

PULL_MS: Final = 4.0
SIGNATURE_MS: Final = 0.064
COMPARISON_BYTES: Final = 200
COMERS: Final = 0.05
"""Of the members, who come or go in a round: a message each."""

LINK_BYTES_PER_S: Final = 10e6 / 8

Range = tuple[float, float]
UNITS: Final = {
    "bytes": (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0)),
    "seconds": (("h", 3_600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)),
    "percent": (("%", 1.0),),
    "members": (("members", 1.0),),
}


@dataclass(frozen=True)
class Row:
    """A row of the round machine's table in docs/scale.md, as far as it is needed."""

    members: int
    contributors: int
    header_ms: float
    record_ms: float
    proposal_bytes: int

    @property
    def headers(self) -> int:
        """That a node hears in a round."""
        return self.contributors or self.members

    @property
    def machine_s(self) -> float:
        """The round machine, and a signature a header."""
        return (self.headers * (self.header_ms + SIGNATURE_MS) + self.record_ms) / 1e3

    @property
    def sum_s(self) -> Range:
        """All that is counted."""
        low_s, high_s = gossip_s(self.headers)
        rest_s = self.headers * PULL_MS / 1e3 + self.machine_s
        return low_s + rest_s, high_s + rest_s


def gossip_s(messages: float) -> Range:
    """Processor time of so many messages, all copies."""
    low_ms, high_ms = GOSSIP_MS
    return messages * low_ms / 1e3, messages * high_ms / 1e3


def read_rows() -> list[Row]:
    """What machine_costs measured, but for the row in which there is nobody to draw from."""
    text = SCALE.read_text()
    table = text[text.index("| members | C | headers |") :].split("\n\n")[0]
    rows = []
    for line in table.splitlines()[2:]:
        cells = [float(cell.replace(",", "")) for cell in line.strip("| ").split("|")]
        row = Row(
            members=int(cells[0]),
            contributors=int(cells[1]),
            header_ms=cells[3] / 1e3,
            record_ms=cells[4] + cells[5],
            proposal_bytes=int(cells[7]),
        )
        rows += [row] if row.headers <= row.members else []
    return rows


def show(low: float, high: float, kind: str) -> str:
    """Two digits of each end, in the largest unit of which the lower one has at least one."""
    units = UNITS[kind]
    name, size = next((unit for unit in units if low >= unit[1]), units[-1])
    ends = [f"{_round(end / size):,g}" for end in (low, high)]
    return f"{' to '.join(dict.fromkeys(ends))} {name}"


def _round(value: float) -> float:
    return round(value, 1 - math.floor(math.log10(value)))


def gossiped(size: float) -> float:
    """Bytes into a node for a message of so many, all copies."""
    return COPIES * (size + FRAME_BYTES)


def preset_payload(name: str) -> int:
    """Bytes of a payload."""
    return typical_payload_bytes(compute_schema(PRESETS[name].model), PRESETS[name].learning.k)


def bytes_row(row: Row) -> str:
    """Bytes into one node in a round."""
    proposal = gossiped(row.proposal_bytes)
    if row.proposal_bytes > GOSSIP_BYTES_MAX:
        proposal = row.proposal_bytes + gossiped(NOTICE_BYTES)
    gpu = row.headers * preset_payload("gpu")
    sizes = (
        row.headers * HEADER_IN_BYTES,
        proposal,
        COMPARISON_BYTES,
        COMERS * row.members * gossiped(MEMBERSHIP_BYTES_MAX),
        row.headers * preset_payload("tiny"),
        gpu,
    )
    took_s = gpu / LINK_BYTES_PER_S
    return _line(row, *(show(n, n, "bytes") for n in sizes), show(took_s, took_s, "seconds"))


def processor_row(row: Row) -> str:
    """Processor time of one node in a round."""
    pulls_s = row.headers * PULL_MS / 1e3
    low_s, high_s = row.sum_s
    return _line(
        row,
        show(*gossip_s(row.headers), "seconds"),
        show(pulls_s, pulls_s, "seconds"),
        show(row.machine_s, row.machine_s, "seconds"),
        show(low_s, high_s, "seconds"),
        *(show(low_s / s * 100, high_s / s * 100, "percent") for s in (10, 60)),
        show(*gossip_s(COMERS * row.members), "seconds"),
    )


def limits(rows: list[Row]) -> list[str]:
    """How many members a tenth of a core is enough for, none drawn, and a link of 10 Mbit/s."""
    row = next(row for row in rows if row.headers == 1_000)
    low_s, high_s = (end / row.members for end in row.sum_s)
    links = {
        name: _round(LINK_BYTES_PER_S * round_s // (preset_payload(name) + HEADER_IN_BYTES))
        for name, round_s in (("gpu", 60), ("tiny", 10))
    }
    return [
        f"{show(0.1 * 10 / high_s, 0.1 * 10 / low_s, 'members')} in rounds of 10 s",
        f"{show(0.1 * 60 / high_s, 0.1 * 60 / low_s, 'members')} in rounds of 60 s",
        f"all of 60 s: {links['gpu']:.0f} of `gpu`",
        f"all of 10 s: {links['tiny']:,.0f} of `tiny`",
    ]


def _line(row: Row, *cells: str) -> str:
    drawn = str(row.contributors or "all")
    return "| " + " | ".join((f"{row.members:,}", drawn, *cells)) + " |"


def main() -> None:
    """Both tables, and what follows from them."""
    rows = read_rows()
    for line in (*map(bytes_row, rows), *map(processor_row, rows), *limits(rows)):
        click.echo(line)


if __name__ == "__main__":
    main()
