import asyncio
import sys
from collections.abc import Callable

import pytest

from demo_node import verifying
from demo_node.store.key import generate_key, verify
from demo_node.verifying import AT_ONCE_MAX, Verifier
from demo_protocol.limits import PROPOSAL_BYTES_MAX
from demo_protocol.messages import Header, decode_header, seal_header
from tests.builders import MANIFEST, RUN_ID, header

KEY = generate_key()
MANY = AT_ONCE_MAX + 1


class Counting:
    """`verify` that counts how often it was asked."""

    def __init__(self, verify: Callable[[bytes, bytes, bytes], bool] = verify) -> None:
        self.calls = 0
        self._verify = verify

    def __call__(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        self.calls += 1
        return self._verify(public_key, message, signature)


def encode_signed(number: int) -> bytes:
    body = header(0, number, run=MANIFEST).body
    fields = {name: getattr(body, name) for name in Header.__slots__}
    return seal_header(Header(**{**fields, "peer": KEY.public}), RUN_ID, KEY.sign).raw


RAWS = [encode_signed(number) for number in range(MANY)]


def check(verifier: Verifier, raw: bytes) -> bool:
    sealed = decode_header(raw, RUN_ID)
    return verifier.verify(sealed.body.peer, sealed.signed, sealed.signature)


def spoil(raw: bytes) -> bytes:
    """Another signature of the same length."""
    sealed = decode_header(raw, RUN_ID)
    at = raw.index(sealed.signature)
    return raw[:at] + bytes(64) + raw[at + 64 :]


def test_a_sound_signature_is_checked_once() -> None:
    counting = Counting()
    verifier = Verifier(counting, RUN_ID)
    assert check(verifier, RAWS[0])
    assert check(verifier, RAWS[0])
    assert counting.calls == 1


def test_a_bad_signature_is_never_taken_for_a_sound_one() -> None:
    counting = Counting()
    verifier = Verifier(counting, RUN_ID)
    assert check(verifier, RAWS[0])
    assert not check(verifier, spoil(RAWS[0]))
    assert not check(verifier, spoil(RAWS[0]))
    assert counting.calls == 3


def test_many_headers_are_checked_beforehand_and_bad_ones_left_to_who_takes_them() -> None:
    counting = Counting()
    verifier = Verifier(counting, RUN_ID)
    asyncio.run(verifier.prepare([spoil(RAWS[0]), b"garbage", *RAWS[1:]]))
    assert counting.calls == MANY
    assert all(check(verifier, raw) for raw in RAWS[1:])
    assert counting.calls == MANY
    assert not check(verifier, spoil(RAWS[0]))


def test_what_was_found_sound_is_not_checked_beforehand_again() -> None:
    counting = Counting()
    verifier = Verifier(counting, RUN_ID)
    assert check(verifier, RAWS[1])  # it came by gossip
    asyncio.run(verifier.prepare([spoil(RAWS[0]), *RAWS[1:]]))
    assert counting.calls == MANY
    asyncio.run(verifier.prepare([spoil(RAWS[0]), *RAWS[1:]]))
    assert counting.calls == MANY + 1  # that of the bad one, again


def test_few_headers_are_checked_when_they_are_taken() -> None:
    counting = Counting()
    asyncio.run(Verifier(counting, RUN_ID).prepare(RAWS[:AT_ONCE_MAX]))
    assert counting.calls == 0


def test_the_memory_is_bounded_and_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "KEPT", 3)
    counting = Counting()
    verifier = Verifier(counting, RUN_ID)
    for raw in RAWS[:4]:
        check(verifier, raw)
    assert check(verifier, RAWS[3])
    assert counting.calls == 4
    assert check(verifier, RAWS[0])
    assert counting.calls == 5


def test_the_memory_does_not_grow_with_the_messages() -> None:
    """Anybody may sign a proposal of 32 KiB."""
    verifier = Verifier(lambda *_: True, RUN_ID)
    large = bytes(PROPOSAL_BYTES_MAX)
    before = sys.getrefcount(large)
    assert verifier.verify(KEY.public, large, bytes(64))
    assert sys.getrefcount(large) == before
    assert verifier.verify(KEY.public, large, bytes(64))
