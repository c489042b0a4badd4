"""What only longer or stranger chains than a real small run show. Signatures are cheap ones."""

import pytest

from demo_node.audit import records
from demo_node.audit.branch import Claim, choose_branch, collect_evidence
from demo_node.audit.disputes import Disputes
from demo_node.audit.findings import About
from demo_node.audit.records import RecordAudit
from demo_node.sim.keys import cheap_verify
from demo_node.store.chainlog import ChainEntry
from demo_protocol.answers import encode_bundle
from demo_protocol.chain import make_bundle
from demo_protocol.errors import ConfigError
from demo_protocol.manifest import Agreement
from tests.builders import Tree, manifest, run_id_of

SHORT = manifest(
    agreement=Agreement(
        contributors=0,
        late_rounds=1,
        expire_rounds=2,
        forget_rounds=40,
        snapshot_every=1,
        payload_window_rounds=3,
        probation=0,
    )
)
"""Nothing older than 41 rounds can be built on."""


@pytest.fixture(autouse=True)
def cheap_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "verify", cheap_verify)
    monkeypatch.setattr(records, "PRUNE_EVERY", 16)


def entries_of(tree: Tree) -> list[ChainEntry]:
    return [
        ChainEntry(r.hash, r.parent, r.round, encode_bundle(make_bundle(r)))
        for r in tree.chain.records.values()
        if r.proposal is not None
    ]


def audit(tree: Tree) -> RecordAudit:
    made = RecordAudit(manifest=tree.run, run_id=run_id_of(tree.run), roots={}, held=set())
    for entry in entries_of(tree):
        made.take(entry)
    made.finish()
    return made


def test_a_long_log_is_checked_to_its_end_though_old_records_are_forgotten() -> None:
    tree = Tree(SHORT)
    start = tree.start(2)
    tree.grow_all(start, range(1, 200), [0, 1])
    whole = audit(tree)
    assert whole.findings == []
    assert (whole.records, whole.headers, whole.unchecked, whole.gaps) == (200, 400, 0, {})
    assert (whole.first_round, whole.newest_round) == (0, 199)


def test_a_branch_off_a_forgotten_record_is_checked_by_signatures_and_links_only() -> None:
    tree = Tree(SHORT)
    start = tree.start(2)
    line = tree.grow_all(start, range(1, 120), [0, 1])
    tree.grow_all(line[-20], range(120, 122), [0])  # young enough
    tree.grow_all(line[10], range(122, 125), [0])  # nobody has kept what it builds on
    whole = audit(tree)
    assert whole.findings == []
    assert (whole.unchecked, whole.gaps) == (3, {})


def test_the_branch_with_most_votes_is_replayed_though_another_is_longer() -> None:
    tree = Tree(SHORT)
    start = tree.start(3)
    long = tree.grow_all(start, range(1, 5), [2])
    short = tree.grow_all(start, range(5, 7), [0, 1])
    entries = entries_of(tree)
    branch = choose_branch(lambda: entries, tree.genesis, set(), None, None)
    assert [link.record for link in branch.links] == [start, *short]
    assert "of 2 branches the one that 2 of 3 peers vote for" in branch.why
    assert not branch.links[0].is_complete
    early = choose_branch(lambda: entries, tree.genesis, set(), None, 5)
    assert [link.record for link in early.links] == [start, short[0]]
    assert long[-1] not in {link.record for link in branch.links}


def test_rounds_without_a_record_cannot_be_replayed() -> None:
    tree = Tree(SHORT)
    start = tree.start(2)
    tree.grow_all(tree.grow_all(start, range(1, 3), [0, 1])[-1], range(5, 7), [0, 1])
    entries = entries_of(tree)
    with pytest.raises(ConfigError, match="no record of rounds 3 to 4"):
        choose_branch(lambda: entries, tree.genesis, set(), 3, 4)
    branch = choose_branch(lambda: entries, tree.genesis, set(), 3, 5)
    assert branch.links[-1].round == 5


def test_digests_count_whichever_branch_gives_them() -> None:
    tree = Tree(SHORT)
    start = tree.start(3)
    tree.grow_all(start, range(1, 3), [2])
    tree.grow_all(start, range(3, 6), [0, 1])
    entries = entries_of(tree)
    branch = choose_branch(lambda: entries, tree.genesis, set(), None, None)
    evidence = collect_evidence(lambda: entries, tree.genesis, branch, -1)
    assert evidence.findings == []
    # tests.builders.header bases everything on state 0; proposals speak of their parents.
    assert [claim.round for claim in evidence.claims[start]] == [1, 3]
    assert evidence.claims.keys() <= {tree.genesis, *(link.record for link in branch.links)}


RIGHT, WRONG = b"right...", b"wrong..."


def test_one_peer_that_is_wrong_is_blamed_and_several_that_agree_on_nothing_are_not() -> None:
    disputes = Disputes()
    disputes.compare(3, RIGHT, [Claim(4, b"a", RIGHT), Claim(4, b"b", WRONG)])
    disputes.compare(4, RIGHT, [Claim(5, b"b", WRONG)])
    assert [(f.round, f.peer) for f in disputes.findings()] == [(4, b"b"), (5, b"b")]
    assert disputes.agreed == 1
    disputes.compare(5, RIGHT, [Claim(6, b"a", WRONG), Claim(6, b"b", WRONG)])
    *blamed, alone = disputes.findings()
    assert [(f.round, f.peer) for f in blamed] == [(4, b"b")]
    assert (alone.about, alone.round, alone.peer) == (About.FOLDER, 4, b"")
    disputes.compare(6, RIGHT, [Claim(7, b"a", RIGHT)])
    assert all(f.about is About.PEER for f in disputes.findings())
