import math
from dataclasses import replace

from demo_node.history import History
from demo_node.observe.meter import Meter
from demo_node.ports import MeshCounters, Norms, Trained
from demo_node.sim.silent_observer import SilentObserver
from demo_node.views import Outcome
from demo_protocol.events import HeadChanged
from tests.builders import MANIFEST, Tree, view

NO_TRAFFIC = MeshCounters(0, 0)


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
