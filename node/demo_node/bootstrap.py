"""What the operator named to begin with: addresses of peers, and names that list some."""

import asyncio
from collections.abc import Iterable
from typing import Final

from demo_node.mesh.addresses import LIST_PREFIX
from demo_node.mesh.names import Names, NameUnknown

READ_AGAIN_S: Final = 60.0
"""A list is read again after so long, where nobody on it answers: what it names has moved."""

RETRY_S: Final = 2.0
"""One that could not be read, after so long."""


class Bootstrap:
    """The operator's `--peers`. Those of a /dnsaddr are known once it has been read."""

    def __init__(self, named: Iterable[str], names: Names) -> None:
        self._names = names
        given = dict.fromkeys(named)
        self._lists = tuple(a for a in given if a.startswith(LIST_PREFIX))
        self.addresses = {a: None for a in given if a not in self._lists}
        """In the order in which they are dialled. Grows with the lists, never shrinks."""
        self._reasons: dict[str, str] = {}
        self._due_s = 0.0

    @property
    def has_lists(self) -> bool:
        """Is there a list, read or not?"""
        return bool(self._lists)

    def explain(self) -> list[str]:
        """Why lists could not be read, a line each."""
        return list(self._reasons.values())

    async def read_lists(self) -> None:
        """Ask for what the lists name, if that was not done within the last minute."""
        now_s = asyncio.get_running_loop().time()
        if not self._lists or now_s < self._due_s:
            return
        self._due_s = now_s + READ_AGAIN_S
        await asyncio.gather(*map(self._read, self._lists))
        if self._reasons:
            self._due_s = now_s + RETRY_S

    async def _read(self, name: str) -> None:
        try:
            self.addresses |= dict.fromkeys(await self._names.read_list(name))
            self._reasons.pop(name, None)
        except NameUnknown as error:
            self._reasons[name] = str(error)
