"""Every byte that is changed is found, and the right thing is blamed for it."""

import hashlib
import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from demo_node.audit.findings import About, Report
from demo_node.audit.verify import verify_folder
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.store.chainlog import ChainEntry
from demo_node.store.datadir import DataDir
from demo_node.store.disk import FileDisk
from demo_node.store.frames import FRAME_BYTES, START
from demo_node.store.key import encode_key
from demo_node.store.manifest_file import AGAIN
from demo_node.store.signed import SignedLog
from demo_node.store.snapshot_info import compute_checksum_line
from demo_node.store.tensorfile import decode_header
from demo_protocol.errors import ConfigError
from tests.audit.builders import PEERS, SNAPSHOT_ROUNDS, Swarm, make_key
from tests.audit.damage import Flip, Flipped, files_of, flips_of, hash_files
from tests.cli.command import environment

POSITIONS = 250
"""Of each kind of file, drawn; besides them the first and last bytes of every file."""


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Swarm:
    """A run whose folder each test leaves as it was."""
    made = Swarm(tmp_path_factory.mktemp("run") / "node")
    made.run()
    return made


def verify(swarm: Swarm) -> Report:
    return verify_folder(FileDisk(), swarm.folder)


def test_a_sound_folder_is_found_sound_and_left_as_it_was(swarm: Swarm) -> None:
    before = hash_files(swarm.folder)
    report = verify(swarm)
    assert report.findings == []
    assert report.notes == []
    looked = dict(report.looked)
    assert looked["chain"] == "9 records of rounds 0 to 7 with 26 headers"
    assert looked["signed"].startswith("1")
    assert " messages of this node" in looked["signed"]
    assert looked["snapshots"] == f"2, the newest of round {SNAPSHOT_ROUNDS[-1]}"
    assert looked["payloads"] == f"{8 * PEERS}, 0 of them in no record"
    assert hash_files(swarm.folder) == before


@pytest.mark.parametrize(
    "pattern",
    [
        "manifest.json",
        "node.key",
        "chain.log",
        "signed.log",
        "payloads/*/*",
        "snapshots/*.safetensors",
        "snapshots/*.sha256",
        "corpus/*",
    ],
)
def test_one_changed_byte_is_found_and_its_file_blamed(swarm: Swarm, pattern: str) -> None:
    flips = list(flips_of(files_of(swarm, pattern), POSITIONS))
    assert len(flips) >= 100 or pattern in ("node.key", "snapshots/*.sha256")
    for flip in flips:
        with Flipped(flip):
            findings = verify(swarm).findings
        blamed = {finding.file for finding in findings}
        assert blamed == {str(flip.path.relative_to(swarm.folder))}, flip
        assert all(finding.about is About.FOLDER for finding in findings), flip
    assert verify(swarm).findings == []


def test_without_its_manifest_a_folder_proves_nothing(swarm: Swarm) -> None:
    with Flipped(Flip(DataDir(swarm.folder).manifest, 100, 1)):
        report = verify(swarm)
    (finding,) = report.findings
    assert (finding.file, finding.remedy) == ("manifest.json", AGAIN)
    assert AGAIN not in finding.text, "said once"
    assert report.notes == ["without the run's manifest nothing else can be checked"]


def test_a_changed_record_is_blamed_by_its_round(swarm: Swarm) -> None:
    path = DataDir(swarm.folder).chain_log
    bounds = [(position, entry.round) for position, entry in swarm.entries()]
    bounds.append((path.stat().st_size, -1))
    for flip in flips_of([path], 2 * POSITIONS):
        if flip.position < START:
            continue
        with Flipped(flip):
            (finding,) = verify(swarm).findings
        (round_,) = (
            round_
            for (start, round_), (end, _) in itertools.pairwise(bounds)
            if start <= flip.position < end
        )
        assert finding.round == round_, flip
        assert f"round {round_}: " in finding.format()


def test_what_stands_before_a_record_can_be_changed_and_its_round_is_still_told(
    swarm: Swarm,
) -> None:
    """Length and check of the entry, hashes and round: the signed proposal says the round too."""
    path = DataDir(swarm.folder).chain_log
    (start,) = (position for position, entry in swarm.entries() if entry.round == 4)
    for position in range(start, start + FRAME_BYTES + 32 + 32 + 8):
        with Flipped(Flip(path, position, 1)):
            (finding,) = verify(swarm).findings
        assert (finding.file, finding.round) == ("chain.log", 4), position


def test_a_changed_payload_is_blamed_by_round_and_peer(swarm: Swarm) -> None:
    by_hash = {
        header.body.payload_hash: header.body
        for record in swarm.chain.records.values()
        for header in record.contributions
    }
    for path in files_of(swarm, "payloads/*/*"):
        with Flipped(Flip(path, 20, 1)):
            (finding,) = verify(swarm).findings
        body = by_hash[bytes.fromhex(path.name)]
        assert (finding.round, finding.peer) == (body.round, body.peer)
        assert f"round {body.round}, peer {encode_peer_id(body.peer)}: " in finding.format()


def test_a_changed_snapshot_is_blamed_by_its_round(swarm: Swarm) -> None:
    path = files_of(swarm, "snapshots/*.safetensors")[0]
    with Flipped(Flip(path, path.stat().st_size - 5, 1)):
        (finding,) = verify(swarm).findings
    assert finding.round == SNAPSHOT_ROUNDS[0]
    assert "digest" in finding.text
    assert "checksum" in finding.text


@pytest.mark.parametrize("where", ["tensors", "chain state", "record"])
def test_a_new_checksum_does_not_hide_a_changed_snapshot(swarm: Swarm, where: str) -> None:
    path = files_of(swarm, "snapshots/*.safetensors")[0]
    raw = path.read_bytes()
    position = {
        "tensors": decode_header(raw).header_bytes + 100,
        # Somewhere in the text, so that it stays base64 or hexadecimal: 'A' <-> 'a' + 1 and so on.
        "chain state": raw.index(b'"demo.chain_state":"') + 150,
        "record": raw.index(b'"demo.record":"') + 20,
    }[where]
    changed = bytearray(raw)
    changed[position] = ord("1") if changed[position] != ord("1") else ord("2")
    checksum = path.with_name(path.name + ".sha256")
    kept = checksum.read_bytes()
    path.write_bytes(changed)
    checksum.write_bytes(compute_checksum_line(path.name, hashlib.sha256(changed).digest()))
    (finding,) = verify(swarm).findings
    path.write_bytes(raw)
    checksum.write_bytes(kept)
    assert finding.file == f"snapshots/{path.name}"
    assert verify(swarm).findings == []


def test_a_damaged_checksum_file_is_to_be_deleted_with_its_snapshot(swarm: Swarm) -> None:
    (path, *_) = files_of(swarm, "snapshots/*.sha256")
    with Flipped(Flip(path, 3, 1)):
        (finding,) = verify(swarm).findings
    assert finding.remedy.startswith("delete it and its snapshot: ")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda e: [e, e], "twice"),
        (lambda e: [replace(e, parent=bytes(32))], "not that of the proposal"),
        (lambda e: [replace(e, round=6)], "not that of the proposal"),
        (lambda e: [replace(e, record=bytes(32))], "not that of the proposal"),
        (lambda e: [replace(e, raw=e.raw[:-1])], "not a protobuf message"),
    ],
)
def test_entries_whose_parts_do_not_belong_together_are_found(
    tmp_path: Path, swarm: Swarm, change: Callable[[ChainEntry], list[ChainEntry]], text: str
) -> None:
    """The log's own checks hold: somebody wrote it so."""
    path = DataDir(swarm.folder).chain_log
    kept = path.read_bytes()
    *before, last = [entry for _, entry in swarm.entries()]
    swarm.rewrite_log([*before, *change(last)])
    (finding,) = verify(swarm).findings
    path.write_bytes(kept)
    assert finding.file == "chain.log"
    assert text in finding.text


def test_a_key_that_others_can_read_is_found(swarm: Swarm) -> None:
    key = DataDir(swarm.folder).key
    key.chmod(0o644)
    (finding,) = verify(swarm).findings
    key.chmod(0o600)
    assert finding.file == "node.key"
    assert "chmod 600" in finding.remedy


def test_messages_of_another_key_or_round_among_our_own_are_found(
    swarm: Swarm, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(swarm.folder, tmp_path / "node"))
    datadir = DataDir(folder)
    datadir.key.write_bytes(encode_key(make_key(1)))
    findings = verify_folder(FileDisk(), folder).findings
    assert {finding.file for finding in findings} == {"signed.log"}
    assert "another key than node.key" in findings[0].text
    datadir.key.write_bytes(encode_key(make_key(0)))
    headers = swarm.chain[swarm.head].contributions
    (raw,) = (h.raw for h in headers if h.body.peer == swarm.keys[0].public)
    log = SignedLog(FileDisk(), datadir.signed_log, swarm.run_id, 0)
    log.put("header", 9, raw)
    log.put("header", 10, raw[:-1])
    log.put("greeting", 11, raw)
    log.close()
    texts = {f.round: f.text for f in verify_folder(FileDisk(), folder).findings}
    assert "of round 7 is kept under this one" in texts[9]
    assert "header here is none" in texts[10]
    assert "greeting here is none" in texts[11]


def test_an_entry_that_is_being_written_is_not_damage(swarm: Swarm) -> None:
    """The node writes on while we read: what was cut short then is whole by the end."""

    class Growing(FileDisk):
        asked = 0

        def size(self, path: Path) -> int:
            self.asked += path.name == "chain.log"
            return super().size(path) - 10 * (path.name == "chain.log" and self.asked <= 2)

    disk = Growing()
    report = verify_folder(disk, swarm.folder)
    assert report.findings == []
    assert dict(report.looked)["chain"].startswith("8 records")
    assert disk.asked == 3


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        verify_folder(FileDisk(), tmp_path)


def test_the_command_says_what_is_wrong_without_torch(swarm: Swarm) -> None:
    script = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        f"sys.argv[1:] = ['verify', '--datadir', {str(swarm.folder)!r}]\n"
        "import demo_node.cli; demo_node.cli.main()"
    )
    done = run_script(script)
    assert done.returncode == 0
    assert done.stdout.endswith("nothing is wrong\n")
    assert not {"torch", "libp2p", "safetensors"}.intersection(done.stderr.split())
    with Flipped(Flip(DataDir(swarm.folder).chain_log, 3_000, 1)):
        done = run_script(script)
    assert done.returncode == 1
    assert "WRONG       chain.log, round " in done.stdout


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
    )
