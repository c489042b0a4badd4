"""Payloads on a simulated disk: a bit for each, since a thousand nodes hold thousands of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Catalogue:
    """Every payload of a simulation: its round, and its place among those of that round."""

    places: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    _sizes: dict[int, int] = field(default_factory=dict)
    _listed: dict[bytes, dict[int, int]] = field(default_factory=dict)

    def bits_of(self, record: bytes, payloads: Sequence[bytes]) -> Mapping[int, int]:
        """By round, the bits of what a record lists: looked up by the first who asks."""
        bits = self._listed.get(record)
        if bits is None:
            bits = self._listed[record] = {}
            for round_, bit in map(self.places.__getitem__, payloads):
                bits[round_] = bits.get(round_, 0) | bit
        return bits

    def add(self, payload: bytes, round_: int) -> None:
        """There is one more. What is known already keeps its place."""
        if payload not in self.places:
            place = self._sizes.get(round_, 0)
            self._sizes[round_] = place + 1
            self.places[payload] = (round_, 1 << place)


@dataclass(slots=True)
class Shelf:
    """What one node holds of them."""

    catalogue: Catalogue
    _held: dict[int, int] = field(default_factory=dict)

    def __contains__(self, payload: object) -> bool:
        entry = self.catalogue.places.get(payload)  # type: ignore[call-overload]
        return entry is not None and bool(self._held.get(entry[0], 0) & entry[1])

    def list_missing(self, record: bytes, payloads: Sequence[bytes]) -> tuple[bytes, ...]:
        """What a record lists and is not held."""
        wanted = self.catalogue.bits_of(record, payloads)
        if all(bits & ~self._held.get(round_, 0) == 0 for round_, bits in wanted.items()):
            return ()
        return tuple(name for name in payloads if name not in self)

    def add(self, payload: bytes, round_: int) -> None:
        """Hold one more."""
        self.catalogue.add(payload, round_)
        round_, bit = self.catalogue.places[payload]
        self._held[round_] = self._held.get(round_, 0) | bit

    def add_all(self, payloads: Iterable[bytes]) -> None:
        """Hold these, which others held before."""
        places, more = self.catalogue.places, dict[int, int]()
        for payload in payloads:
            round_, bit = places[payload]
            more[round_] = more.get(round_, 0) | bit
        for round_, bits in more.items():
            self._held[round_] = self._held.get(round_, 0) | bits

    def forget_before(self, round_: int) -> None:
        """Drop what is of older rounds."""
        for old in [r for r in self._held if r < round_]:
            del self._held[old]
