"""What an audit says: what was looked at, what is wrong, and what to do about it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from demo_node.mesh.peer_id import encode_peer_id

Say = Callable[[str], None]
"""Shows one line of progress."""


def say_nothing(line: str) -> None:
    """Nobody is watching."""


def count(number: int, noun: str) -> str:
    """For people: `1 record`, `2 records`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class About(StrEnum):
    """Whose fault a finding is."""

    FOLDER = "folder"  # a file here is not what it was when it was written
    PEER = "peer"  # a peer signed what it should not have; this folder is as it should be


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong. `file` is relative to the data folder; `text` and `remedy` are
    clauses. `round`, `peer` (public key) and `tensor` are given where they can be told.
    """

    file: str
    text: str
    remedy: str
    about: About = About.FOLDER
    round: int | None = None
    peer: bytes = b""
    tensor: str = ""

    def format(self) -> str:
        """One line that names file, round, peer and tensor, says what is wrong and what to do."""
        where = [self.file]
        if self.round is not None:
            where.append(f"round {self.round}")
        if self.peer:
            where.append(f"peer {encode_peer_id(self.peer)}")
        if self.tensor:
            where.append(f"tensor {self.tensor}")
        return f"{', '.join(where)}: {self.text}; {self.remedy}"


@dataclass(slots=True)
class Report:
    """`looked` is one line per kind of thing looked at; `notes` say what could not be checked."""

    looked: list[tuple[str, str]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def looked_at(self, kind: str, text: str) -> None:
        """Say what was looked at."""
        self.looked.append((kind, text))

    def found(self, *findings: Finding) -> None:
        """Say what is wrong."""
        self.findings.extend(findings)
