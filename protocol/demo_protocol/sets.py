"""What two nodes compare with each other every round (rule 23), and its bytes.

Every decoder raises Reject on bytes no honest peer would send.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Summary:
    """What a node knows of the last rounds, short enough to be a question.

    `headers` holds a fingerprint of the headers of each round, `first_round` first; `records` is
    one of the valid proposals of all of them.
    """

    first_round: int
    headers: tuple[bytes, ...]
    records: bytes


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a node stands, and what it knows and whoever asked may not.

    `round` is that of the record `head`. `headers` are hashes, those of the newest round first;
    so are `records`.
    """

    head: bytes
    round: int
    headers: tuple[bytes, ...]
    records: tuple[bytes, ...]
