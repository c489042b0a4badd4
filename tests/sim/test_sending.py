"""k by the uplink in whole nodes: what status says, what fixes it, what is counted."""

from dataclasses import replace

from demo_node.cli.show import format_sending
from demo_node.sim.whole.link_rates import LinkRates
from demo_node.sim.whole.swarm import SimSwarm
from demo_node.sim.whole.virtual_loop import EPOCH_MS, run_virtual
from demo_node.views import SendingView
from demo_protocol.manifest import Learning, Manifest
from tests.builders import manifest, schedule

RUN = manifest(
    schedule_=replace(schedule(), genesis_ms=EPOCH_MS + 1_000),
    learning=Learning(k=64, samples_start=8),
)


def play(
    run: Manifest, bits_per_s: float | None, k: int = 0, rounds: int = 30
) -> list[SendingView]:
    """What four nodes say of it after so many rounds."""

    async def main() -> list[SendingView]:
        links = None if bits_per_s is None else LinkRates(lambda peer: (bits_per_s, bits_per_s))
        swarm = SimSwarm(run, links=links)
        for index in range(4):
            await swarm.add(index, k=k)
        await swarm.run_until_round(rounds)
        views = [node.driver.sending.view() for node in swarm.nodes]
        included = [sum(view.included for view in node.observer.rounds) for node in swarm.nodes]
        assert min(included) >= rounds - 8
        await swarm.stop()
        return views

    return run_virtual(main())


def test_where_nobody_can_watch_the_uplink_it_is_the_runs() -> None:
    for view in play(RUN, None):
        assert (view.k, view.fixed, view.measured) == (64, True, False)


def test_what_the_operator_fixes_stays() -> None:
    for view in play(RUN, 2e4, k=5):
        assert (view.k, view.k_max, view.fixed) == (5, 64, True)
        assert view.payload_bytes > 0


def test_a_slow_link_sends_less_and_says_why() -> None:
    slow, fast = play(RUN, 2e4), play(RUN, 1e7)
    for view in slow:
        assert view.measured
        assert 1e4 < view.uplink_bits_per_s < 2.2e4
        assert 1 <= view.k < 64
        assert 1 <= view.copies <= 3
    assert all(view.k == 64 for view in fast)


def test_the_line_of_status() -> None:
    view = SendingView(
        k=32,
        k_max=128,
        measured=True,
        uplink_bits_per_s=1.9e6,
        window_ms=2_400,
        payload_bytes=95_705,
        copies=3,
    )
    assert format_sending(view) == (
        "k 32 of 128: uplink 1.9 Mbit/s carries 570.0 kB in the 2.4 s window,"
        " 3 copies of 95.7 kB go out"
    )
    assert format_sending(replace(view, measured=False, copies=1, passed_on_bytes=500_000)) == (
        "k 32 of 128: uplink not measured yet, taken for 1.9 Mbit/s, carries 570.0 kB in the 2.4 s"
        " window, 1 copy of 95.7 kB and 500.0 kB of others go out"
    )
    assert format_sending(replace(view, fixed=True)) == (
        "k 32 of 128, as this node was told: 3 copies of 95.7 kB in 2.4 s"
    )
    assert format_sending(SendingView()) == "nothing yet"
