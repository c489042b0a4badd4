from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_node.store.frames import Damage
from demo_node.store.memory import MemoryDisk
from demo_node.store.signed import KEPT_ROUNDS, SignedLog, scan_signed_log
from demo_protocol.errors import LocalFault
from tests.store.builders import RUN

PATH = Path("/d/signed.log")


def disk() -> MemoryDisk:
    made = MemoryDisk()
    made.make_folder(PATH.parent)
    return made


def test_the_same_bytes_are_there_after_a_restart() -> None:
    held = disk()
    log = SignedLog(held, PATH, RUN, 0)
    log.put("header", 3, b"signed header")
    log.put("proposal", 3, b"signed proposal")
    log.put("header", 3, b"signed header")  # saying it again is fine
    again = SignedLog(held, PATH, RUN, 0)
    assert again.get("header", 3) == b"signed header"
    assert again.get("proposal", 3) == b"signed proposal"
    assert again.get("header", 4) is None
    assert (again.newest("header"), again.newest("membership")) == (3, -1)
    assert again.cut_bytes == 0


def test_a_second_signature_for_a_round_is_refused_before_and_after_a_restart() -> None:
    held = disk()
    log = SignedLog(held, PATH, RUN, 0)
    log.put("header", 3, b"first")
    for opened in (log, SignedLog(held, PATH, RUN, 0)):
        with pytest.raises(LocalFault, match="a second header for round 3"):
            opened.put("header", 3, b"second")
        assert opened.get("header", 3) == b"first"


def test_old_rounds_leave_the_file_but_can_never_be_signed_again() -> None:
    held = disk()
    log = SignedLog(held, PATH, RUN, 0)
    for round_ in range(1_000):
        log.put("header", round_, bytes(500))
    assert held.size(PATH) < (KEPT_ROUNDS + 300) * 600
    again = SignedLog(held, PATH, RUN, 0)
    assert again.get("header", 999 - KEPT_ROUNDS + 1) is not None
    for opened in (log, again):
        assert opened.floor >= 600
        with pytest.raises(LocalFault, match="a second header for round 5"):
            opened.put("header", 5, b"another")


def test_a_clock_that_was_once_years_ahead_does_not_silence_the_node() -> None:
    held = disk()
    log = SignedLog(held, PATH, RUN, 0)
    log.put("header", 10**8, b"the future")
    for round_ in range(300):
        log.put("header", round_, b"now")
    assert log.floor < 300
    SignedLog(held, PATH, RUN, 0).put("header", 300, b"now")


@given(st.integers(0, 10_000), st.integers(5, 7))
def test_a_damaged_file_gives_true_bytes_and_signs_no_round_that_it_may_have_forgotten(
    bit: int, round_: int
) -> None:
    held = disk()
    log = SignedLog(held, PATH, RUN, 0)
    for signed in range(5):
        log.put("header", signed, b"header %d" % signed)
    content = bytearray(held.read(PATH))
    bit %= len(content) * 8
    content[bit // 8] ^= 1 << bit % 8
    held.create(PATH).write(bytes(content))
    again = SignedLog(held, PATH, RUN, round_)
    assert again.cut_bytes > 0
    # The next process is as careful, though it finds nothing damaged any more.
    for opened in (again, SignedLog(held, PATH, RUN, round_ + 1)):
        assert opened.newest("header") == opened.newest("proposal") == round_
        for signed in range(round_ + 1):
            known = opened.get("header", signed)
            assert known is None or known == b"header %d" % signed
            with pytest.raises(LocalFault):
                opened.put("header", signed, b"other")
    again.put("header", round_ + 1, b"next")


def test_a_scan_gives_what_was_signed_and_changes_nothing() -> None:
    held = disk()
    log = SignedLog(held, PATH, RUN, 0)
    for round_ in range(400):
        log.put("header", round_, b"header %d" % round_)
    content = held.read(PATH)
    damage: list[Damage] = []
    found = list(scan_signed_log(held, PATH, RUN, damage.append))
    assert found == [("header", n, b"header %d" % n) for n in range(found[0][1], 400)]
    assert found[0][1] == log.floor + 1
    assert damage == []
    held.create(PATH).write(content[:-1])
    assert list(scan_signed_log(held, PATH, RUN, damage.append)) == found[:-1]
    assert len(damage) == 1
    assert held.read(PATH) == content[:-1]
