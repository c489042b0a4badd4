"""What the DHT was used for. Without libp2p, for those who only show it."""

from dataclasses import dataclass


@dataclass(slots=True)
class KadCounters:
    """What was asked, found and dialled since start; peers and records that are held now."""

    queries: int = 0
    found: int = 0
    dialled: int = 0
    table: int = 0
    records: int = 0
