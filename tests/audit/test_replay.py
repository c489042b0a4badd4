"""Rounds done again: what somebody said wrongly of them is found, and who or what it was."""

import copy
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import safetensors.numpy

from demo_node.audit.findings import About, Finding, Report, count
from demo_node.audit.replay import replay_folder
from demo_node.audit.verify import verify_folder
from demo_node.store.datadir import DataDir
from demo_node.store.disk import FileDisk
from demo_node.store.snapshot_info import compute_checksum_line, compute_checksum_path
from demo_protocol.digest import compute_digest
from demo_protocol.errors import ConfigError
from demo_protocol.schema import compute_schema
from tests.audit.builders import LAST_ROUND, PEERS, ROOT_ROUND, SNAPSHOT_ROUNDS, Swarm, make_key
from tests.audit.damage import hash_files
from tests.cli.command import demo_node

LIE = b"a lie..."


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Swarm:
    """A run in which peer 2 gave a wrong digest in round 4, signed as everything else."""
    made = Swarm(tmp_path_factory.mktemp("run") / "node", lies={(2, 4): LIE})
    made.run()
    return made


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Swarm:
    made = Swarm(tmp_path_factory.mktemp("run") / "node")
    made.run()
    return made


@pytest.fixture
def folder(honest: Swarm, tmp_path: Path) -> Path:
    """A copy of the honest run's folder, to be changed."""
    return Path(shutil.copytree(honest.folder, tmp_path / "node"))


def replay(folder: Path, first: int | None = None, last: int | None = None) -> Report:
    return replay_folder(FileDisk(), folder, first=first, last=last, device="cpu")


def shown(report: Report) -> dict[str, str]:
    return dict(report.looked)


def snapshot_of(folder: Path, round_: int) -> Path:
    (path,) = folder.glob(f"snapshots/{round_}-*.safetensors")
    return path


def forge(path: Path, change: "dict[str, int]", *, digest: bool = False) -> None:
    """Change one value of tensors and make the checksum fit; with `digest`, its digest as well."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    metadata = json.loads(raw[8 : 8 + length])["__metadata__"]
    tensors = {n: t.copy() for n, t in safetensors.numpy.load(raw).items()}
    for name, values in change.items():
        tensors[name].reshape(-1)[:values] += 1
    if digest:
        metadata["demo.digest"] = compute_digest(tensors).hex()
    path.write_bytes(safetensors.numpy.save(tensors, metadata))
    line = compute_checksum_line(path.name, hashlib.sha256(path.read_bytes()).digest())
    compute_checksum_path(path).write_bytes(line)


def test_an_honest_run_replays_and_the_folder_stays_as_it_was(honest: Swarm) -> None:
    before = hash_files(honest.folder)
    report = replay(honest.folder)
    assert report.findings == []
    looked = shown(report)
    assert looked["begin"] == "with state 0"
    # Of every record but the last, and of state 0, each peer said the digest once.
    agreed = PEERS * (LAST_ROUND + 1)
    assert looked["replayed"] == (
        f"{LAST_ROUND + 1} records on cpu; {agreed} digests of peers, 1 root and 2 snapshots agree"
    )
    assert f"record {honest.head.hex()[:12]} of round {LAST_ROUND}" in looked["branch"]
    assert "of 2 branches the one that 3 of 3 peers vote for" in looked["branch"]
    assert hash_files(honest.folder) == before


@pytest.mark.parametrize(
    ("first", "last", "begin", "records"),
    [
        (
            5,
            6,
            "the snapshot of round 3, the newest before round 5: round 4 is done again as well",
            3,
        ),
        (3, 3, "state 0, the newest before round 3: rounds 0 to 2 are done again as well", 4),
        (4, 4, "the snapshot of round 3", 1),
        (7, None, "the snapshot of round 6", 1),
        (None, 2, "state 0", 3),
    ],
)
def test_only_the_rounds_that_were_asked_for_are_done_again(
    honest: Swarm, first: int | None, last: int | None, begin: str, records: int
) -> None:
    report = replay(honest.folder, first, last)
    assert report.findings == []
    assert shown(report)["begin"] == f"with {begin}"
    assert shown(report)["replayed"].startswith(f"{count(records, 'record')} on cpu")


@pytest.mark.parametrize(("first", "last", "asked"), [(99, None, 99), (LAST_ROUND, 99, 99)])
def test_rounds_after_the_newest_are_refused(
    honest: Swarm, first: int | None, last: int | None, asked: int
) -> None:
    with pytest.raises(ConfigError) as refused:
        replay(honest.folder, first, last)
    said = f"no record of round {asked}; the newest is of round {LAST_ROUND}"
    assert str(refused.value) == said


def test_a_replay_that_did_nothing_does_not_say_that_all_is_well(
    honest: Swarm, folder: Path
) -> None:
    """The only record is that of the snapshot at hand, and its payloads are gone."""
    swarm = replace_folder(honest, folder)
    swarm.rewrite_log(entry for _, entry in swarm.entries() if entry.round == SNAPSHOT_ROUNDS[-1])
    snapshot_of(folder, SNAPSHOT_ROUNDS[0]).unlink()
    shutil.rmtree(folder / "payloads")
    with pytest.raises(ConfigError, match="nothing was replayed"):
        replay(folder)


def replace_folder(swarm: Swarm, folder: Path) -> Swarm:
    moved = copy.copy(swarm)
    moved.folder = folder
    return moved


def test_records_that_were_written_out_of_order_are_replayed_in_order(
    honest: Swarm, folder: Path
) -> None:
    """A node that catches up writes several at once."""
    swarm = replace_folder(honest, folder)
    entries = [entry for _, entry in honest.entries()]
    swarm.rewrite_log([entries[0], *reversed(entries[1:])])
    report = replay(folder)
    assert report.findings == []
    assert report.looked == replay(honest.folder).looked
    checked = verify_folder(FileDisk(), folder)
    assert (checked.findings, checked.notes) == ([], [])
    assert checked.looked == verify_folder(FileDisk(), honest.folder).looked


@pytest.mark.parametrize(("first", "last"), [(None, None), (4, 4), (3, 5)])
def test_a_lying_peer_is_named_with_its_round(
    told: Swarm, first: int | None, last: int | None
) -> None:
    (finding,) = replay(told.folder, first, last).findings
    assert (finding.about, finding.round) == (About.PEER, 4)
    assert finding.peer == make_key(2).public
    truth = told.digests[told.chain.ancestor_before(told.head, 4).hash]
    assert LIE.hex() in finding.text
    assert f"after round 3, the replay gives {truth.hex()}" in finding.text


@pytest.mark.parametrize("round_", SNAPSHOT_ROUNDS)
@pytest.mark.parametrize("digest", [False, True])
def test_a_changed_tensor_under_a_right_checksum_is_named(
    honest: Swarm, folder: Path, round_: int, digest: bool
) -> None:
    names = sorted(spec.name for spec in compute_schema(honest.manifest.model).tensors)
    forge(snapshot_of(folder, round_), {names[1]: 3, names[-1]: 1}, digest=digest)
    findings = tensors_of(replay(folder).findings)
    assert [(f.tensor, f.round) for f in findings] == [(names[1], round_), (names[-1], round_)]
    assert findings[0].text.startswith("3 of ")
    assert all(f.file == f"snapshots/{snapshot_of(folder, round_).name}" for f in findings)


def tensors_of(findings: list[Finding]) -> list[Finding]:
    return sorted((f for f in findings if f.tensor), key=lambda f: f.tensor)


def test_every_tensor_in_which_one_byte_changed_is_named(honest: Swarm, folder: Path) -> None:
    path = snapshot_of(folder, SNAPSHOT_ROUNDS[-1])
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    position = start
    for spec in sorted(compute_schema(honest.manifest.model).tensors, key=lambda s: s.name):
        changed = bytearray(raw)
        changed[position + 2 * spec.size] ^= 1
        path.write_bytes(changed)
        found = replay(folder, last=SNAPSHOT_ROUNDS[-1]).findings
        assert [f.tensor for f in found if f.tensor] == [spec.name]
        position += 4 * spec.size
    assert position == len(raw)


def test_a_forged_snapshot_is_not_begun_with(folder: Path) -> None:
    """Most messages give another digest for it: the peers are not the ones to blame."""
    name = next(iter(safetensors.numpy.load_file(snapshot_of(folder, 3))))
    forge(snapshot_of(folder, 3), {name: 1}, digest=True)
    report = replay(folder, 4, 6)
    (finding,) = report.findings
    assert finding.file.startswith("snapshots/3-")
    assert finding.about is About.FOLDER
    assert "3 of 3 messages give another digest" in finding.text


def test_a_missing_payload_is_named_and_the_next_snapshot_goes_on(
    honest: Swarm, folder: Path
) -> None:
    record = honest.chain.ancestor_before(honest.head, 3)
    header = record.contributions[0].body
    (folder / "payloads" / "2" / header.payload_hash.hex()).unlink()
    (finding,) = replay(folder, first=0).findings
    assert (finding.round, finding.peer) == (2, header.peer)
    assert "is not here" in finding.text
    assert shown(replay(folder, first=0))["replayed"].startswith(f"{2 + LAST_ROUND - 3} records")
    # Left to itself, it begins where all payloads are here.
    report = replay(folder)
    assert report.findings == []
    assert shown(report)["begin"] == "with the snapshot of round 3"


def test_the_newest_record_may_still_wait_for_payloads(honest: Swarm, folder: Path) -> None:
    """On a running node's folder it does, for a moment. Who asks for that round is told."""
    header = honest.chain[honest.head].contributions[0].body
    (folder / "payloads" / str(LAST_ROUND) / header.payload_hash.hex()).unlink()
    report = replay(folder)
    assert report.findings == []
    assert report.notes == [
        f"left out: the newest record, of round {LAST_ROUND}, waits for payloads"
    ]
    assert shown(report)["replayed"].startswith(f"{LAST_ROUND} records on cpu")
    (finding,) = replay(folder, last=LAST_ROUND).findings
    assert (finding.round, finding.peer) == (LAST_ROUND, header.peer)


def test_a_changed_payload_is_blamed_by_file_round_and_peer(honest: Swarm, folder: Path) -> None:
    header = honest.chain[honest.head].contributions[1].body
    path = folder / "payloads" / str(LAST_ROUND) / header.payload_hash.hex()
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    (finding,) = replay(folder).findings
    # verify says the same, to the word.
    assert verify_folder(FileDisk(), folder).findings == [finding]
    assert finding.remedy.startswith("delete it: the node asks its peers")
    assert finding.file == f"payloads/{LAST_ROUND}/{path.name}"
    assert (finding.round, finding.peer) == (LAST_ROUND, header.peer)


def test_a_damaged_record_is_named_and_the_next_snapshot_goes_on(
    honest: Swarm, folder: Path
) -> None:
    (position,) = (position for position, entry in honest.entries() if entry.round == 2)
    log = DataDir(folder).chain_log
    raw = bytearray(log.read_bytes())
    raw[position + 300] ^= 1
    log.write_bytes(raw)
    report = replay(folder)
    (finding,) = report.findings
    assert (finding.file, finding.round) == ("chain.log", 2)
    assert shown(report)["begin"] == "with the snapshot of round 3"


def test_where_the_replay_stands_alone_the_peers_are_not_blamed(tmp_path: Path) -> None:
    """Every message gives another digest from some record on: the state or the machine is it."""
    lies = {(peer, round_): LIE for peer in range(PEERS) for round_ in range(5, LAST_ROUND + 1)}
    swarm = Swarm(tmp_path / "node", lies=lies)
    swarm.run()
    (finding,) = replay(swarm.folder).findings
    assert (finding.about, finding.round) == (About.FOLDER, 4)
    assert "not those peers" in finding.text


def test_what_cannot_be_replayed_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        replay(tmp_path)
    datadir = DataDir(folder)
    kept = datadir.chain_log.read_bytes()
    datadir.chain_log.unlink()
    with pytest.raises(ConfigError, match="no record yet"):
        replay(folder)
    datadir.chain_log.write_bytes(kept)


def test_a_log_that_begins_at_a_snapshot_begins_there(tmp_path: Path) -> None:
    swarm = Swarm(tmp_path / "node")
    swarm.run()
    swarm.rewrite_log(entry for _, entry in swarm.entries() if entry.round > 3)
    report = replay(swarm.folder)
    assert report.findings == []
    assert shown(report)["begin"] == "with the snapshot of round 3"
    with pytest.raises(ConfigError, match="--from 4 or later"):
        replay(swarm.folder, first=2)
    for path in swarm.folder.glob("snapshots/*"):
        path.unlink()
    with pytest.raises(ConfigError, match="no state to begin with"):
        replay(swarm.folder)


def test_a_run_that_goes_on_from_a_snapshot_is_replayed_from_it(
    honest: Swarm, tmp_path: Path
) -> None:
    initial = snapshot_of(honest.folder, 6).read_bytes()
    swarm = Swarm(tmp_path / "node", initial=initial)
    swarm.run()
    assert swarm.digests[swarm.run_id] == honest.digests[honest.chain[honest.head].parent]
    report = replay(swarm.folder)
    assert report.findings == verify_folder(FileDisk(), swarm.folder).findings == []
    assert shown(report)["begin"] == "with state 0"
    file = swarm.folder / "initial.safetensors"
    file.write_bytes(initial[:-1] + b"!")
    for found in (verify_folder(FileDisk(), swarm.folder), replay(swarm.folder)):
        assert [finding.file for finding in found.findings] == ["initial.safetensors"]
    file.unlink()
    assert shown(replay(swarm.folder))["begin"] == "with the snapshot of round 3"


def test_both_commands_agree_and_exit_with_1(told: Swarm) -> None:
    assert len(verify_folder(FileDisk(), told.folder).findings) == 1
    done = demo_node("replay", "--datadir", told.folder, "--device", "cpu", "--json")
    assert done.returncode == 1, done.stderr
    (finding,) = json.loads(done.stdout)["findings"]
    assert finding["round"] == 4
    assert finding["about"] == "peer"
    assert finding["peer_id"].startswith("12D3KooW")
    assert demo_node("replay", "--from", 5, "--to", 4).returncode == 2
    nothing = demo_node("replay", "--datadir", told.folder, "--from", LAST_ROUND)
    assert nothing.returncode == 0, nothing.stderr
    assert nothing.stdout.endswith("nothing is wrong\n")
    beyond = demo_node("replay", "--datadir", told.folder, "--from", 700, "--device", "cpu")
    assert beyond.returncode == 78
    assert beyond.stdout == ""
    assert f"no record of round 700; the newest is of round {LAST_ROUND}" in beyond.stderr


def test_rule_21_a_record_that_names_another_root_is_found_and_who_made_it(tmp_path: Path) -> None:
    made = Swarm(tmp_path / "node", false_root=b"r" * 32)
    made.run()
    report = replay(made.folder)
    (finding,) = report.findings
    author = next(
        proposal.body.peer
        for step in made.chain.records.values()
        if (proposal := step.proposal) and proposal.body.state_root
    )
    assert (finding.round, finding.peer, finding.about) == (ROOT_ROUND, author, About.PEER)
    assert (
        f"names root {(b'r' * 8).hex()} for the state after round {ROOT_ROUND - 1}" in finding.text
    )
    assert "1 root" not in shown(report)["replayed"]


def test_the_root_of_the_state_that_a_replay_begins_with_is_compared_too(honest: Swarm) -> None:
    report = replay(honest.folder, ROOT_ROUND, ROOT_ROUND)
    assert report.findings == []
    assert ", 1 root and " in shown(report)["replayed"]
