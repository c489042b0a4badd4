"""A node that is killed ten times and started again at once, while another goes on."""

import json
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from demo_node.store.datadir import DataDir
from demo_node.store.disk import FileDisk
from demo_node.store.snapshot_info import SnapshotInfo
from demo_node.store.snapshots import SnapshotStore
from demo_node.views import RoundView
from demo_protocol.answers import decode_bundle
from demo_protocol.manifest import compute_run_id, decode_manifest, encode_manifest
from demo_protocol.messages import decode_header, decode_proposal
from tests.e2e.audit import read_chain, read_signed
from tests.e2e.nodes import ROUND_S, RunningNode, make_run, started
from tests.waiting import wait_until_sync

pytestmark = [pytest.mark.swarm, pytest.mark.slow, pytest.mark.timeout(400)]

DISK = FileDisk()
SEED = 7

STARTING_S = (0.3, 1.0, 2.0, 3.5)
"""Kills while the node starts, so long after its process did."""

UNSIGNED = r"of the residual: what was sent up to round \d+ is not known any more"
"""Why what was learned is not gone on from where the log of what was signed is empty, or torn."""

ACTIVE_KILLS = 6
"""Kills at a random moment within two rounds of taking part."""


@dataclass(frozen=True, slots=True)
class Life:
    """One start of the victim: the newest complete snapshot it had, and what its log says."""

    held: SnapshotInfo | None
    events: list[dict[str, Any]]

    @property
    def held_round(self) -> int:
        """Round of its newest complete snapshot; -1 where it had none."""
        return self.held.round if self.held else -1

    def find(self, event: str) -> list[dict[str, Any]]:
        """Its log lines of one kind."""
        return [line for line in self.events if line.get("event") == event]


@dataclass(slots=True)
class Story:
    """Both nodes after the last start of the victim, and its lives before that."""

    first: RunningNode
    victim: RunningNode
    run_id: bytes
    lives: list[Life] = field(default_factory=list)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, figures: dict[str, str]) -> Iterator[Story]:
    """Ten kills, then a life that lasts."""
    folder = tmp_path_factory.mktemp("crash")
    run_id = make_run_with_many_snapshots(folder / "first")
    with started(folder / "first") as first:
        invitation = first.invitation()
        first.wait_until_active()
        begin_s = time.monotonic()
        lives = [kill(folder / "victim", run_id, invitation, delay_s) for delay_s in STARTING_S]
        moments = Random(SEED)
        for number in range(ACTIVE_KILLS):
            delay_s = moments.uniform(0, 2 * ROUND_S)
            event = "momentum.saved" if number == ACTIVE_KILLS // 2 else "state.changed"
            lives.append(kill(folder / "victim", run_id, invitation, delay_s, after=event))
        killed_s = time.monotonic() - begin_s
        figures["seconds for ten kills and restarts"] = f"{killed_s:.0f}"
        held = find_newest(folder / "victim", run_id)
        with started(folder / "victim", *invitation) as victim:
            victim.wait_for_rounds(lambda rounds: sum(view.included for view in rounds) >= 2)
            lives.append(Life(held, read_log(victim)))
            yield Story(first, victim, run_id, lives)


def make_run_with_many_snapshots(folder: Path) -> bytes:
    """A run whose nodes save a snapshot at every second record; returns its id."""
    make_run(folder, "--preset", "tiny")
    path = DataDir(folder).manifest
    usual = decode_manifest(path.read_bytes())
    manifest = replace(usual, agreement=replace(usual.agreement, snapshot_every=2))
    path.write_bytes(encode_manifest(manifest))
    return compute_run_id(manifest)


def kill(
    datadir: Path, run_id: bytes, invitation: list[str], delay_s: float, *, after: str = ""
) -> Life:
    """One life of the victim, ended by SIGKILL; `after`: so long after it was active, and an event
    was in its log."""
    held = find_newest(datadir, run_id)
    with started(datadir, *invitation) as node:
        if after:
            node.wait_until_active()
            wait_until_sync(lambda: any(line["event"] == after for line in read_log(node)), 60)
        time.sleep(delay_s)  # the moment is what is tested
        assert node.process.poll() is None, node.stderr[-2000:]
        node.process.kill()
        node.process.wait()
        return Life(held, read_log(node))


def find_newest(datadir: Path, run_id: bytes) -> SnapshotInfo | None:
    """The newest snapshot that is complete."""
    snapshot, _ = SnapshotStore(DISK, DataDir(datadir).snapshots, run_id).newest()
    return snapshot.info if snapshot else None


def find_chain(node: RunningNode) -> set[bytes]:
    """Records on the chain up to the head of a node."""
    parents = {entry.record: entry.parent for entry in read_chain(node.datadir)}
    name: bytes | None = node.status().head
    found = set()
    while name is not None:
        found.add(name)
        name = parents.get(name)
    return found


def read_log(node: RunningNode) -> list[dict[str, Any]]:
    """Its log so far, without a line that the kill tore."""
    lines = [line for line in node.stderr.splitlines() if line.startswith("{")]
    return [json.loads(line) for line in lines if line.endswith("}")]


def test_every_start_is_from_the_newest_complete_snapshot(story: Story) -> None:
    loaded = [(life, line) for life in story.lives for line in life.find("state.loaded")]
    assert len(loaded) >= ACTIVE_KILLS + 1
    chain = find_chain(story.first)
    for life, line in loaded:
        if life.held is None or life.held.record not in chain:
            continue  # of a record that lost to a sibling a snapshot is of no use
        assert line["round"] == life.held.round
    assert sum(life.held is not None and life.held.record in chain for life, _ in loaded) >= 3
    saved = -1
    for life in story.lives:
        assert life.held_round >= saved
        saved = max([saved, *(line["round"] for line in life.find("snapshot.saved"))])
    assert saved > story.lives[0].held_round


def test_the_digests_are_those_of_the_node_that_was_not_killed(story: Story) -> None:
    theirs: dict[int, RoundView] = {view.round: view for view in story.first.rounds()}
    ours = [view for view in story.victim.rounds() if view.included]
    assert len(ours) >= 2
    assert [(v.record, v.digest) for v in ours] == [
        (theirs[v.round].record, theirs[v.round].digest) for v in ours
    ]
    for life in story.lives:
        assert not life.find("digest.differed")


def test_nothing_was_signed_twice(story: Story) -> None:
    peer = story.victim.status().peer
    signed: dict[tuple[str, int], set[bytes]] = defaultdict(set)
    for kind, round_, raw in read_signed(story.victim.datadir):
        signed[kind, round_].add(raw)
    own = {raw for messages in signed.values() for raw in messages}
    for folder in (story.first.datadir, story.victim.datadir):
        for entry in read_chain(folder):
            bundle = decode_bundle(entry.raw)
            for raw in bundle.headers:
                header = decode_header(raw, story.run_id).body
                if header.peer == peer:
                    signed["header", header.round].add(raw)
            proposal = decode_proposal(bundle.proposal, story.run_id).body
            if proposal.peer == peer:
                signed["proposal", proposal.round].add(bundle.proposal)
    assert {len(messages) for messages in signed.values()} == {1}
    # Rule 10: whatever others have of it, its own log had first.
    assert {raw for messages in signed.values() for raw in messages} == own
    assert len(own) > ACTIVE_KILLS


def test_no_kill_tears_what_it_learned(story: Story) -> None:
    """Lives that trained go on from the file that an earlier one left, and none is torn.

    Who was killed before it had signed anything cannot know that it has not (rule 10): what it had
    learned by then it does not go on from.
    """
    ignored = [line for life in story.lives for line in life.find("momentum.ignored")]
    reasons = {str(line["reason"]) for line in ignored}
    assert {reason for reason in reasons if not re.fullmatch(UNSIGNED, reason)} == set()
    saved = [bool(life.find("momentum.saved")) for life in story.lives]
    restored = [bool(life.find("momentum.restored")) for life in story.lives]
    assert any(saved)
    first = saved.index(True)
    assert not any(restored[: first + 1])
    assert any(restored[first + 1 :])
