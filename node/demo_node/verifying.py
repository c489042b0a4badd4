"""Signatures: many at once are checked beside the loop, and what was found sound is remembered."""

import asyncio
import contextlib
import hashlib
from collections.abc import Sequence
from typing import Final

from demo_protocol.errors import Reject
from demo_protocol.identity import Verify
from demo_protocol.messages import check_signature, decode_header

AT_ONCE_MAX: Final = 32
"""Signatures checked where they stand: 2 ms. A record of 200 contributions would take 13 ms."""

KEPT: Final = 16_384
"""Sound signatures remembered: 8 rounds of as many headers as a record may list. 8 MB."""

Signed = tuple[bytes, bytes, bytes]
"""(public key, hash of the message, signature)."""


class Verifier:
    """`verify` with a memory. Messages come again: gossiped, in records, in answers of peers."""

    def __init__(self, verify: Verify, run_id: bytes) -> None:
        self._verify = verify
        self._run_id = run_id
        # Of messages the hash: a stranger may sign long ones as often as he likes.
        self._sound: dict[Signed, None] = {}

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Implements identity.Verify. A bad signature is looked at every time."""
        signed = _shorten(public_key, message, signature)
        if signed in self._sound:
            return True
        is_sound = self._verify(public_key, message, signature)
        if is_sound:
            self._remember(signed)
        return is_sound

    async def prepare(self, headers: Sequence[bytes]) -> None:
        """Have `verify` know those of these encoded headers that are sound, where they are many.

        Those that it knows already are not checked again. What is wrong with the others is for
        whoever takes them to find out.
        """
        if len(headers) <= AT_ONCE_MAX:
            return
        for signed in await asyncio.to_thread(self._find_sound, headers):
            self._remember(signed)

    def _find_sound(self, headers: Sequence[bytes]) -> list[Signed]:
        """In a thread: it only looks at what is remembered."""
        found = []
        for raw in headers:
            with contextlib.suppress(Reject):
                sealed = decode_header(raw, self._run_id)
                signed = _shorten(sealed.body.peer, sealed.signed, sealed.signature)
                if signed not in self._sound:
                    check_signature(sealed, self._verify)
                    found.append(signed)
        return found

    def _remember(self, signed: Signed) -> None:
        self._sound[signed] = None
        if len(self._sound) > KEPT:
            del self._sound[next(iter(self._sound))]


def _shorten(public_key: bytes, message: bytes, signature: bytes) -> Signed:
    return public_key, hashlib.sha256(message).digest(), signature
