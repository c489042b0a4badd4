"""What is held against whom: scores that fade, bans that end.

What an honest peer may do is no offence at all, however often it does it: messages that are late or
known, blobs that it does not hold, slowness, silence, another version, another run, and passing on
what it could not tell from something right. No clock: every call says what time it is, in seconds
of any origin that never go back.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from demo_node.ports import Offence

WEIGHTS: Final = {
    Offence.MESSAGE: 20.0,
    Offence.ANSWER: 25.0,
    Offence.PAYLOAD: 25.0,
    Offence.GARBAGE: 20.0,
    Offence.FLOOD: 50.0,
    Offence.STALLED: 5.0,
    Offence.KEYS: 20.0,
    Offence.OPERATOR: 100.0,
}
"""Points. None bans at its first: a bit may flip in anybody's memory."""

BANNED_AT: Final = 100.0
"""Points: the fifth wrong answer, the sixth wrong message, the third flood within minutes."""

HALF_LIFE_S: Final = 600.0
"""In which a score halves. One wrong message in ten minutes, for ever, comes to 40 points."""

REMEMBERED_S: Final = 24 * 3600.0
"""Who offends again within a day of a ban's end is banned for twice as long as the last time."""

KEY_BAN_S: Final = (600.0, 24 * 3600.0)
"""The first ban of a key, and the longest: ten minutes, then twenty, up to a day."""

ADDRESS_BAN_S: Final = (60.0, 600.0)
"""Of an address. Behind it may live a household, or a provider's customers: a nuisance is held off,
nobody is cut off for long. Connections that stand, and those that we dial, are not touched."""

KEPT_MAX: Final = 4096
"""Names with a score or a ban. Keys cost nothing: of more, those with the least are forgotten."""

Name = TypeVar("Name", bound=Hashable)


@dataclass(slots=True)
class _Account:
    """`points` are those at `at_s`; a ban ends at `until_s`, and was the so-manieth."""

    points: float
    at_s: float
    until_s: float = 0.0
    bans: int = 0
    offence: Offence = Offence.MESSAGE

    def fade(self, now_s: float) -> None:
        self.points *= 0.5 ** (max(0.0, now_s - self.at_s) / HALF_LIFE_S)
        self.at_s = now_s


@dataclass(frozen=True, slots=True)
class Banned(Generic[Name]):
    """Who is banned for how long yet, by which offence in the end, for the so-manieth time."""

    name: Name
    left_s: float
    offence: Offence
    times: int


class Ledger(Generic[Name]):
    """Scores and bans of names of one kind."""

    def __init__(self, ban_s: tuple[float, float]) -> None:
        """`ban_s`: the first ban and the longest."""
        self._first_s, self._longest_s = ban_s
        self._accounts: dict[Name, _Account] = {}

    def __len__(self) -> int:
        return len(self._accounts)

    def note(self, name: Name, offence: Offence, now_s: float) -> float:
        """Hold an offence against somebody. For how long it is banned now; 0 where it is not.

        What comes from somebody who is banned was under way, and makes nothing longer.
        """
        if self.left_s(name, now_s):
            return 0.0
        account = self._find(name, now_s)
        account.fade(now_s)
        account.points += WEIGHTS[offence]
        if account.points < BANNED_AT:
            return 0.0
        if now_s - account.until_s > REMEMBERED_S:
            account.bans = 0
        seconds = min(self._first_s * 2.0**account.bans, self._longest_s)
        self.ban(name, offence, now_s, seconds)
        return seconds

    def ban(self, name: Name, offence: Offence, now_s: float, seconds: float) -> None:
        """Ban somebody for so long, whatever the score."""
        account = self._find(name, now_s)
        account.points, account.at_s = 0.0, now_s
        account.bans, account.offence = account.bans + 1, offence
        account.until_s = now_s + seconds

    def forgive(self, name: Name) -> bool:
        """Forget all that is held against somebody; False where nothing is."""
        return self._accounts.pop(name, None) is not None

    def left_s(self, name: Name, now_s: float) -> float:
        """For how long yet somebody is banned; 0 for who is not."""
        account = self._accounts.get(name)
        return 0.0 if account is None else max(0.0, account.until_s - now_s)

    def score(self, name: Name, now_s: float) -> float:
        """Points against somebody; 0 is a clean slate."""
        account = self._accounts.get(name)
        if account is None:
            return 0.0
        account.fade(now_s)
        return account.points

    def banned(self, now_s: float) -> Iterator[Banned[Name]]:
        """All who are, those for the longest time first."""
        left = {name: self.left_s(name, now_s) for name in self._accounts}
        for name in sorted((n for n in left if left[n]), key=lambda n: -left[n]):
            account = self._accounts[name]
            yield Banned(name, left[name], account.offence, account.bans)

    def _find(self, name: Name, now_s: float) -> _Account:
        account = self._accounts.get(name)
        if account is None:
            if len(self._accounts) >= KEPT_MAX:
                self._forget_some(now_s)
            account = self._accounts[name] = _Account(0.0, now_s, until_s=now_s - REMEMBERED_S)
        return account

    def _forget_some(self, now_s: float) -> None:
        """A quarter, so that it is seldom done: those first who are not banned, by points."""
        for account in self._accounts.values():
            account.fade(now_s)
        ranked = sorted(
            self._accounts.items(), key=lambda item: (max(now_s, item[1].until_s), item[1].points)
        )
        for name, _ in ranked[: KEPT_MAX // 4]:
            del self._accounts[name]
