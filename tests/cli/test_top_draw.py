"""The screen of `demo-node top`, drawn from recorded answers at many sizes and in every state."""

import io
import math
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from demo_node.cli.top.draw import Look, draw
from demo_node.cli.top.peers import SHORT_LETTERS
from demo_node.cli.top.reading import Reading
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.observe.events import EVENTS
from demo_node.views import EventCount, NodeState, Outcome
from tests.cli.top_readings import (
    candidate,
    differing,
    in_state,
    peer_key,
    peers,
    reading,
    skipped_round,
    usual_round,
    with_status,
)
from tests.control.fake_node import health_view

TINY_SIZES = [(40, 12), (12, 5), (1, 1)]
SIZES = [(80, 24), (120, 40), (200, 60), (80, None), (200, None)]


def screen(view: Reading, width: int = 120, height: int | None = 40) -> list[str]:
    """Lines as a terminal of this size shows them, without colours."""
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, highlight=False)
    console.print(draw(view, Look(width, height)))
    return out.getvalue().removesuffix("\n").split("\n")


def all_troubles() -> Reading:
    rounds = [usual_round(r, included=False, outcome=Outcome.LATE) for r in range(40, 60)]
    rounds += [skipped_round(r) for r in range(60, 66)]
    return reading(
        rounds=rounds,
        swarm=[*peers(12, 40), differing(30, 70), candidate(31, 70)],
        peers=0,
        trainer_pid=0,
        silent_s=9.0,
        head_round=59,
    )


def with_warnings(view: Reading) -> Reading:
    """One kind of every level, each later than the one before."""
    names = ("snapshot.saved", "payload.rejected", "message.rejected", "trainer.died", "key.in_use")
    events = [
        EventCount(name, EVENTS[name].level, number, (view.now_ms - 60_000 // number,))
        for number, name in enumerate(names, start=1)
    ]
    return replace(view, health=health_view(*events))


VIEWS = {
    **{state.value: in_state(state) for state in NodeState},
    **{f"{count} peers": reading(peer_count=count) for count in (1, 4, 300)},
    "no peers": reading(swarm=[], peers=0),
    "no losses": reading(
        rounds=[usual_round(r, loss=math.nan) for r in range(9)],
        loss=math.nan,
        heldout_loss=math.nan,
    ),
    "troubles": all_troubles(),
    "warnings": with_warnings(reading()),
    "long names": reading(run_name="n" * 300, detail="d" * 300, rounds_total=1_000_000),
    "huge numbers": with_status(
        reading(newest=4_000_000), forks_total=10**9, members=10**6, loss=1e9
    ),
}


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("name", VIEWS)
def test_nothing_overflows_or_wraps(name: str, width: int, height: int | None) -> None:
    lines = screen(VIEWS[name], width, height)
    drawn = draw(VIEWS[name], Look(width, height)).plain.split("\n")
    assert [line.rstrip() for line in lines] == [line.rstrip() for line in drawn]
    assert max(map(cell_len, lines)) <= width
    if height is not None:
        assert len(lines) <= height
    assert any(line.startswith("node ") for line in lines)


@pytest.mark.parametrize(("width", "height"), TINY_SIZES)
@pytest.mark.parametrize("name", VIEWS)
def test_a_window_that_is_too_small_gets_a_part(name: str, width: int, height: int) -> None:
    lines = draw(VIEWS[name], Look(width, height)).plain.split("\n")
    assert len(lines) <= height
    assert max(map(cell_len, lines)) <= width


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_key_facts_are_there_at_every_size(width: int, height: int | None) -> None:
    text = "\n".join(screen(reading(), width, height))
    for fact in (
        "active: in step",
        "pid 4242",
        "train      0.9 of 3 s",
        "of round 70, 1 behind the clock; 0 forks",
        "last 2.40 s  p50 2.40 s  p95 2.40 s  slack 0.60 s  exchange 0.90 s",
        "60 recorded  0 late  0 skipped  0 forked  ours in 60 of 60",
        "train 1.65 s  contribute 0.15 s  propose 0.45 s  settle 0.15 s",
        "loss 2.500",
        "held-out 2.750 (round 5)",
        "tokens/s  train share 50%  own share of all 25.0%",
        "in 12.0 kB/s  out 13.0 kB/s  61.0 kB a round  3 peers connected",
        "digests 3 equal, 0 different; 4 contributions, 4 members",
        "within 25 ms of most of 3 peers",
    ):
        assert fact in text
    for number in range(4):
        assert encode_peer_id(peer_key(number))[-SHORT_LETTERS:] in text


@pytest.mark.parametrize("state", NodeState)
def test_every_state_says_what_it_is(state: NodeState) -> None:
    view = in_state(state)
    text = "\n".join(screen(view, 80, 24))
    assert f"state      {state.value}" in text
    assert view.status.detail in text


def test_before_the_run_and_before_genesis_nothing_is_made_up() -> None:
    starting = "\n".join(screen(in_state(NodeState.STARTING)))
    assert "round      no run yet" in starting
    assert "no peer is known yet" in starting
    waiting = "\n".join(screen(in_state(NodeState.WAITING)))
    assert "the first begins in 6 min" in waiting
    assert "no record yet" in waiting
    assert "no round has been completed yet" in waiting
    assert "no loss yet" in waiting
    assert "nan" not in (starting + waiting).lower()


def test_a_finished_run_has_no_running_round() -> None:
    text = "\n".join(screen(in_state(NodeState.FINISHED)))
    assert "all 71 are over" in text
    assert "behind the clock" not in text


def test_who_is_not_shown_is_counted() -> None:
    swarm = [*peers(300, 70), candidate(900, 70)]
    lines = screen(reading(swarm=swarm, known=400), 80, 24)
    assert len(lines) == 24
    shown = sum(line.startswith("…") for line in lines)
    assert lines[-1] == (
        f"and {400 - shown} more: {300 - shown} member, 1 candidate, 99 not heard of lately"
    )
    everybody = screen(reading(swarm=swarm), 80, None)
    assert sum(line.startswith("…") for line in everybody) == 301
    assert "more" not in everybody[-1]


def test_a_narrow_table_keeps_what_matters_most() -> None:
    (narrow,) = (line for line in screen(reading(), 80, 24) if line.startswith("peer "))
    assert {"standing", "link", "round", "digest"} <= set(narrow.split())
    assert "peer id" not in narrow
    (wide,) = (line for line in screen(reading(), 200, 60) if line.startswith("peer "))
    assert {"came", "samples", "loss", "payload", "rounds", "share"} <= set(wide.split())
    assert encode_peer_id(peer_key(2)) in "\n".join(screen(reading(), 200, 60))


def test_a_peer_with_another_digest_stands_first_and_is_said_above() -> None:
    lines = screen(reading(swarm=[*peers(3, 70), differing(9, 70)]), 80, 24)
    table = next(i for i, line in enumerate(lines) if line.startswith("peer "))
    assert "DIFFERENT" in lines[table + 1]
    assert lines[2].startswith("!  1 peer with other parameters, 2 with ours: see demo-node replay")


def test_of_many_troubles_the_most_urgent_are_shown() -> None:
    lines = screen(all_troubles(), 80, 24)
    troubles = [line for line in lines if line.startswith("!")]
    assert len(troubles) == 5
    assert "no answer for 9 s" in troubles[0]
    assert troubles[-1] == "!  and 3 more"
    assert any(line.startswith("…") for line in lines), "some peers are shown all the same"


def test_the_newest_warnings_are_told_with_what_to_do() -> None:
    lines = screen(with_warnings(reading()), 120, 40)
    first = next(i for i, line in enumerate(lines) if line.startswith("lately "))
    assert lines[first].rstrip() == (
        "lately     key.in_use 5 times, last 12 s ago: stop one of the two, see The key"
        " in docs/operating.md"
    )
    assert lines[first + 1].startswith(
        "           trainer.died 4 times, last 15 s ago: nothing once; if it repeats, look for"
    )
    assert lines[first + 2].rstrip() == "           message.rejected 3 times, last 20 s ago"
    assert not lines[first + 3].strip()
    text = "\n".join(lines)
    assert "payload.rejected" not in text, "older than those for which there is room"
    assert "snapshot.saved" not in text, "no warning"


@pytest.mark.parametrize(("height", "shown"), [(24, 1), (30, 2), (40, 3), (None, 2)])
def test_a_low_screen_has_fewer_warnings(height: int | None, shown: int) -> None:
    text = "\n".join(screen(with_warnings(reading()), 80, height))
    assert text.count(" s ago") == shown
    assert "lately " not in "\n".join(screen(reading(), 80, height)), "nothing of nothing"


def test_an_event_of_another_version_is_told_without_advice() -> None:
    view = replace(
        reading(), health=health_view(EventCount("a.b", "error", 1, (reading().now_ms,)))
    )
    assert any(line.rstrip() == "lately     a.b once, 0 s ago" for line in screen(view))


def test_a_cause_is_told_before_its_effect_and_both_say_what_to_do() -> None:
    now_ms = reading().now_ms
    died, lost, key = (
        EventCount(name, EVENTS[name].level, 1, (now_ms - age_s * 1000,))
        for name, age_s in (("trainer.died", 6), ("states.lost", 5), ("key.in_use", 2))
    )

    def told(*events: EventCount, height: int) -> list[str]:
        lines = screen(replace(reading(), health=health_view(*events)), 80, height)
        return [line[11:45] for line in lines if " s ago" in line]

    assert told(lost, died, height=24) == ["trainer.died once, 6 s ago: nothin"]
    assert told(lost, died, height=30)[1] == "states.lost once, 5 s ago: nothing"
    assert told(lost, height=24) == ["states.lost once, 5 s ago: nothing"]
    assert told(key, lost, died, height=24)[0].startswith("key.in_use once, 2 s ago: stop")


def test_there_is_one_lag_on_a_screen_and_contributions_add_up() -> None:
    behind = reading(head_round=60, candidates=1, members=1, newest=70)
    rounds = [*behind.rounds[:-1], replace(behind.rounds[-1], participants=2)]
    lines = screen(replace(behind, rounds=rounds, age_s=3.0), 80, 24)
    assert lines[2].startswith("!! the head is 12 rounds behind the clock")
    assert any("of round 60, 12 behind the clock" in line for line in lines)
    assert (
        "agreement  digests 3 equal, 0 different; 2 contributions, 1 member, 1 candidate" in lines
    )


@pytest.mark.parametrize("name", VIEWS)
def test_keys_and_the_legend_fit_the_narrowest_screen(name: str) -> None:
    text = draw(VIEWS[name], Look(80, 24, has_keys=True, is_explained=True)).plain
    lines = text.split("\n")
    assert lines[0].endswith("  q quits  ? explains")
    assert len(lines[0]) == 80
    assert len(lines) <= 24
    assert [line.split()[0] for line in lines[-5:]] == [
        *("slack", "exchange", "came", "held", "heartbeat")
    ]
    assert not any(line.endswith("…") for line in lines[-5:])
    assert "versi…" not in lines[0]
    assert "q quits" not in draw(VIEWS[name], Look(80, 24)).plain


def test_the_running_round_moves_between_two_answers() -> None:
    text = "\n".join(screen(replace(reading(), age_s=1.0)))
    assert "contribute 1.9 of 3 s" in text
    later = screen(replace(reading(), age_s=2.2))
    assert any(line.startswith("round      72 ") for line in later)
    assert any("of round 70, 2 behind the clock" in line for line in later)


def test_what_comes_late_is_marked_without_colours_too() -> None:
    late = [usual_round(70, outcome=Outcome.LATE, latency_ms=3_500)]
    text = "\n".join(screen(reading(rounds=[usual_round(69), *late])))
    assert "▪L" in text
    assert "slack -0.50 s" in text
    assert "3.5 s" in text
