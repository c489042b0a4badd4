import json
import math
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from demo_node.cli.show import describe_view, format_status
from demo_node.cli.start import start
from demo_node.cli.version import explain_build
from demo_node.control.address import socket_path
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.views import NodeState, ReachView
from demo_protocol.manifest import compute_run_id, decode_manifest
from demo_protocol.reach import Reachability
from tests.cli.command import COMMAND, ROOT, demo_node, environment, list_imported
from tests.control.fake_node import BAN, HOUSEHOLD, PEER, status_view
from tests.waiting import wait_until_sync

HEAVY = {"torch", "libp2p", "aiohttp", "structlog", "rich", "numpy", "trio", "cryptography"}


@pytest.fixture
def fake_node(tmp_path: Path) -> Iterator[Path]:
    """The data folder of a running node that is only its operations."""
    command = [sys.executable, "-m", "tests.control.fake_node", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        wait_until_sync(lambda: socket_path(tmp_path).exists())
        yield tmp_path
    finally:
        process.kill()
        process.wait()


def test_init_makes_a_run_and_a_key(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    done = demo_node("init", "--datadir", folder, "--round-seconds", 3, "--seed", 7)
    assert done.returncode == 0, done.stderr
    manifest = decode_manifest((folder / "manifest.json").read_bytes())
    assert compute_run_id(manifest).hex() in done.stdout
    assert manifest.seed == 7
    assert manifest.schedule.round_ms == 3_000
    assert stat.S_IMODE((folder / "node.key").stat().st_mode) == 0o600
    assert (folder / "corpus" / f"{manifest.data.root}.bin").exists()


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    demo_node("init", "--datadir", tmp_path, "--seed", 7)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    again = demo_node("init", "--datadir", tmp_path, "--seed", 8)
    assert again.returncode == 78
    assert again.stderr.startswith("demo-node: ")
    assert again.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in before} == before


def test_init_keeps_the_key_of_a_node_that_joined_before(tmp_path: Path) -> None:
    demo_node("init", "--datadir", tmp_path)
    key = (tmp_path / "node.key").read_bytes()
    (tmp_path / "manifest.json").unlink()
    assert demo_node("init", "--datadir", tmp_path).returncode == 0
    assert (tmp_path / "node.key").read_bytes() == key


@pytest.mark.parametrize(
    "command", ["status", "peers", "rounds", "pause", "resume", "adopt", "ban", "unban"]
)
def test_without_a_node_there_is_one_line_and_exit_code_69(tmp_path: Path, command: str) -> None:
    peer = encode_peer_id(bytes(32))
    arguments = {"adopt": ["ab" * 32], "ban": [peer], "unban": [peer]}.get(command, [])
    done = demo_node(command, *arguments, "--datadir", tmp_path)
    assert done.returncode == 69
    assert done.stderr.startswith("demo-node: no node is running in")
    assert done.stderr.count("\n") == 1
    assert not done.stdout


def test_where_no_node_can_run_it_is_said_why(tmp_path: Path) -> None:
    nowhere = demo_node("status", "--datadir", tmp_path / "typo")
    assert f"{tmp_path / 'typo'}: there is no such folder" in nowhere.stderr
    without_run = demo_node("status", "--datadir", tmp_path)
    assert f"{tmp_path}, and no run is in there" in without_run.stderr
    (tmp_path / "manifest.json").touch()
    stopped = demo_node("status", "--datadir", tmp_path)
    assert f"{tmp_path}; start one with: demo-node start" in stopped.stderr
    assert [done.returncode for done in (nowhere, without_run, stopped)] == [69, 69, 69]


PRINTED = [("top",), ("status",), ("peers",), ("rounds", "--json"), ("top", "--json")]


@pytest.mark.parametrize("command", PRINTED, ids=" ".join)
@pytest.mark.parametrize("buffered", [True, False])
def test_a_full_disk_below_the_output_is_one_line(
    fake_node: Path, command: tuple[str, ...], buffered: bool
) -> None:
    with Path("/dev/full").open("wb") as full:
        done = _print_into(full.fileno(), fake_node, command, buffered=buffered)
    assert done.stderr == "demo-node: cannot write the output: No space left on device\n"
    assert done.returncode == 74


@pytest.mark.parametrize("command", PRINTED, ids=" ".join)
def test_a_reader_that_has_seen_enough_is_no_error(
    fake_node: Path, command: tuple[str, ...]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = _print_into(writer, fake_node, command, buffered=True)
    finally:
        os.close(writer)
    assert done.stderr == ""


def _print_into(
    output: int, datadir: Path, command: tuple[str, ...], *, buffered: bool
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *command, "--datadir", str(datadir)],
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env={**environment(), "PYTHONUNBUFFERED": "" if buffered else "1"},
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--frobnicate"], 2),
        (["status", "--jason"], 2),
        (["init", "--genesis", "soon"], 2),
        (["start", "--threads", "-1"], 2),
        (["adopt", "0123"], 2),
        (["adopt", "not a hash"], 2),
        (["start", "--peers", "nonsense"], 78),
        (["start", "--metrics-address", "9464"], 78),
    ],
)
def test_mistakes_have_their_exit_codes(tmp_path: Path, arguments: list[str], code: int) -> None:
    if arguments[0] in ("init", "start"):
        arguments = [*arguments, "--datadir", str(tmp_path)]
    done = demo_node(*arguments)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_status_is_shown_to_people_and_to_programs(fake_node: Path) -> None:
    text = demo_node("status", "--datadir", fake_node).stdout
    assert "active: in step" in text
    assert "warnings    trainer.died 2 times, last 40 s ago\n" in text
    assert "147,776" in text
    assert "4 members, 0 candidates" in text
    assert "demo-node start --peers /ip4/127.0.0.1/tcp/4001/p2p/12D3KooWFake" in text
    document = json.loads(demo_node("status", "--datadir", fake_node, "--json").stdout)
    assert document["schema"] == 1
    assert document["state"] == "active"
    assert document["run_id"] == "0f" * 32
    assert document["health"]["events"][0]["name"] == "trainer.died"
    assert document["health"]["disk_free_bytes"] == 40e9
    assert document["addresses"] == ["/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWFake"]


def test_a_status_reads_well_in_small_numbers() -> None:
    text = format_status(status_view(members=1, candidates=1, height=0, head_round=-1))
    assert "1 member, 1 candidate\n" in text
    assert "no record yet" in text
    assert "round -1" not in text
    assert "7 by the clock" in text
    assert "warnings" not in text
    assert "7 of 40 by the clock" in format_status(status_view(rounds_total=40))
    assert "loss 2.750 nats per byte after round 5\n" in text
    unseen = format_status(status_view(heldout_loss=math.nan, heldout_round=-1))
    assert "held-out    no loss yet\n" in unseen
    over = format_status(status_view(rounds_total=5, state=NodeState.FINISHED))
    assert "all 5 are over (3 s each)" in over


def test_a_status_says_whether_others_can_dial_and_what_to_do(fake_node: Path) -> None:
    shown = json.loads(demo_node("status", "--datadir", fake_node, "--json").stdout)["reach"]
    assert (shown["state"], shown["reached"], shown["asked"]) == ("private", 1, 3)
    text = format_status(status_view())
    assert (
        "reachable   private: others cannot dial this node (1 of 3 networks that tried): forward"
        " TCP port 4001 of your router to it; it still takes part through the 2 peers that it"
        " dialled\n"
    ) in text
    lonely = ReachView(state=Reachability.PRIVATE, asked=1, port=4001)
    assert "name a peer with --peers that it can dial" in format_status(status_view(reach=lonely))
    place = "/ip4/192.0.2.7/tcp/4001"
    relays = (f"{place}/p2p/one", f"{place}/p2p/other")
    relayed = ReachView(state=Reachability.RELAYED, addresses=relays, asked=2, port=4001)
    assert (
        f"relayed: others cannot dial this node (0 of 2 networks that tried), but {relays[0]} and"
        f" {relays[1]} bring members to it; to need no relay, forward TCP port 4001 of your router"
    ) in format_status(status_view(reach=relayed))
    public = ReachView(state=Reachability.PUBLIC, addresses=(place,), reached=2, asked=3)
    shown_text = format_status(status_view(reach=public))
    assert f"public: 2 of 3 networks that tried came through, at {place}\n" in shown_text
    unknown = ReachView(state=Reachability.UNKNOWN)
    assert "nobody has tried yet" in format_status(status_view(reach=unknown))


def test_peers_and_rounds_are_shown(fake_node: Path) -> None:
    assert "we dialled" in demo_node("peers", "--datadir", fake_node).stdout
    (peer,) = json.loads(demo_node("peers", "--datadir", fake_node, "--json").stdout)["peers"]
    assert peer["peer_id"].startswith("12D3KooW")
    table = demo_node("rounds", "--datadir", fake_node, "--limit", 2).stdout.splitlines()
    assert [line.split()[0] for line in table] == ["round", "5", "6"]
    rounds = json.loads(demo_node("rounds", "--datadir", fake_node, "--json").stdout)["rounds"]
    assert [view["round"] for view in rounds] == list(range(7))


def test_who_is_kept_out_is_shown_below_who_is_connected(fake_node: Path) -> None:
    connected, banned = demo_node("peers", "--datadir", fake_node).stdout.split("\n\n")
    assert connected.splitlines()[1].split()[-2:] == ["40", PEER.address]
    assert [line.split() for line in banned.splitlines()] == [
        ["banned", "for", "because"],
        [encode_peer_id(BAN.peer), "9", "min", "answer"],
        [HOUSEHOLD.address, "50", "s", "garbage"],
    ]
    document = json.loads(demo_node("peers", "--datadir", fake_node, "--json").stdout)
    assert [ban["left_s"] for ban in document["banned"]] == [540, 50]
    assert [ban["peer_id"] for ban in document["banned"]] == [encode_peer_id(BAN.peer), ""]
    assert document["banned"][0]["offence"] == "answer"
    assert document["peers"][0]["score"] == 40


def test_a_peer_is_banned_and_an_address_let_in_again(fake_node: Path) -> None:
    peer = encode_peer_id(BAN.peer)
    done = demo_node("ban", peer, "--hours", 3, "--datadir", fake_node)
    assert (done.returncode, done.stdout) == (0, "banned for 3 h\n")
    done = demo_node("unban", HOUSEHOLD.address, "--datadir", fake_node)
    assert (done.returncode, done.stdout) == (0, "nothing is held against it any more\n")
    done = demo_node("unban", "203.0.113.9", "--datadir", fake_node)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "demo-node: nothing is held against 203.0.113.9\n"
    done = demo_node("ban", "somebody", "--datadir", fake_node)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_pause_and_its_end_may_be_said_twice(fake_node: Path) -> None:
    for command, state in [("pause", "paused"), ("pause", "paused"), ("resume", "active")] * 2:
        done = demo_node(command, "--datadir", fake_node)
        assert (done.returncode, done.stdout.count("\n")) == (0, 1), done.stderr
        status = json.loads(demo_node("status", "--datadir", fake_node, "--json").stdout)
        assert status["state"] == state


def test_adopting_where_nothing_conflicts_is_refused_with_one_line(fake_node: Path) -> None:
    done = demo_node("adopt", "ab" * 4, "--datadir", fake_node)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "demo-node: no chain conflicts with what is final here: there is nothing to adopt\n"
    )


def test_where_an_anchor_is_read_is_a_key_of_the_status() -> None:
    anchor = next(option for option in start.params if option.name == "anchor")
    assert isinstance(anchor, click.Option)
    assert anchor.help is not None
    named = re.search(r"--json \((\w+) or (\w+)\)", anchor.help)
    assert named is not None
    assert set(named.groups()) <= describe_view(status_view()).keys()


def test_a_status_shows_what_is_final_and_what_conflicts_with_it() -> None:
    text = format_status(status_view())
    assert "final       nothing yet\n" in text
    assert "conflict" not in text
    final = {"final_record": b"\xfa" * 32, "final_round": 2, "final_height": 2}
    text = format_status(
        status_view(**final, rival_record=b"\xab" * 32, rival_peers=5, own_peers=1)
    )
    assert "final       record fafafafafafa of round 2, 4 before the head\n" in text
    assert (
        "conflict    5 peers on another chain, 1 on this one;"
        " to go there: demo-node adopt abababababababab\n"
    ) in text


def test_contributions_are_shown_by_peer(fake_node: Path) -> None:
    asked = ("rounds", "--datadir", fake_node, "--by-peer")
    (row,) = demo_node(*asked).stdout.splitlines()[1:]
    assert " you " in row
    (peer,) = json.loads(demo_node(*asked, "--json").stdout)["peers"]
    assert (peer["you"], peer["samples"], peer["share"]) == (True, 384, 0.25)
    header, line = demo_node(*asked, "--csv").stdout.splitlines()
    assert header.startswith("peer_id,you,standing,rounds,samples,share")
    assert line.startswith(f"{peer['peer_id']},yes,member,6,384,0.25,0,")
    assert demo_node("rounds", "--datadir", fake_node, "--csv").returncode == 2


def test_version_names_the_parts() -> None:
    document = json.loads(demo_node("version", "--json").stdout)
    assert document["schema"] == 1
    assert {"torch", "libp2p"} <= document["parts"].keys()
    assert "this torch is built for" in demo_node("version").stdout


@pytest.mark.parametrize(
    ("torch", "said"),
    [
        ("2.13.0+cpu", "for processors; for NVIDIA cards run: pip install --force-reinstall "),
        ("2.13.0+cu130", "for graphics cards (cu130); for processors alone run: pip install "),
        ("2.13.0+rocm6.4", "for graphics cards (rocm6.4); for processors alone run: "),
        ("2.13.0", "for what its publisher chose for this system; for NVIDIA cards run: "),
        ("absent", "torch is absent; for processors run: pip install torch --index-url "),
    ],
)
def test_version_says_what_torch_is_built_for_and_what_changes_it(torch: str, said: str) -> None:
    assert said in explain_build(torch)
    assert "torch==2.13.0 " in explain_build(torch) or torch == "absent"


def test_asking_is_cheap(fake_node: Path) -> None:
    for arguments in (["--help"], ["version"], ["status", "--datadir", fake_node]):
        imported = list_imported(*arguments)
        assert "demo_node.cli" in imported
        assert not imported & HEAVY, arguments


def test_help_loads_few_modules() -> None:
    """Loading them is all its time: 295 were found, in 0.24 to 0.36 s of a shared processor."""
    assert len(list_imported("--help")) < 350


@pytest.mark.parametrize(
    ("command", "folder", "option"),
    [
        ("top", "--datadir", "--interval"),
        ("init", "--datadir", "--round-seconds"),
        ("swarm", "--keep", "--round-seconds"),
        ("swarm", "--keep", "--kill-every"),
    ],
)
def test_no_range_takes_what_is_no_number(
    tmp_path: Path, command: str, folder: str, option: str
) -> None:
    done = demo_node(command, folder, tmp_path / "new", option, "nan")
    assert done.returncode == 2
    assert f"Invalid value for '{option}'" in done.stderr.splitlines()[-1]
