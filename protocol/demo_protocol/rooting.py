"""The Merkle root of every so many states: asked for, compared, reported (rule 21).

A node without a root of its own, just joined or with a new trainer, does not judge.
"""

from demo_protocol.chain import Record
from demo_protocol.effects import ComputeRoot, Effect, RootDiffered
from demo_protocol.events import RootComputed
from demo_protocol.manifest import carries_root
from demo_protocol.view import View


def ask_root(view: View, record: bytes) -> list[Effect]:
    """Have the root of the state after `record` computed, where the next record carries it."""
    height = view.chain[record].state.height
    is_asked = carries_root(view.manifest.agreement, height + 1) and not view.is_faulty
    if record in view.roots or not is_asked:
        return []
    return [ComputeRoot(record)]


def on_root(view: View, event: RootComputed) -> list[Effect]:
    """Remember our own root of a state; tell of records that name another one."""
    if event.record not in view.chain:
        return []  # pruned meanwhile
    if view.is_faulty:
        return []
    view.roots[event.record] = event.root
    children = [view.chain[child] for child in view.chain.children[event.record]]
    return [effect for child in children for effect in check_root(view, child)]


def check_root(view: View, record: Record) -> list[Effect]:
    """Tell of a record that names another root than ours: it is not usable here."""
    if record.proposal is None or not view.is_root_wrong(record):
        return []
    return [RootDiffered(record.proposal.body.peer, record.hash)]
