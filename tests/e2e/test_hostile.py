"""A swarm goes on while one machine does to it whatever a machine can: it, and nobody else, is
banned.

Who attacks has a machine of its own in life. Here it shares two cores with the nodes, so it runs at
the lowest priority, and takes only what they leave: what is measured is what its blows cost them,
not what it costs to strike. The attack lasts until each sort of harm was done, however long that
takes it on a busy machine.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from demo_node.ports import BanView
from tests.e2e.harms import SORTS
from tests.e2e.hostile_run import NODES, attack, find_sorts, name_ban

pytestmark = [pytest.mark.wan, pytest.mark.slow, pytest.mark.timeout(240)]

ROUNDS = 8

LEAST = dict.fromkeys(SORTS, 1) | {
    "crowd": 500,  # joins, signed by itself
    "carrier": 500,  # joins as if others had sent them
    "sloth": 100,  # streams with nothing on them
    "knocker": 200,  # sockets of one address
    "knocker refused": 1,
    "replayed headers": 1,
    "forged headers": 1,
    "oversized announcements": 1,
    "wrong payloads given": 1,
}
"""What has to have been done at least."""

TO_BAN = {"garbage", "forger", "crowd", "carrier", "knocker"}
"""By every node. Who gives wrong bytes is banned at the fifth answer, once it was chosen so often;
who holds streams open with nothing on them at the twentieth that ran out of time, and less counts
the busier a machine is: tests/mesh/test_bans.py has both."""


def has_enough(told: dict[str, Any], bans: Sequence[Sequence[BanView]]) -> bool:
    sorts = find_sorts(told)
    found = [{sorts.get(name_ban(ban)) for ban in of_node} for of_node in bans]
    is_done = all(told["done"].get(name, 0) >= least for name, least in LEAST.items())
    return is_done and all(of_node >= TO_BAN for of_node in found)


def test_a_swarm_under_attack_goes_on_and_bans_who_attacks(
    tmp_path: Path, figures: dict[str, str]
) -> None:
    report = attack(tmp_path, ROUNDS, has_enough)
    told = "\n".join(report.lines())
    quiet, attacked = report.quiet, report.attacked
    figures["rounds with a record, attacked and quiet"] = (
        f"{attacked.recorded:.0%}, {quiet.recorded:.0%}"
    )
    assert quiet.participants > NODES / 2
    assert attacked.recorded >= 0.9 * quiet.recorded, told
    assert attacked.participants >= 0.9 * quiet.participants, told
    for before, meanwhile in zip(quiet.rss_mb, attacked.rss_mb, strict=True):
        assert 0 < meanwhile <= 1.5 * before
    assert not {name for name, least in LEAST.items() if report.done.get(name, 0) < least}, told
    assert {sort for sort, nodes in report.banned.items() if nodes == NODES} >= TO_BAN, told
    assert not report.strangers
