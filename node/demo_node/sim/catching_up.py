"""How a simulated node comes level with the others before it signs: `demo_node.sync`, in little."""

import functools
from typing import TYPE_CHECKING

from demo_protocol.effects import PullRecords
from demo_protocol.events import Tick
from demo_protocol.schedule import contribute_end_ms, round_at, train_end_ms

if TYPE_CHECKING:
    from demo_node.sim.actor import Actor

LOOK_AGAIN_MS = 500
"""How often a node that catches up compares itself with its peers."""

STALLED_ROUNDS = 3
"""As `demo_node.sync`: without progress for so long it takes part as it is."""

ASKED = 5
"""Peers that are asked where they stand."""


def catch_up(actor: "Actor", now_round: int) -> None:
    """As `sync.catch_up`: pull and apply until level with the others, then take part."""
    _look(actor, -1, now_round + STALLED_ROUNDS)


def _look(actor: "Actor", shown: int, stalled_round: int) -> None:
    """Pull what they stand on; look again in a while, unless level with every peer that answers."""
    view, world = actor.view, actor.world
    peers = world.peers_of(actor, ASKED)
    for head in dict.fromkeys(peer.view.head for peer in peers):
        if head not in view.chain:
            holders = tuple(peer.name for peer in peers if peer.view.head == head)
            actor.perform(PullRecords(head, holders, only=True))
    theirs = [p.view.head for p in peers if p.machine is not None and not p.machine.syncing]
    heights = [view.chain[h].state.height for h in theirs if h in view.chain]
    height, now_round = view.head_state.height, round_at(view.manifest.schedule, actor.now_ms())
    is_level = len(heights) == len(theirs) and max([height, *heights]) <= height + 1
    if height != shown:
        stalled_round = now_round + STALLED_ROUNDS
    if is_level or now_round > stalled_round:
        _listen(actor)
    else:
        actor.later(LOOK_AGAIN_MS, functools.partial(_look, actor, height, stalled_round))


def _listen(actor: "Actor") -> None:
    """Hear one contribute phase before signing: somebody may be using this very key."""
    schedule = actor.view.manifest.schedule
    now_ms = actor.now_ms()
    round_ = round_at(schedule, now_ms)
    if now_ms > train_end_ms(schedule, round_):
        round_ += 1
    delay_ms = max(contribute_end_ms(schedule, round_) - now_ms, 0)
    actor.later(delay_ms, functools.partial(take_part, actor))


def take_part(actor: "Actor") -> None:
    """From now on it signs, trains and proposes."""
    assert actor.machine is not None
    actor.machine.syncing = False
    actor.post(Tick(actor.now_ms()))
