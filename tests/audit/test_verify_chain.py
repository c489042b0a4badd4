"""Where a log begins, what it lacks and what peers signed in it: told apart from damage."""

from dataclasses import replace
from pathlib import Path

import pytest

from demo_node.audit.findings import About, Report
from demo_node.audit.verify import verify_folder
from demo_node.store.chainlog import ChainEntry
from demo_node.store.datadir import DataDir
from demo_node.store.disk import FileDisk
from demo_node.store.key import NodeKey
from demo_protocol.answers import encode_bundle
from demo_protocol.events import Bundle
from demo_protocol.messages import Proposal, Sealed
from tests.audit.builders import PEERS, SNAPSHOT_ROUNDS, Swarm, make_key
from tests.audit.damage import Flip, Flipped, files_of


@pytest.fixture
def swarm(tmp_path: Path) -> Swarm:
    """A run whose folder the test may change."""
    made = Swarm(tmp_path / "node")
    made.run()
    return made


def verify(swarm: Swarm) -> Report:
    return verify_folder(FileDisk(), swarm.folder)


def test_a_log_that_begins_at_a_snapshot_is_checked_from_there(swarm: Swarm) -> None:
    """As a joiner has it; and once its snapshot is gone, links and signatures are left."""
    swarm.rewrite_log(entry for _, entry in swarm.entries() if entry.round > SNAPSHOT_ROUNDS[0])
    report = verify(swarm)
    assert report.findings == []
    assert dict(report.looked)["chain"].startswith("5 records of rounds 4 to 7")
    joined = "the log begins at round 4: this node joined from a snapshot there"
    assert report.notes == [joined]
    for path in files_of(swarm, f"snapshots/{SNAPSHOT_ROUNDS[0]}-*"):
        path.unlink()
    report = verify(swarm)
    assert report.findings == []
    # The records up to the next snapshot's, and a branch that forked off before it.
    assert report.notes[0] == joined
    assert report.notes[1].startswith(
        "checked for hashes, links and signatures only: 4 records, as"
    )


def test_a_gap_in_the_log_is_told_from_a_join(swarm: Swarm) -> None:
    """A gap that a snapshot at hand explains, and one that nothing here explains."""
    entries = [entry for _, entry in swarm.entries()]
    swarm.rewrite_log(e for e in entries if e.round not in (2, SNAPSHOT_ROUNDS[0]))
    assert verify(swarm).notes[0] == "the log goes on at round 4: this node took a snapshot there"
    swarm.rewrite_log(e for e in entries if e.round != 2)
    (note, _) = verify(swarm).notes
    assert note.startswith("the log lacks 1 record that others follow, the first before round 3:")
    assert note.endswith("or the log lost records")


def test_a_log_whose_first_record_is_damaged_is_not_that_of_a_joiner(swarm: Swarm) -> None:
    (position,) = (position for position, entry in swarm.entries() if entry.round == 0)
    with Flipped(Flip(DataDir(swarm.folder).chain_log, position + 300, 1)):
        report = verify(swarm)
    assert [(f.file, f.round) for f in report.findings] == [("chain.log", 0)]
    assert not any("joined" in note for note in report.notes)
    assert report.notes[0].endswith("or what is damaged was there")


def test_an_equivocator_is_named_and_the_folder_is_not_blamed(swarm: Swarm) -> None:
    head = swarm.head
    headers = [swarm.contribute(peer, head, 8) for peer in range(PEERS)]
    swarm.propose(head, 8, headers, rank=0)
    again = swarm.contribute(1, head, 8, digest=swarm.digests[head], samples=3)
    swarm.propose(head, 8, [headers[0], again], rank=1)
    (finding,) = verify(swarm).findings
    assert (finding.about, finding.round) == (About.PEER, 8)
    assert finding.peer == make_key(1).public
    assert "two headers" in finding.text


def test_a_digest_that_differs_from_the_others_is_an_accusation(tmp_path: Path) -> None:
    swarm = Swarm(tmp_path / "node", lies={(2, 4): b"a lie..."})
    swarm.run()
    (finding,) = verify(swarm).findings
    assert (finding.about, finding.round) == (About.PEER, 4)
    assert finding.peer == make_key(2).public
    assert "demo-node replay --from 3 --to 3" in finding.remedy


def bundled(sealed: Sealed[Proposal], headers: list[bytes]) -> ChainEntry:
    raw = encode_bundle(Bundle(sealed.raw, tuple(headers)))
    return ChainEntry(sealed.hash, sealed.body.parent, sealed.body.round, raw)


def test_a_record_that_no_rule_allows_is_found_though_all_its_checks_hold(swarm: Swarm) -> None:
    stranger = NodeKey(b"s" * 32)
    header = swarm.contribute(0, swarm.head, 8)
    sealed = swarm.seal(stranger, swarm.head, 8, [header])
    swarm.log(bundled(sealed, [header.raw]))
    (finding,) = verify(swarm).findings
    assert (finding.file, finding.round, finding.peer) == ("chain.log", 8, stranger.public)
    assert "no slot" in finding.text


@pytest.mark.parametrize("whose", ["header", "proposal"])
def test_a_forged_signature_is_found_though_all_hashes_hold(swarm: Swarm, whose: str) -> None:
    header = swarm.contribute(0, swarm.head, 8)
    sealed = swarm.seal(swarm.keys[0], swarm.head, 8, [header])
    if whose == "header":
        header = replace(header, raw=header.raw.replace(header.signature, bytes(64)))
    else:
        sealed = replace(sealed, raw=sealed.raw.replace(sealed.signature, bytes(64)))
    swarm.log(bundled(sealed, [header.raw]))
    (finding,) = verify(swarm).findings
    assert (finding.file, finding.round) == ("chain.log", 8)
    assert f"bad signature on a {whose}" in finding.text
