"""What `demo-node top` makes of a node's answers, before anything is drawn."""

import json
import math
from collections import Counter
from dataclasses import replace

import pytest

from demo_node.cli.top.charts import (
    PHASE_STYLES,
    draw_curve,
    draw_latencies,
    draw_outcomes,
    draw_progress,
)
from demo_node.cli.top.concerns import find_concerns
from demo_node.cli.top.describe import describe_top
from demo_node.cli.top.figures import compute_figures, spread_rounds
from demo_node.cli.top.peers import sort_peers
from demo_node.cli.top.reading import Reading, Readings
from demo_node.views import ClockView, NodeState, Outcome, Phase, Standing, SwarmPeersView
from tests.cli.top_readings import (
    candidate,
    differing,
    in_state,
    peer_key,
    peers,
    phases,
    reading,
    skipped_round,
    usual_round,
)
from tests.control.fake_node import health_view, status_view, swarm_peer_view

NO_PEERS = SwarmPeersView(peers=(), known=0, now_ms=0)
HEALTHY = health_view()
UNVERIFIED = ClockView(correction_ms=0, error_ms=0, peers=3, verified=False)


def concerns(view: Reading) -> list[str]:
    return [concern.name for concern in find_concerns(view, compute_figures(view))]


# --- several answers -------------------------------------------------------------------------


def test_traffic_is_the_difference_of_totals_over_the_last_seconds() -> None:
    readings = Readings()
    first = readings.add(status_view(bytes_in=1_000, bytes_out=0), [], NO_PEERS, HEALTHY, 100.0)
    assert math.isnan(first.bytes_in_per_s)
    second = readings.add(status_view(bytes_in=3_000, bytes_out=500), [], NO_PEERS, HEALTHY, 102.0)
    assert (second.bytes_in_per_s, second.bytes_out_per_s) == (1_000, 250)
    for at_s in range(103, 131):
        last = readings.add(
            status_view(bytes_in=3_000, bytes_out=500), [], NO_PEERS, HEALTHY, float(at_s)
        )
    assert (last.bytes_in_per_s, last.bytes_out_per_s) == (0, 0)


def test_a_node_that_began_anew_counts_from_nothing() -> None:
    readings = Readings()
    readings.add(status_view(pid=1, trainer_pid=10, bytes_in=9_000), [], NO_PEERS, HEALTHY, 1.0)
    other = readings.add(
        status_view(pid=2, trainer_pid=20, bytes_in=100), [], NO_PEERS, HEALTHY, 2.0
    )
    assert math.isnan(other.bytes_in_per_s)
    later = readings.add(
        status_view(pid=2, trainer_pid=20, bytes_in=300), [], NO_PEERS, HEALTHY, 3.0
    )
    assert later.bytes_in_per_s == 200


def test_a_clock_must_be_doubted_without_a_break_by_enough_peers() -> None:
    readings = Readings()

    def unverified_s(at_s: float, **changes: object) -> float:
        status = status_view(**({"clock": UNVERIFIED, "peers": 3} | changes))
        return readings.add(status, [], NO_PEERS, HEALTHY, at_s).unverified_s

    assert unverified_s(10.0) == 0
    assert unverified_s(900.0) == 890
    assert unverified_s(901.0, peers=2) == 0
    assert unverified_s(902.0) == 0
    assert unverified_s(950.0) == 48
    assert unverified_s(951.0, clock=replace(UNVERIFIED, verified=True)) == 0
    assert unverified_s(952.0) == 0
    assert unverified_s(960.0) == 8
    assert unverified_s(961.0, pid=99) == 0


# --- figures of the newest rounds ------------------------------------------------------------


def test_figures_are_those_of_the_rounds() -> None:
    rounds = [
        usual_round(0, latency_ms=2_000),
        usual_round(1, latency_ms=2_200, included=False),
        skipped_round(2),
        usual_round(3, latency_ms=3_300, outcome=Outcome.LATE, samples=0, included=False),
    ]
    figures = compute_figures(reading(rounds=rounds))
    assert figures.outcomes == Counter(recorded=2, skipped=1, late=1)
    assert (figures.trained, figures.included) == (3, 1)
    assert (figures.latency_last_s, figures.latency_p50_s, figures.latency_p95_s) == (3.3, 2.2, 3.3)
    assert figures.exchange_p50_s == 0.9, "a round without a record took no exchange"
    assert figures.slack_s == pytest.approx(-0.3)
    assert figures.phases_s[Phase.TRAIN] == 1.65
    assert figures.phases_s[Phase.PROPOSE] == pytest.approx(0.45)
    assert figures.train_share == pytest.approx(4 * 1.5 / 12)
    assert figures.tokens_per_s == pytest.approx(4 * 4_096 / 12)
    assert figures.bytes_per_round == 61_000
    assert figures.participants == 4


def test_rounds_that_this_node_missed_count_as_time() -> None:
    figures = compute_figures(reading(rounds=[usual_round(0), usual_round(3)]))
    assert figures.tokens_per_s == pytest.approx(2 * 4_096 / 12)


def test_without_rounds_there_are_no_figures_and_no_errors() -> None:
    figures = compute_figures(in_state(NodeState.STARTING))
    assert figures.rounds == 0
    for value in (
        figures.latency_last_s,
        figures.latency_p95_s,
        figures.slack_s,
        figures.train_share,
        figures.tokens_per_s,
        figures.bytes_per_round,
    ):
        assert math.isnan(value)


def test_the_first_answers_traffic_is_that_of_the_rounds() -> None:
    view = replace(reading(rounds=[usual_round(0), usual_round(1)]), bytes_in_per_s=math.nan)
    assert compute_figures(view).bytes_in_per_s == pytest.approx(60_000 / 6)
    assert compute_figures(view).bytes_out_per_s == 13_000


def test_rounds_stand_in_their_own_columns() -> None:
    rounds = [usual_round(5), usual_round(6), usual_round(9)]
    columns = [view.round if view else None for view in spread_rounds(rounds, 80)]
    assert columns == [5, 6, None, None, 9]
    assert [v.round if v else None for v in spread_rounds(rounds, 2)] == [None, 9]
    assert spread_rounds([], 80) == []


# --- what to look at -------------------------------------------------------------------------


@pytest.mark.parametrize("state", NodeState)
def test_a_node_that_does_its_part_is_no_concern(state: NodeState) -> None:
    assert concerns(in_state(state)) == []


TROUBLES = {
    "NoAnswer": reading(silent_s=3.0),
    "TrainerDown": reading(trainer_pid=0),
    "DemoDigestDisputed": reading(swarm=[*peers(3, 70), differing(9, 70)]),
    "DemoDigestDiverged": reading(swarm=[*peers(2, 70), differing(8, 70), differing(9, 70)]),
    "DemoFinalConflict": reading(rival_record=b"\xab" * 32, rival_peers=120, own_peers=120),
    "DemoNodeIsolated": reading(peers=0),
    "DemoClockSkew": reading(clock=replace(UNVERIFIED, correction_ms=-4_980, verified=True)),
    "DemoClockUnverified": replace(reading(clock=UNVERIFIED), unverified_s=901.0),
    "DemoRoundsStalled": reading(head_round=64),
    "DemoNotIncluded": reading(rounds=[usual_round(r, included=False) for r in range(20)]),
    "DemoParticipationLow": reading(rounds=[usual_round(r, participants=1) for r in range(20)]),
    "DemoRoundsSkipped": reading(
        rounds=[usual_round(r) if r < 13 else skipped_round(r) for r in range(20)]
    ),
    "DemoRoundLatencyHigh": reading(
        rounds=[
            usual_round(r, outcome=Outcome.LATE if r < 5 else Outcome.RECORDED) for r in range(20)
        ]
    ),
    "DemoForksFrequent": reading(
        rounds=[
            skipped_round(r, outcome=Outcome.FORKED) if r < 3 else usual_round(r) for r in range(20)
        ]
    ),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_each_trouble_is_named_alone_with_what_to_do(name: str) -> None:
    view = TROUBLES[name]
    (concern,) = find_concerns(view, compute_figures(view))
    assert concern.name == name
    assert len(f"!! {concern.text}: {concern.remedy}") <= 80, "it fits the narrowest screen"


def test_what_is_usual_is_no_concern() -> None:
    assert concerns(reading(peer_count=1)) == []  # alone in a new run
    assert concerns(reading(head_round=66)) == []
    assert concerns(replace(reading(clock=UNVERIFIED), unverified_s=899.0)) == []  # soon over
    skipped = [skipped_round(r) if r < 6 else usual_round(r) for r in range(20)]
    assert concerns(reading(rounds=skipped)) == []
    late = [usual_round(r, outcome=Outcome.LATE if r < 4 else Outcome.RECORDED) for r in range(20)]
    assert concerns(reading(rounds=late)) == []
    paused = [usual_round(r, samples=0, included=False) for r in range(20)]
    assert concerns(reading(state=NodeState.PAUSED, rounds=paused)) == []
    alone = [replace(view, participants=1) for view in paused]  # two others are paused as well
    assert concerns(reading(state=NodeState.PAUSED, rounds=alone)) == []
    assert concerns(reading(rounds=[skipped_round(r) for r in range(5)])) == []  # too few to tell
    assert concerns(reading(silent_s=0.4)) == []


def test_a_node_is_isolated_only_where_others_are_missed() -> None:
    expired = replace(candidate(9, 3), standing=Standing.EXPIRED)
    left = replace(candidate(9, 3), standing=Standing.LEFT)
    own = peers(1, 70)
    assert concerns(reading(peers=0, members=1, swarm=[*own, expired])) == ["DemoNodeIsolated"]
    assert concerns(reading(peers=0, members=1, swarm=[*own, left])) == []
    over = in_state(NodeState.FINISHED)
    assert concerns(replace(over, status=replace(over.status, peers=0))) == []
    syncing = in_state(NodeState.SYNCING)
    assert concerns(replace(syncing, status=replace(syncing.status, peers=0))) == [
        "DemoNodeIsolated"
    ]


def test_work_of_rounds_without_records_is_not_said_to_be_left_out() -> None:
    rounds = [skipped_round(r) if r < 11 else usual_round(r, included=False) for r in range(20)]
    assert concerns(reading(rounds=rounds)) == ["DemoRoundsSkipped"]


# --- the order of peers ----------------------------------------------------------------------


def test_peers_are_sorted_by_what_an_operator_should_see() -> None:
    stranger = swarm_peer_view(peer_key(7), standing=Standing.UNKNOWN, heard_round=-1)
    quiet = swarm_peer_view(peer_key(6), heard_round=40)
    expired = swarm_peer_view(peer_key(5), standing=Standing.EXPIRED, heard_round=1)
    swarm = [stranger, quiet, candidate(4, 70), expired, *peers(2, 70), differing(3, 70)]
    order = [peer.peer for peer in sort_peers(reading(swarm=swarm))]
    assert order == [peer_key(number) for number in (3, 0, 1, 6, 4, 5, 7)]


def test_rows_stand_still_while_headers_of_a_round_come_in() -> None:
    before = reading(swarm=peers(20, 70))
    half = [replace(p, heard_round=71) if p.peer[0] % 2 else p for p in before.swarm.peers]
    assert {p.heard_round for p in half} == {70, 71}
    after = reading(swarm=half)
    assert [p.peer for p in sort_peers(before)] == [p.peer for p in sort_peers(after)]


# --- charts ----------------------------------------------------------------------------------


def test_a_curve_is_between_its_least_and_its_greatest() -> None:
    assert draw_curve([4.0, 3.0, math.nan, 1.0], 10) == ["█▆ ▁"]
    assert draw_curve([9.0, 1.0, 2.0], 2) == ["▁█"]
    assert draw_curve([2.0, 2.0], 10) == ["▁▁"]
    assert draw_curve([math.nan, math.inf], 10) == [""]
    assert draw_curve([1.0], 0, 3) == ["", "", ""]
    assert draw_curve([3.0, 2.0, 1.0, math.nan], 9, 2) == ["█▁  ", "██▁ "]


def test_bars_are_as_high_as_latencies() -> None:
    half = usual_round(0, latency_ms=1_500, phases=phases(0, (500, 700, 1_000, 1_500)))
    full = usual_round(1, latency_ms=3_000, phases=phases(1, (500, 700, 1_000, 3_000)))
    top, bottom = draw_latencies([half, None, full, skipped_round(3)], 2, 3_000, color=False)
    assert top.plain == "  █ "
    assert bottom.plain == "█ █ "


def test_a_bar_shows_phases_from_below_in_their_colours() -> None:
    view = usual_round(0, latency_ms=3_000, phases=phases(0, (1_500, 1_500, 1_500, 3_000)))
    top, bottom = draw_latencies([view], 2, 3_000, color=True)
    assert [str(span.style) for span in bottom.spans] == [PHASE_STYLES[Phase.TRAIN]]
    assert [str(span.style) for span in top.spans] == [PHASE_STYLES[Phase.SETTLE]]
    split = usual_round(0, latency_ms=3_000, phases=phases(0, (750, 750, 750, 3_000)))
    _, bottom = draw_latencies([split], 2, 3_000, color=True)
    assert bottom.plain == "▄"
    (span,) = bottom.spans
    assert str(span.style) == f"{PHASE_STYLES[Phase.TRAIN]} on {PHASE_STYLES[Phase.SETTLE]}"


@pytest.mark.parametrize("color", [False, True])
def test_the_end_of_a_bar_is_as_high_as_the_latency_whatever_phases_meet_there(color: bool) -> None:
    view = usual_round(0, latency_ms=750, phases=phases(0, (250, 250, 500, 750)))
    (line,) = draw_latencies([view], 1, 1_500, color=color)
    assert line.plain == "▄"
    assert " on " not in "".join(str(span.style) for span in line.spans)


def test_outcomes_are_marks_that_need_no_colour() -> None:
    rounds = [usual_round(0), usual_round(1, outcome=Outcome.LATE), None, skipped_round(3)]
    rounds.append(skipped_round(4, outcome=Outcome.FORKED))
    assert draw_outcomes(rounds).plain == "▪L·SF"


@pytest.mark.parametrize(
    ("done", "bar"), [(0.0, "─────┼──┼─"), (0.5, "━━━━━┼──┼─"), (0.99, "━━━━━╋━━╋━")]
)
def test_the_running_round_is_filled_up_to_now(done: float, bar: str) -> None:
    assert draw_progress(10, done, [0.5, 0.8, 0.8, 1.0]).plain == bar


# --- for programs ----------------------------------------------------------------------------


@pytest.mark.parametrize("state", NodeState)
def test_the_document_is_json_without_nan(state: NodeState) -> None:
    document = json.loads(json.dumps(describe_top(in_state(state)), allow_nan=False))
    assert document["schema"] == 1
    assert document["status"]["state"] == state.value
    assert len(document["peers"]) <= document["known"]


def test_the_document_says_what_the_screen_says() -> None:
    document = describe_top(reading(swarm=[*peers(3, 70), differing(9, 70)]))
    assert document["figures"]["outcomes"] == {
        "recorded": 60,
        "late": 0,
        "skipped": 0,
        "forked": 0,
    }
    assert document["figures"]["latency_p95_s"] == 2.4
    assert document["figures"]["phases_s"]["train"] == 1.65
    assert [concern["name"] for concern in document["concerns"]] == ["DemoDigestDisputed"]
    assert document["peers"][0]["digest"] == "different"
    assert document["peers"][0]["peer_id"].startswith("12D3KooW")
