import io
import json
import math
import os
import re
import socket
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console
from rich.live import Live
from safetensors.numpy import save_file

from demo_node.cli.quantile import compute_quantile
from demo_node.cli.swarm import command
from demo_node.cli.swarm.agreeing import Heal
from demo_node.cli.swarm.inflicting import Suffered
from demo_node.cli.swarm.links import find_links, parse_port
from demo_node.cli.swarm.live import SwarmView
from demo_node.cli.swarm.measure import (
    FileState,
    NodeReport,
    SwarmReport,
    compute_report,
    compute_train_share,
    read_state,
)
from demo_node.cli.swarm.node import SwarmFailed
from demo_node.cli.swarm.outcomes import compute_outcomes
from demo_node.cli.swarm.report import format_document, format_sentence, print_report
from demo_node.sim.scenario import Do
from demo_node.views import Outcome, RoundView
from demo_protocol.digest import compute_digest
from tests.control.fake_node import round_view, status_view

KEYS = [
    "schema",
    "nodes",
    "rounds",
    "rounds_completed",
    "digests_equal",
    "loss_first",
    "loss_last",
    "participants_median",
    "payload_bytes_per_parameter",
    "bytes_sent_per_node_per_round",
    "round_latency_p50_s",
    "round_latency_p95_s",
    "exchange_p95_s",
    "train_share",
    "pids",
    "links",
    "kills",
    "joins",
    "stalls",
    "replayed_rounds",
    "faults",
    "scenario",
    "nodes_started",
    "leaves",
    "cuts",
    "heals",
    "held",
    "rollbacks",
]


EVERY_KIND = [
    Suffered(Do.KILL, 1, 2, back_s=9.5),
    Suffered(Do.TRAINER_DIES, 2, 4, back_s=0.6),
    Suffered(Do.STOP, 0, 6, back_s=2.0),
]


def report(
    digests: tuple[bytes, ...] = (b"\x3f\x9c",) * 4,
    loss_last: float = 2.5,
    suffered: Sequence[Suffered] = (),
    replayed: int = 0,
    records: int = 9,
) -> SwarmReport:
    rounds = [round_view(r) for r in range(9)]
    rounds.append(round_view(9, outcome=Outcome.SKIPPED, record=b"", participants=0, latency_ms=0))
    nodes = [
        NodeReport(
            pid=100 + index,
            state=FileState(digest, 147_776),
            text=b"import os\x1b[31m\n",
            rounds=rounds,
            bytes_sent=310_000,
            replayed=replayed,
            joins=int(bool(suffered) and index == 1),
        )
        for index, digest in enumerate(digests)
    ]
    return compute_report(
        nodes,
        rounds=10,
        loss_first=5.5,
        loss_last=loss_last,
        links=[(101, 100)],
        status=status_view(height=records),
        suffered=suffered,
    )


def test_the_document_has_the_keys_of_the_issue() -> None:
    line = format_document(report())
    assert "\n" not in line
    document = json.loads(line)
    assert list(document) == KEYS
    assert document["rounds"] == 10
    assert document["rounds_completed"] == 9
    assert document["digests_equal"] is True
    assert document["bytes_sent_per_node_per_round"] == 31_000
    assert document["payload_bytes_per_parameter"] == pytest.approx(8_192 / 147_776)
    assert document["round_latency_p50_s"] == 2.6
    assert document["links"] == [[101, 100]]


def test_a_swarm_that_agreed_and_learned_has_no_faults() -> None:
    assert report().find_faults() == []
    assert format_sentence(report()) == (
        "4 of 4 nodes hold the same 147,776 parameters after 10 rounds (digest 3f9c)"
    )


def test_faults_are_named() -> None:
    (split,) = report(digests=(b"\1", b"\2", b"\2", b"\2")).find_faults()
    assert "different parameters" in split
    assert "3 of 4 nodes" in format_sentence(report(digests=(b"\1", b"\2", b"\2", b"\2")))
    (stuck,) = report(loss_last=5.5).find_faults()
    assert "did not fall" in stuck
    assert report(loss_last=math.nan).find_faults()


def test_a_swarm_that_survived_its_faults_has_none_itself() -> None:
    hurt = report(suffered=EVERY_KIND, replayed=3, records=8)
    assert hurt.find_faults() == []
    document = json.loads(format_document(hurt))
    assert (document["kills"], document["stalls"], document["joins"]) == (2, 1, 1)
    assert document["replayed_rounds"] == 12
    assert document["faults"][0] == {
        "round": 2,
        "node": 1,
        "kind": "kill",
        "back_s": 9.5,
        "rounds_lost": 0,
        "rounds_without_record": 0,
    }


def test_damage_that_faults_should_not_do_is_named() -> None:
    (few,) = report(suffered=EVERY_KIND, replayed=3, records=7).find_faults()
    assert few == "only 7 of 10 rounds got a record"
    (idle,) = report(suffered=EVERY_KIND, replayed=0).find_faults()
    assert "none has replayed" in idle
    assert report(suffered=EVERY_KIND[1:], replayed=0).find_faults() == []
    gone = [*EVERY_KIND, Suffered(Do.TRAINER_DIES, 3, 7)]
    (lost,) = report(suffered=gone, replayed=3).find_faults()
    assert lost == "node 3 never got another trainer after round 7"
    away = [Suffered(Do.KILL, 3, 7)]
    assert report(suffered=away, replayed=0).find_faults() == []  # it never came back
    assert report(records=7).find_faults() == []  # without faults a slow machine is no failure


def test_a_scenario_is_judged_by_whether_its_nodes_agreed_soon_after_each_heal() -> None:
    cut = [Suffered(Do.CUT, None, 3, back_s=9.0)]
    heals = [Heal(6, agreed_s=11.9), Heal(9, agreed_s=12.1), Heal(12)]
    hurt = replace(report(suffered=cut, records=3), records_wanted=0.0, agree_within_s=12.0)
    assert hurt.find_faults() == []
    assert replace(hurt, heals=heals).find_faults() == [
        "the nodes did not agree within 12 s of the heal in round 9",
        "the nodes did not agree within 12 s of the heal in round 12",
    ]
    document = json.loads(format_document(replace(hurt, heals=heals, scenario="cut")))
    assert (document["scenario"], document["cuts"]) == ("cut", 1)
    assert document["heals"][::2] == [
        {"round": 6, "agreed_s": 11.9},
        {"round": 12, "agreed_s": None},
    ]
    out = io.StringIO()
    print_report(replace(hurt, heals=heals), Console(file=out, width=200))
    assert "1; healed after 9.0 s" in out.getvalue()
    assert "all nodes on one record 11.9 s later" in out.getvalue()
    assert "all nodes on one record never" in out.getvalue()


def test_new_nodes_and_those_that_came_back_have_joined() -> None:
    came = [*EVERY_KIND, Suffered(Do.JOIN, 4, 5, back_s=14.0), Suffered(Do.JOIN, 5, 8)]
    everybody: list[list[RoundView]] = [[] for _ in range(6)]
    joined = replace(report(replayed=1), outcomes=compute_outcomes(came, everybody, 10), started=6)
    assert joined.joins == 1
    assert json.loads(format_document(joined))["nodes_started"] == 6


def test_a_swarm_that_does_not_end_cleanly_has_failed() -> None:
    (unclean,) = replace(report(), unclean=[2]).find_faults()
    assert "nodes 2" in unclean
    (left,) = replace(report(), left_behind=[77, 78]).find_faults()
    assert left == "processes were left behind: 77, 78"


def test_the_table_shows_what_faults_cost_only_where_there_were_any() -> None:
    calm, hurt = io.StringIO(), io.StringIO()
    print_report(report(), Console(file=calm, width=200))
    print_report(report(suffered=EVERY_KIND, replayed=3), Console(file=hurt, width=200))
    assert "killed" not in calm.getvalue()
    assert "took part again after 9.5 s (median)" in hurt.getvalue()
    assert "another one after 0.6 s (median), 0.6 s (most)" in hurt.getvalue()
    assert "12 by killed nodes, 1 of which came back" in hurt.getvalue()
    unkilled = io.StringIO()
    print_report(report(suffered=EVERY_KIND[1:]), Console(file=unkilled, width=200))
    assert "nodes stopped" in unkilled.getvalue()
    assert "replayed" not in unkilled.getvalue()


def test_a_swarm_without_records_still_has_a_document() -> None:
    node = NodeReport(pid=1, state=FileState(b"", 1), text=b"", rounds=[], bytes_sent=0)
    empty = compute_report(
        [node], rounds=1, loss_first=5.5, loss_last=5.5, links=[], status=status_view(height=0)
    )
    document = json.loads(format_document(empty))
    assert document["rounds_completed"] == 0
    assert document["round_latency_p50_s"] is None


def test_the_report_is_printed_without_control_characters() -> None:
    out = io.StringIO()
    print_report(report(), Console(file=out, width=100))
    text = out.getvalue()
    assert "import os" in text
    assert "\x1b" not in text
    assert "9 in 10 rounds" in text
    assert "the same from all 4 nodes" in text


def test_the_train_share_counts_from_genesis_to_the_last_record() -> None:
    rounds = [round_view(0), round_view(1), round_view(2, record=b"")]
    assert compute_train_share(rounds, 3_000) == pytest.approx(3_000 / (3_000 + 2_600))
    assert compute_train_share([], 3_000) == 0


def test_a_victim_is_shown_as_what_it_is_and_its_faults_one_per_line() -> None:
    out = io.StringIO()
    console = Console(file=out, width=200)
    view = SwarmView(console, None)
    view.tell("round 3: node 1 killed (SIGKILL), back in 3 s")
    assert out.getvalue() == "round 3: node 1 killed (SIGKILL), back in 3 s\n"
    live = io.StringIO()
    with Live(console=Console(file=live, width=200), auto_refresh=False) as table:
        SwarmView(console, table).show([status_view(), None, None], ["", "killed", ""])
    assert "killed" in live.getvalue()
    assert "starting" in live.getvalue()


def test_a_view_says_how_to_look_closer() -> None:
    out = io.StringIO()
    SwarmView(Console(file=out, width=40), None).start(4, Path("/data/[1]"))
    assert out.getvalue() == (
        "starting 4 nodes; logs in /data/[1]/node*/node.log;"
        " to look closer: demo-node top --datadir /data/[1]/node0\n"
    )
    shown = io.StringIO()
    console = Console(file=shown, width=100, height=30, force_terminal=True, color_system=None)
    with Live(console=console, auto_refresh=False) as live:
        view = SwarmView(console, live)
        view.start(4, Path("/data/[1]"))
        view.show([status_view(), None])
    assert "to look closer: demo-node top --datadir /data/[1]/node0" in shown.getvalue()


def test_the_table_below_a_long_event_is_not_wider_than_the_terminal() -> None:
    """Else the terminal wraps it, and some of its lines stay when it is drawn again."""
    shown = io.StringIO()
    console = Console(file=shown, width=60, height=30, force_terminal=True, color_system=None)
    with Live(console=console, auto_refresh=False) as live:
        view = SwarmView(console, live)
        view.start(4, Path("/a/rather/long/path/to/a/folder/of/folders/of/swarms"))
        view.show([status_view(), None])
        before = len(shown.getvalue())
        view.tell("round 3: node 1 killed (SIGKILL), " * 4)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.getvalue()[before:])
    lines = re.split(r"[\r\n]", plain)
    assert any("┏" in line for line in lines)
    assert max(len(line.rstrip()) for line in lines) <= 60


def _fail(*_: object) -> SwarmReport:
    raise SwarmFailed("node 1 ended with exit code -9")


def _interrupt(*_: object) -> SwarmReport:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("end", "left"), [(_fail, 1), (_interrupt, 0)])
def test_a_failed_swarm_leaves_its_logs_and_says_where(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    end: Callable[..., SwarmReport],
    left: int,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(command, "_run", end)
    result = CliRunner().invoke(command.swarm, [])
    kept = list(tmp_path.glob("demo-swarm-*"))
    assert len(kept) == left
    assert result.exit_code == (1 if left else 130)
    for folder in kept:
        assert f"all logs are in {folder};" in result.output


def test_quantiles() -> None:
    values = [float(n) for n in range(1, 21)]
    assert compute_quantile(values, 0.5) == 10
    assert compute_quantile(values, 0.95) == 19
    assert compute_quantile([7.0], 0.95) == 7
    assert math.isnan(compute_quantile([], 0.5))


def test_a_snapshot_file_is_hashed_from_its_bytes(tmp_path: Path) -> None:
    tensors = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(4, np.float32)}
    path = tmp_path / "s.safetensors"
    save_file(tensors, path)
    state = read_state(path)
    assert state == FileState(compute_digest(tensors), 10)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert read_state(path).digest != state.digest


def test_links_come_from_the_kernel() -> None:
    """Our own process dials itself under two names: a listener 'pid' that only has the port."""
    with socket.socket() as listener, socket.socket() as dialler:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        dialler.connect(listener.getsockname())
        port = listener.getsockname()[1]
        other = os.getppid()
        assert find_links({os.getpid(): 1, other: port}) == [(os.getpid(), other)]
    assert find_links({os.getpid(): 1, other: port}) == []


def test_the_port_of_an_address() -> None:
    assert parse_port("/ip4/127.0.0.1/tcp/4001/p2p/12D3") == 4001
    with pytest.raises(ValueError, match="no TCP port"):
        parse_port("/ip4/127.0.0.1/udp/4001")


def test_without_a_terminal_each_round_is_one_line() -> None:
    out = io.StringIO()
    view = SwarmView(Console(file=out, width=200), None)
    view.begin(3)
    for round_ in (-2, 0, 0, 1, 1, 2, 3, 4):
        view.show([status_view(round=round_), None])
    lines = out.getvalue().splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["0/3", "1/3", "2/3", "3/3"]
