"""Some of the frames of `make fuzz-frames`, and that it would see what it looks for."""

import pytest

from demo_protocol import answers
from demo_protocol.errors import Reject
from tests.fuzz_frames import Fuzzing


def test_frames_from_hostile_peers_raise_nothing_but_our_own_words_and_fill_no_memory() -> None:
    fuzzing = Fuzzing(seed=7)
    fuzzing.run(10_000)
    found = {name: {v for sort, v in fuzzing.verdicts if sort == name} for name in fuzzing.sorts}
    assert all("taken" in verdicts for verdicts in found.values()), (
        found
    )  # not all stop at the door
    assert all(len(verdicts) > 1 for verdicts in found.values()), found


def test_it_sees_an_error_that_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "Reject", ValueError)
    with pytest.raises(ValueError, match=r".") as caught:
        Fuzzing(seed=7).run(1_000)
    assert not isinstance(caught.value, Reject)
    assert caught.value.__notes__  # which frame it was


def test_it_sees_what_takes_too_much_memory() -> None:
    fuzzing = Fuzzing(seed=7)
    name = next(iter(fuzzing.sorts))
    greedy = type(fuzzing.sorts[name])(lambda raw: bytes(1 << 20), (b"",))
    fuzzing.sorts = {name: greedy}
    with pytest.raises(AssertionError, match="bytes of memory"):
        fuzzing.run(1)
