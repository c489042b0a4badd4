import math
from dataclasses import replace

import pytest

from demo_node.history import ROUNDS_COUNTED, History
from demo_node.observe.meter import Meter
from demo_node.ports import MeshCounters, Norms, Trained
from demo_node.sim.whole.silent_observer import SilentObserver
from demo_node.views import Outcome, Phase, RoundView
from demo_protocol.effects import HeadChanged
from demo_protocol.schedule import round_start_ms, train_end_ms
from tests.builders import MANIFEST, Tree, view
from tests.control.fake_node import round_view
from tests.observe.test_metrics import exposition

NO_TRAFFIC = MeshCounters(0, 0)
BEGIN_MS = round_start_ms(MANIFEST.schedule, 0)
TRAINED_MS = train_end_ms(MANIFEST.schedule, 0)


def test_a_round_that_was_only_replayed_is_not_shown() -> None:
    tree, mine = Tree(MANIFEST), view()
    mine.chain, genesis = tree.chain, mine.head
    first = tree.start(2)
    second = tree.grow(first, 1, [0, 1])
    history = History(MANIFEST, SilentObserver())
    now_ms = MANIFEST.schedule.genesis_ms + 2 * MANIFEST.schedule.round_ms - 1

    mine.head = first
    history.on_head_changed(HeadChanged(first, genesis, 0), mine, now_ms, syncing=True)
    history.on_round_ended(0, mine, NO_TRAFFIC, syncing=True)
    mine.head = second
    history.on_head_changed(HeadChanged(second, first, 0), mine, now_ms, syncing=False)
    history.on_round_ended(1, mine, NO_TRAFFIC, syncing=False)
    history.on_round_ended(2, mine, NO_TRAFFIC, syncing=False)

    (shown,) = history.newest(10)
    assert (shown.round, shown.outcome, shown.record) == (1, Outcome.RECORDED, second)
    assert shown.latency_ms == MANIFEST.schedule.round_ms - 1
    assert history.replayed_total == 1


def test_a_round_that_was_half_over_or_spent_syncing_is_not_called_skipped() -> None:
    mine, history = view(), History(MANIFEST, SilentObserver())
    for round_, syncing in enumerate([False, True, False, False, False]):
        history.on_round_ended(round_, mine, NO_TRAFFIC, syncing=syncing)
    # 0 had begun before the node was there, in 1 it was not level, 4 is not yet known.
    assert [shown.round for shown in history.newest(10)] == [2, 3]
    assert {shown.outcome for shown in history.newest(10)} == {Outcome.SKIPPED}


def trained(**changes: object) -> Trained:
    usual = Trained(
        round=0,
        base=bytes(32),
        payload=b"",
        k=0,
        samples=0,
        tokens=0,
        loss_micronats=0,
        train_ms=0,
        encode_ms=0,
        steps=0,
    )
    return replace(usual, **changes)  # type: ignore[arg-type]  # names are checked by replace


def test_after_a_heartbeat_the_last_norms_stay() -> None:
    history = History(MANIFEST, SilentObserver())

    def norms() -> list[float]:
        figures = {figure.name: figure.value for figure in history.figures()}
        names = ("gradient_norm", "delta_norm", "residual_norm", "residual_norm_ratio")
        return [figures[f"demo_{name}"] for name in names]

    assert [math.isnan(value) for value in norms()] == [True, True, False, True]
    encoded = Norms(gradient=4.0, delta=3.0, residual=2.0, residual_ratio=0.5)
    history.on_trained(trained(norms=encoded), 0)
    assert norms() == [4.0, 3.0, 2.0, 0.5]
    history.on_trained(trained(round=1), 0)
    assert norms() == [4.0, 3.0, 2.0, 0.5]


def test_work_that_ends_after_its_round_was_shown_is_counted() -> None:
    """A laptop sleeps for two rounds in the middle of training."""
    mine, observer = view(), SilentObserver()
    history, meter = History(MANIFEST, observer), Meter()
    work = trained(k=2, samples=12, tokens=192, steps=3, train_ms=1_500)
    history.on_trained(work, 0)
    for round_ in range(3):
        history.on_round_ended(round_, mine, NO_TRAFFIC, syncing=False)
    history.on_trained(replace(work, round=1), 0)  # 1 is over, and shown
    history.on_round_ended(3, mine, NO_TRAFFIC, syncing=False)
    assert [(shown.round, shown.samples) for shown in observer.rounds] == [(0, 12), (1, 0), (2, 0)]
    for shown in observer.rounds:
        meter.on_round(shown)
    meter.on_figures(history.figures())
    meter.on_figures(history.figures())
    totals = {
        name: meter.registry.get_sample_value(f"demo_train_{name}_total")
        for name in ("samples", "tokens", "steps", "seconds")
    }
    assert totals == {"samples": 24, "tokens": 384, "steps": 6, "seconds": 3.0}
    assert (history.tokens_total, history.train_ms_total) == (384, 3_000)  # what the status says


def test_after_the_runs_end_there_are_no_rounds() -> None:
    mine, history = view(), History(replace(MANIFEST, rounds_total=2), SilentObserver())
    for round_ in range(5):
        history.on_round_ended(round_, mine, NO_TRAFFIC, syncing=False)
    assert [shown.round for shown in history.newest(10)] == [1]


def test_a_round_that_a_frozen_process_missed_is_shown_once_when_it_is_applied() -> None:
    tree, mine = Tree(MANIFEST), view()
    mine.chain, genesis = tree.chain, mine.head
    first = tree.start(2)
    history = History(MANIFEST, SilentObserver())
    late_ms = MANIFEST.schedule.genesis_ms + 9 * MANIFEST.schedule.round_ms

    history.on_record(0, late_ms)  # pulled after the process went on, in round 9
    history.on_round_ended(9, mine, NO_TRAFFIC, syncing=False)
    assert not history.newest(10)  # not called skipped: nobody was here to say so
    mine.head = first
    history.on_head_changed(HeadChanged(first, genesis, 0), mine, late_ms, syncing=False)
    history.on_round_ended(10, mine, NO_TRAFFIC, syncing=False)
    assert [(v.round, v.outcome) for v in history.newest(10)] == [(0, Outcome.LATE)]


def test_a_skipped_round_whose_record_comes_later_is_shown_in_its_place() -> None:
    tree, mine, observer, meter = Tree(MANIFEST), view(), SilentObserver(), Meter()
    mine.chain, genesis = tree.chain, mine.head
    first = tree.start(2)
    history = History(MANIFEST, observer)
    history.on_trained(trained(k=2, samples=12, steps=3, payload=b"12345"), 0)
    for round_ in range(4):
        history.on_round_ended(round_, mine, NO_TRAFFIC, syncing=False)
    late_ms = MANIFEST.schedule.genesis_ms + 4 * MANIFEST.schedule.round_ms
    mine.head = first
    history.on_head_changed(HeadChanged(first, genesis, 0), mine, late_ms, syncing=False)
    history.on_round_ended(4, mine, NO_TRAFFIC, syncing=False)
    newest = history.newest(10)
    assert [shown.round for shown in newest] == [0, 1, 2, 3]
    assert newest[0].outcome is Outcome.LATE
    assert (newest[0].samples, newest[0].payload_bytes) == (12, 5), "what is known of it stays"
    told = [(shown.round, shown.outcome, shown.again) for shown in observer.rounds]
    assert told == [
        (0, Outcome.SKIPPED, False),
        (1, Outcome.SKIPPED, False),
        (2, Outcome.SKIPPED, False),
        (0, Outcome.LATE, True),
        (3, Outcome.SKIPPED, False),
    ]
    for shown in observer.rounds:
        meter.on_round(shown)
    value = meter.registry.get_sample_value
    assert value("demo_rounds_total", {"outcome": "skipped"}) == 4
    assert value("demo_rounds_total", {"outcome": "late"}) == 0
    assert value("demo_round_latency_seconds_count") == 1
    assert value("demo_payload_bytes_count", {"direction": "sent"}) == 1
    assert value("demo_train_step_seconds_count") == 1
    assert history.newest(2) == newest[2:]


def show_first_round(history: History) -> RoundView:
    """Its view, with a record that was applied when the settle phase ended."""
    tree, mine = Tree(MANIFEST), view()
    mine.chain, genesis = tree.chain, mine.head
    mine.head = tree.start(2)
    end_ms = round_start_ms(MANIFEST.schedule, 1)
    history.on_head_changed(HeadChanged(mine.head, genesis, 0), mine, end_ms, syncing=False)
    for round_ in range(2):
        history.on_round_ended(round_, mine, NO_TRAFFIC, syncing=False)
    (shown,) = history.newest(10)
    return shown


@pytest.mark.parametrize(
    ("announced_ms", "proposed_ms", "end_ms"),
    [
        (TRAINED_MS + 5, TRAINED_MS + 700, TRAINED_MS),
        (0, TRAINED_MS + 700, TRAINED_MS),
        (0, 0, TRAINED_MS),
        (0, TRAINED_MS - 300, TRAINED_MS - 300),
        (TRAINED_MS - 1, TRAINED_MS - 300, TRAINED_MS - 1),
    ],
)
@pytest.mark.parametrize("is_asked", [False, True])
def test_where_nothing_is_trained_the_train_phase_ends_by_the_clock(
    announced_ms: int, proposed_ms: int, end_ms: int, *, is_asked: bool
) -> None:
    history = History(MANIFEST, SilentObserver())
    if is_asked:  # the trainer gives a heartbeat at once
        history.on_trained(trained(), BEGIN_MS + 3)
    if announced_ms:
        history.on_announced(0, announced_ms)
    if proposed_ms:
        history.on_record(0, proposed_ms)
    shown = show_first_round(history)
    train = shown.phases[0]
    assert (train.phase, train.begin_ms, train.end_ms) == (Phase.TRAIN, BEGIN_MS, end_ms)
    assert train.due_ms == TRAINED_MS
    assert sum(part.end_ms - part.begin_ms for part in shown.phases) == shown.latency_ms
    assert Phase.TRAIN not in shown.slacks_ms()


def test_local_work_ends_its_phase_when_it_is_done() -> None:
    history = History(MANIFEST, SilentObserver())
    history.on_trained(trained(samples=8), TRAINED_MS + 40)
    shown = show_first_round(history)
    assert shown.phases[0].end_ms == TRAINED_MS + 40
    assert shown.slacks_ms()[Phase.TRAIN] == -40


def test_a_round_that_came_to_nothing_has_no_phases() -> None:
    mine, history = view(), History(MANIFEST, SilentObserver())
    for round_ in range(3):
        history.on_round_ended(round_, mine, NO_TRAFFIC, syncing=False)
    assert [shown.phases for shown in history.newest(10)] == [()]


def count_again(history: History, **changes: object) -> dict[tuple[str, ...], float]:
    """What is counted after the round is shown like that."""
    history._count_once(replace(round_view(5), **changes))  # type: ignore[arg-type]
    return {
        (figure.name, *figure.labels): figure.value
        for figure in history.figures()
        if figure.name in ("demo_digests_total", "demo_rounds_included_total")
    }


def test_a_round_that_is_shown_again_counts_what_is_new() -> None:
    history = History(MANIFEST, SilentObserver())
    equal, different = (("demo_digests_total", verdict) for verdict in ("equal", "different"))
    included = ("demo_rounds_included_total",)
    first = count_again(history, agreeing=3, differing=1, included=False)
    assert first == {equal: 3, different: 1, included: 0}
    assert count_again(history, agreeing=2, included=True) == {equal: 3, different: 1, included: 1}
    assert count_again(history, agreeing=0, included=False) == {
        equal: 3,
        different: 1,
        included: 1,
    }
    again = count_again(history, agreeing=5, differing=2, included=True)
    assert again == {equal: 5, different: 2, included: 1}
    assert count_again(history, round=6, agreeing=3) == {equal: 8, different: 2, included: 2}


def test_what_is_known_of_rounds_counted_is_bounded() -> None:
    history = History(MANIFEST, SilentObserver())
    for round_ in range(ROUNDS_COUNTED + 5):
        history._count_once(round_view(round_))
    assert list(history._counted) == list(range(5, ROUNDS_COUNTED + 5))


def test_totals_are_there_as_soon_as_a_round_is_shown() -> None:
    meter = Meter()
    show_first_round(History(MANIFEST, meter))
    assert exposition(meter)['demo_records_total{change="applied"}'] == 1
