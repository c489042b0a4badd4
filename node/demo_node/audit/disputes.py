"""Digests that peers gave against those that a replay gives, and whom to blame."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from demo_node.audit.branch import Claim
from demo_node.audit.findings import About, Finding
from demo_node.audit.records import FILE, TELL


@dataclass(frozen=True, slots=True)
class _Row:
    """One replayed state that somebody spoke of: who differs, and how many agree."""

    round: int
    digest: bytes
    differing: Sequence[Claim]
    agreeing: int


@dataclass(slots=True)
class Disputes:
    """Feed it every replayed state, in order. `agreed` counts messages that give our digest."""

    agreed: int = 0
    _rows: list[_Row] = field(default_factory=list)

    def compare(self, round_: int, digest: bytes, claims: Sequence[Claim]) -> None:
        """Take what was said of the state after the record of a round."""
        differing = [claim for claim in claims if claim.digest != digest]
        agreeing = len(claims) - len(differing)
        self.agreed += agreeing
        if claims:
            self._rows.append(_Row(round_, digest, differing, agreeing))

    def findings(self) -> Iterator[Finding]:
        """A peer for each wrong digest; this machine or folder where it stands alone."""
        alone = self._find_alone()
        for row in self._rows[:alone]:
            yield from (_blame(row, claim) for claim in row.differing)
        if alone < len(self._rows):
            row = self._rows[alone]
            text = f"from here on the replay's digest ({row.digest.hex()}) is nobody else's: the"
            yield Finding(
                file=FILE,
                round=row.round,
                text=f"{text} state it began with or this machine is wrong, not those peers",
                remedy="replay with --device cpu, or from an earlier round",
            )

    def _find_alone(self) -> int:
        """The first state from which on nobody agrees; the end where there is none.

        One peer, or all peers once, may be wrong; several again and again are not.
        """
        alone = len(self._rows)
        while alone and not self._rows[alone - 1].agreeing:
            alone -= 1
        rows = self._rows[alone:]
        peers = {claim.peer for row in rows for claim in row.differing}
        return alone if len(rows) >= 2 and len(peers) >= 2 else len(self._rows)


def _blame(row: _Row, claim: Claim) -> Finding:
    return Finding(
        file=FILE,
        round=claim.round,
        peer=claim.peer,
        about=About.PEER,
        text=(
            f"says digest {claim.digest.hex()} for the parameters after round {row.round},"
            f" the replay gives {row.digest.hex()}"
        ),
        remedy=TELL,
    )
