"""What a node learned and has not sent yet, over a restart: saved, adopted, never sent twice."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from demo_node.ports import AdoptOrder, Fate, SentPayload, Trained
from demo_node.trainer.learner import LocalLearner
from demo_protocol.manifest import Learning, Manifest
from demo_protocol.payload import decode_payload
from demo_protocol.scale import SCALE_VALUES
from tests.builders import manifest
from tests.trainer.builders import learner, train_order

SPEED = Learning(k=8)

Events = list[tuple[str, dict[str, Any]]]


def told(learning: Learning = SPEED, run: Manifest | None = None) -> tuple[LocalLearner, Events]:
    """A learner, and the list of what it tells."""
    events: Events = []
    made = learner(learning, run=run, on_event=lambda name, **fields: events.append((name, fields)))
    return made, events


def train(one: LocalLearner, round_: int) -> Trained:
    k = one.manifest.learning.k
    return one.train(train_order(round=round_, sample_first=12 * round_, k=k))


def save(one: LocalLearner, folder: Path) -> Path:
    path = folder / "momentum.safetensors"
    path.write_bytes(b"".join(one.momentum()))
    return path


def sent(trained: Trained, fate: Fate, *, is_held: bool = True) -> SentPayload:
    payload = trained.payload if is_held else b""
    return SentPayload(round=trained.round, fate=fate, payload=payload)


def order(path: Path, *known: SentPayload, forgotten_until: int = -1) -> AdoptOrder:
    return AdoptOrder(path=path, forgotten_until=forgotten_until, sent=known)


def residual(one: LocalLearner) -> torch.Tensor:
    return one._encoder.residual.clone()


def coefficients(one: LocalLearner, trained: Trained) -> torch.Tensor:
    """What a payload says, fp32 [N, 4096]; zero where it says nothing."""
    said = decode_payload(trained.payload, one.schema, 4096)
    sizes = torch.from_numpy(SCALE_VALUES[said.scales]).float()[:, None] * one._encoder.unit
    signs = 1 - 2 * torch.from_numpy(said.negative).float()
    slots = torch.from_numpy(said.positions.astype(np.int64))
    return torch.zeros_like(one._encoder.residual).scatter_(1, slots, signs * sizes)


@pytest.mark.parametrize("local", ["steps", "accumulate"])
def test_a_learner_that_was_made_anew_goes_on_to_the_bit(tmp_path: Path, local: str) -> None:
    learning = replace(SPEED, local=local)
    one, _ = told(learning)
    before = [train(one, round_) for round_ in range(3)]
    one.release(0)
    fates = (Fate.COUNTED, Fate.OPEN, Fate.OPEN)
    known = [sent(t, fate, is_held=False) for t, fate in zip(before, fates, strict=True)]
    other, events = told(learning)
    other.adopt(order(save(one, tmp_path), *known))
    assert events == [("momentum.restored", {"round": 2})]
    assert torch.equal(residual(one), residual(other))
    assert one._encoder.residual.any()
    assert train(one, 3).payload == train(other, 3).payload
    for undecided in (one, other):
        undecided.restore(1)
        undecided.release(2)
        undecided.restore(0)  # it counted: nothing comes of that
    assert torch.equal(residual(one), residual(other))
    assert train(one, 4).payload == train(other, 4).payload
    # As long as it is: without what was saved the first of them would be another.
    alone, _ = told(learning)
    assert train(alone, 3).payload != train(other, 3).payload


@pytest.mark.parametrize("forgotten", ["residual", "moments"])
def test_both_residual_and_moments_are_wanted_for_that(tmp_path: Path, forgotten: str) -> None:
    one, other = told()[0], told()[0]
    first = train(one, 0)
    other.adopt(order(save(one, tmp_path), sent(first, Fate.COUNTED)))
    if forgotten == "residual":
        other._encoder.residual.zero_()
    else:
        other._trainer._optimizer.state.clear()
    assert train(other, 1).payload != train(one, 1).payload


def test_a_saved_trainer_may_be_saved_again_at_once(tmp_path: Path) -> None:
    one, other = told()[0], told()[0]
    first = train(one, 0)
    path = save(one, tmp_path)
    content = path.read_bytes()
    other.adopt(order(path, sent(first, Fate.OPEN)))
    assert b"".join(other.momentum()) == content


def test_anybody_can_read_the_file(tmp_path: Path) -> None:
    one, _ = told()
    trained = train(one, 5)
    path = save(one, tmp_path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        assert metadata["demo.format"] == "demo-node/momentum/1"
        assert (metadata["demo.round"], metadata["demo.decays"]) == ("5", "1")
    tensors = safetensors.torch.load_file(path)
    assert tensors["sent.5"].numpy().tobytes() == trained.payload
    assert torch.equal(tensors["residual"], residual(one))
    assert tensors["exp_avg_sq.norm.weight"].any()
    assert tensors["step.norm.weight"] == 3  # twelve samples, four at once


def test_it_is_saved_while_a_round_is_trained(tmp_path: Path) -> None:
    """Each parameter's moments are of one step, though others' may be of the next."""
    one, _ = told()
    first = train(one, 0)
    path = tmp_path / "file"
    looks: list[bytes] = []

    def look() -> bool:
        looks.append(b"".join(one.momentum()))  # between two steps, in the thread that trains
        return False

    one.train(train_order(round=1), look)
    assert len(set(looks)) >= 3
    path.write_bytes(looks[1])
    other, events = told()
    other.adopt(order(path, sent(first, Fate.COUNTED)))
    assert [name for name, _ in events] == ["momentum.restored"]


# --- what was sent after the file was written ----------------------------------------------------


def retrace(held: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """What may be left of a residual of which so much was sent: never more, never turned round."""
    same = (held > 0) == (said > 0)
    left = torch.sign(held) * (held.abs() - said.abs()).clamp(min=0)
    return torch.where(said == 0, held, torch.where(same, left, 0.0))


def crashed(folder: Path) -> tuple[LocalLearner, list[Trained], torch.Tensor, Path]:
    """A file of round 1; the learner sent rounds 2 and 4 after that (and had no turn in 3)."""
    one, _ = told()
    trained = [train(one, 0), train(one, 1)]
    at_save, path = residual(one), save(one, folder)
    trained.append(train(one, 2))
    one.train(train_order(round=3, k=0))
    trained.append(train(one, 4))
    return one, trained, at_save, path


def test_what_was_sent_since_is_not_sent_again(tmp_path: Path) -> None:
    one, trained, at_save, path = crashed(tmp_path)
    other, events = told()
    other.adopt(order(path, *(sent(t, Fate.COUNTED) for t in trained)))
    assert [name for name, _ in events] == ["momentum.restored"]
    beta = one._encoder.beta
    expected = retrace(at_save * beta, coefficients(one, trained[2]))
    expected = retrace(expected * beta**2, coefficients(one, trained[3]))
    assert torch.equal(residual(other), expected)
    # It is there to be something: what is left is neither all of it nor nothing.
    decayed = at_save * beta**3
    assert 0.3 < float(expected.norm() / decayed.norm()) < 1
    assert (expected.abs() <= decayed.abs() * (1 + 1e-6)).all()
    for round_ in range(5):
        other.restore(round_)
    assert torch.equal(residual(other), expected)


def test_what_was_sent_since_goes_back_where_it_does_not_count(tmp_path: Path) -> None:
    one, trained, _, path = crashed(tmp_path)
    counted, later = told()[0], told()[0]
    known = [sent(t, Fate.COUNTED) for t in trained]
    counted.adopt(order(path, *known))
    later.adopt(order(path, *known[:3], sent(trained[3], Fate.OPEN)))
    assert torch.equal(residual(later), residual(counted))
    later.restore(4)
    back = coefficients(one, trained[3])
    assert torch.equal(residual(later), residual(counted) + back)


def test_what_was_sent_since_and_did_not_count_is_as_if_never_sent(tmp_path: Path) -> None:
    _, trained, at_save, path = crashed(tmp_path)
    other, _ = told()
    known = [sent(t, Fate.COUNTED) for t in trained[:2]]
    dropped = [sent(t, Fate.DROPPED, is_held=False) for t in trained[2:]]
    other.adopt(order(path, *known, *dropped))
    assert torch.equal(residual(other), at_save)


def test_what_the_file_holds_and_was_dropped_goes_back_before_later_rounds(tmp_path: Path) -> None:
    """In the process that died it went back, and then it was sent again."""
    one, trained, at_save, path = crashed(tmp_path)
    other, _ = told()
    fates = (Fate.DROPPED, Fate.COUNTED, Fate.COUNTED, Fate.COUNTED)
    known = [sent(t, fate) for t, fate in zip(trained, fates, strict=True)]
    other.adopt(order(path, *known))
    beta = one._encoder.beta
    expected = at_save + coefficients(one, trained[0]) * beta
    expected = retrace(expected * beta, coefficients(one, trained[2]))
    expected = retrace(expected * beta**2, coefficients(one, trained[3]))
    assert torch.equal(residual(other), expected)


@pytest.mark.parametrize(("forgotten_until", "comes_back"), [(-1, True), (0, True), (1, False)])
def test_a_payload_without_a_header_never_left(
    tmp_path: Path, forgotten_until: int, comes_back: bool
) -> None:
    """Killed between encoding and signing; unless headers were forgotten: then it may have."""
    one, _ = told()
    unsigned = train(one, 1)
    left = residual(one)
    other, _ = told()
    other.adopt(order(save(one, tmp_path), forgotten_until=forgotten_until))
    back = coefficients(one, unsigned) if comes_back else 0
    assert torch.equal(residual(other), left + back)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda o: replace(o, forgotten_until=2), id="headers are forgotten"),
        pytest.param(
            lambda o: replace(o, sent=(*o.sent[:-1], replace(o.sent[-1], payload=b""))),
            id="a payload is gone",
        ),
        pytest.param(
            lambda o: replace(o, sent=(*o.sent[:-1], replace(o.sent[-1], payload=b"\1\2\3"))),
            id="a payload is none",
        ),
    ],
)
def test_where_nobody_knows_what_was_sent_since_the_residual_begins_at_zero(
    tmp_path: Path, spoil: Callable[[AdoptOrder], AdoptOrder]
) -> None:
    _, trained, _, path = crashed(tmp_path)
    other, events = told()
    other.adopt(spoil(order(path, *(sent(t, Fate.COUNTED) for t in trained))))
    assert [name for name, _ in events] == ["momentum.ignored"]
    assert events[0][1]["reason"].startswith("of the residual: ")
    assert not other._encoder.residual.any()
    moments = other._trainer.get_moments()["embedding.weight"]
    assert moments["step"] == 6  # of rounds 0 and 1
    train(other, 5)


# --- files that are no good ----------------------------------------------------------------------


def flip(position: int) -> Callable[[bytes], bytes]:
    def damage(raw: bytes) -> bytes:
        return raw[:position] + bytes([raw[position] ^ 1]) + raw[position:][1:]

    return damage


def poison(part: str, value: float) -> Callable[[LocalLearner], None]:
    """Before it is saved: the checksum will be right."""

    def spoil(one: LocalLearner) -> None:
        if part == "residual":
            one._encoder.residual[0, 5] = value
        else:
            one._trainer.get_moments()["norm.weight"][part].fill_(value)

    return spoil


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda raw: b"", id="empty"),
        pytest.param(lambda raw: b"\0" * len(raw), id="zeros, as after a power cut"),
        pytest.param(lambda raw: raw[:7], id="cut in the length"),
        pytest.param(lambda raw: raw[:100], id="cut in the header"),
        pytest.param(lambda raw: raw[:-1], id="cut by a byte"),
        pytest.param(lambda raw: raw[: len(raw) // 2], id="cut in the middle"),
        pytest.param(lambda raw: raw + b"\0", id="too long"),
        pytest.param(lambda raw: (1 << 62).to_bytes(8, "little") + raw[8:], id="a huge header"),
        pytest.param(lambda raw: (9 << 20).to_bytes(8, "little") + b"[" * (9 << 20), id="nested"),
        pytest.param(lambda raw: raw.replace(b"/momentum/1", b"/momentum/2"), id="a newer version"),
        pytest.param(lambda raw: raw.replace(b'"F32"', b'"F64"', 1), id="another type"),
        pytest.param(lambda raw: raw.replace(b"[[0,", b"[[9,", 1), id="sent after it was saved"),
        pytest.param(lambda raw: raw.replace(b", 1]]", b"0, 1]]", 1), id="another length"),
        pytest.param(lambda raw: raw.replace(b"[[0, ", b"[[0,-", 1), id="a length below zero"),
        pytest.param(flip(100_000), id="a flipped bit"),
        pytest.param(flip(-1), id="a flipped bit of the checksum"),
        pytest.param(lambda raw: safetensors.torch.save({"a": torch.zeros(2)}), id="no momentum"),
    ],
)
def test_a_damaged_file_is_told_and_changes_nothing(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    one, _ = told()
    first = train(one, 0)
    path = save(one, tmp_path)
    raw = path.read_bytes()
    path.write_bytes(damage(raw))
    assert path.read_bytes() != raw
    assert_ignored(order(path, sent(first, Fate.COUNTED)))


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("residual", float("nan")),
        ("residual", float("inf")),
        ("residual", 2.0**65),
        ("exp_avg", float("nan")),
        ("exp_avg_sq", float("inf")),
        ("exp_avg_sq", -1e-9),
        ("step", float("nan")),
        ("step", -1.0),
    ],
)
def test_numbers_that_would_spread_are_not_taken(tmp_path: Path, part: str, value: float) -> None:
    one, _ = told()
    first = train(one, 0)
    poison(part, value)(one)
    assert_ignored(order(save(one, tmp_path), sent(first, Fate.COUNTED)))


def test_another_runs_file_is_not_taken(tmp_path: Path) -> None:
    one, _ = told(run=replace(manifest(learning=SPEED), seed=7))
    first = train(one, 0)
    events = assert_ignored(order(save(one, tmp_path), sent(first, Fate.COUNTED)))
    assert events[0][1]["reason"] == "it belongs to another run"


def test_a_folder_in_its_place_is_told(tmp_path: Path) -> None:
    assert_ignored(order(tmp_path))


def test_where_there_is_none_there_is_nothing_to_tell(tmp_path: Path) -> None:
    one, events = told()
    one.adopt(order(tmp_path / "momentum.safetensors"))
    assert not events


def assert_ignored(order_: AdoptOrder) -> Events:
    """One event, and a learner that is as new."""
    one, events = told()
    one.adopt(order_)
    assert [name for name, _ in events] == ["momentum.ignored"]
    assert not one._encoder.residual.any()
    assert not one._trainer.get_moments()
    assert train(one, 1).payload == train(told()[0], 1).payload
    return events
