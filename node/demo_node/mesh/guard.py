"""Who is kept out, by key and by address, for what it did; and who is told of it.

A key answers for what its connections bring. An address answers for what came before any handshake
told a key, and for how many keys of its had to be banned; loopback and private ones answer for
nothing, for behind a proxy or a container's bridge that would be everybody.

All of it is in memory: a restart forgives. Keys cost nothing, so a ban that outlived us would stop
nobody who means harm, and would keep out who was banned by a mistake of ours. Who goes on is banned
again within seconds.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

from demo_node.mesh.conduct import ADDRESS_BAN_S, KEY_BAN_S, Ledger
from demo_node.mesh.gate import find_household, is_shared
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.ports import BanView, Offence

OnEvent = Callable[..., Any]
"""RoundObserver's `on_event`."""

SHOWN_MAX: Final = 256
"""Bans shown at once."""


class Guard:
    """Counts offences; has those closed who are banned."""

    def __init__(
        self,
        me: bytes = b"",
        *,
        close: Callable[[bytes], Iterable[str]] = lambda peer: (),
        on_event: OnEvent = lambda name, **fields: None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`close` ends all connections of a key, and returns the hosts that dialled us."""
        self.me = me
        self._close = close
        self._on_event = on_event
        self._now_s = now_s
        self._keys = Ledger[bytes](KEY_BAN_S)
        self._households = Ledger[str](ADDRESS_BAN_S)
        self.offences = Counter[Offence]()

    def blame(self, peer: bytes, offence: Offence) -> None:
        """A key has done what no honest peer does."""
        if peer == self.me:
            return  # a second node with our own key: others end that
        self.offences[offence] += 1
        seconds = self._keys.note(peer, offence, self._now_s())
        if seconds:
            self._shut_out(peer, offence, seconds)

    def blame_host(self, host: str, offence: Offence) -> None:
        """Somebody at this address has, and we know no key of it."""
        self.offences[offence] += 1
        self._note_host(host, offence)

    def ban(self, peer: bytes, seconds: float) -> None:
        """The operator wants it out."""
        self._keys.ban(peer, Offence.OPERATOR, self._now_s(), seconds)
        self._close(peer)
        self._tell(Offence.OPERATOR, seconds, peer_id=encode_peer_id(peer))

    def forgive(self, peer: bytes = b"", host: str = "") -> bool:
        """The operator wants it let in; False where nothing is held against it."""
        if peer:
            return self._keys.forgive(peer)
        return self._households.forgive(find_household(host))

    def is_banned(self, peer: bytes) -> bool:
        """Is it to be refused, whoever dials whom?"""
        return bool(self._keys.left_s(peer, self._now_s()))

    def is_host_banned(self, host: str) -> bool:
        """Is what comes from there to be refused?"""
        return bool(self._households.left_s(find_household(host), self._now_s()))

    def score(self, peer: bytes) -> int:
        """Points against a key."""
        return round(self._keys.score(peer, self._now_s()))

    def count_banned(self) -> int:
        """Keys that are."""
        return sum(1 for _ in self._keys.banned(self._now_s()))

    def bans(self) -> list[BanView]:
        """Who is kept out: keys, then addresses, those for the longest time first."""
        now_s = self._now_s()
        keys = [
            BanView(b.name, "", round(b.left_s), b.offence, b.times)
            for b in self._keys.banned(now_s)
        ]
        households = [
            BanView(b"", b.name, round(b.left_s), b.offence, b.times)
            for b in self._households.banned(now_s)
        ]
        return [*keys[:SHOWN_MAX], *households[:SHOWN_MAX]]

    def _shut_out(self, peer: bytes, offence: Offence, seconds: float) -> None:
        for host in {find_household(host): host for host in self._close(peer)}.values():
            self._note_host(host, Offence.KEYS)  # once, however many connections it had
        self._tell(offence, seconds, peer_id=encode_peer_id(peer))

    def _note_host(self, host: str, offence: Offence) -> None:
        if not is_shared(host):
            household = find_household(host)
            seconds = self._households.note(household, offence, self._now_s())
            if seconds:
                self._tell(offence, seconds, address=household)

    def _tell(self, offence: Offence, seconds: float, **who: str) -> None:
        self._on_event("peer.banned", **who, offence=str(offence), seconds=round(seconds))
