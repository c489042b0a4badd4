"""What an operator got wrong: one clear line on stderr, the documented exit code, no traceback."""

import contextlib
import re
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from demo_node.config import DEFAULT_LISTEN, DEFAULT_METRICS_ADDRESS, split_host_port
from demo_node.mesh.addresses import split_address
from demo_node.views import NodeState
from demo_protocol.manifest import decode_manifest, encode_manifest
from tests.cli.command import demo_node
from tests.e2e.nodes import LOCAL, make_run, started

pytestmark = [pytest.mark.swarm, pytest.mark.slow]

SOMEBODY = "12D3KooWLVpKcDpwAhihM1FTddC8TdnZhVykYN8NRHzW7beYoCCB"
"""A peer id that is well formed; nobody has its key."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a command ended that could not work."""

    exit_code: int
    line: str
    log: str


def refuse(*arguments: object) -> Refusal:
    """Run a command that ends by itself; there must be one line for the operator, the last one."""
    done = demo_node(*arguments, timeout_s=100)
    *log, line = done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    assert "demo-node start --peers" not in done.stdout
    assert line.startswith("demo-node: "), done.stderr
    assert not [other for other in log if other.startswith("demo-node: ")]
    return Refusal(done.returncode, line, "\n".join(log))


def start(datadir: Path, *flags: object) -> Refusal:
    """`demo-node start` that refuses."""
    return refuse("start", "--datadir", datadir, "--log-format", "json", *(flags or LOCAL))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a run that nobody started yet."""
    folder = tmp_path_factory.mktemp("refusals") / "node"
    make_run(folder)
    return folder


def test_a_node_that_a_run_does_not_list(tmp_path: Path) -> None:
    opened, stranger = tmp_path / "opened", tmp_path / "stranger"
    made = demo_node("init", "--datadir", opened, "--admission", "allowlist", "--allow", SOMEBODY)
    assert made.returncode == 0, made.stderr
    manifest = opened / "manifest.json"
    assert manifest.exists()
    refused = start(stranger, *LOCAL, "--manifest", manifest)
    assert refused.exit_code == 77
    assert "takes only nodes that it lists" in refused.line
    shown = demo_node("key", "show", "--datadir", stranger)
    assert shown.stdout.split()[2] in refused.line


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port of this machine that somebody else listens on."""
    with listening("127.0.0.1", 0) as port:
        yield port


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[int]:
    """Somebody listens there: we, unless another process already does."""
    with socket.socket() as taken:
        with contextlib.suppress(OSError):
            taken.bind((host, port))
            taken.listen()
        yield port or taken.getsockname()[1]


def test_an_empty_folder_needs_peers(tmp_path: Path) -> None:
    refusal = start(tmp_path / "node")
    assert refusal.exit_code == 78
    assert "holds no run; make one with demo-node init" in refusal.line
    assert not (tmp_path / "node").exists(), "nothing is left behind"


def test_a_manifest_that_is_not_there_is_named(tmp_path: Path) -> None:
    refusal = start(tmp_path / "node", *LOCAL, "--manifest", tmp_path / "m.json")
    assert refusal.exit_code == 78
    assert f"--manifest {tmp_path / 'm.json'}: there is no such file" in refusal.line
    assert not (tmp_path / "node").exists(), "nothing is left behind"


@pytest.mark.parametrize(
    "address",
    [
        f"/ip4/127.0.0.1/tcp/1/p2p/{SOMEBODY[:-1]}",
        "/ip4/127.0.0.1/tcp/1/p2p/QmFoo",
        f"/ip4/999.0.0.1/tcp/1/p2p/{SOMEBODY}",
        "nonsense",
    ],
)
def test_a_peer_that_cannot_exist_is_refused_for_good(tmp_path: Path, address: str) -> None:
    refusal = start(tmp_path, "--peers", address, *LOCAL)
    assert refusal.exit_code == 78
    assert address in refusal.line


def test_a_peer_that_does_not_answer_may_do_so_later(tmp_path: Path) -> None:
    refusal = start(tmp_path, "--peers", f"/ip4/127.0.0.1/tcp/1/p2p/{SOMEBODY}", *LOCAL)
    assert refusal.exit_code == 75
    assert "no peer of --peers gave a manifest" in refusal.line


def test_a_folder_of_another_run_is_refused(run_folder: Path) -> None:
    refusal = start(run_folder, "--run-id", "0" * 64, *LOCAL)
    assert refusal.exit_code == 76
    assert "not 0000000000000000; choose another --datadir" in refusal.line


def test_a_k_beyond_the_runs_is_refused(run_folder: Path) -> None:
    run = decode_manifest((run_folder / "manifest.json").read_bytes())
    refusal = start(run_folder, "--k", run.learning.k + 1, *LOCAL)
    assert refusal.exit_code == 78
    assert refusal.line == (
        f"demo-node: k {run.learning.k + 1} is more than run {run.name!r} allows;"
        f" choose 1 to {run.learning.k}, or leave it out"
    )


def test_a_dht_on_a_mesh_that_has_its_own_is_refused(run_folder: Path) -> None:
    refusal = start(run_folder, *LOCAL, "--kad", "--mesh", "hivemind")
    assert refusal.exit_code == 78
    assert "--kad needs --mesh libp2p" in refusal.line


def test_a_named_mesh_port_in_use_is_an_error(run_folder: Path, taken_port: int) -> None:
    listen = f"/ip4/127.0.0.1/tcp/{taken_port}"
    refusal = start(run_folder, "--listen", listen, "--metrics-address", "127.0.0.1:0")
    assert refusal.exit_code == 78
    assert f"port {taken_port} of 127.0.0.1" in refusal.line
    assert "port.replaced" not in refusal.log


def test_a_named_metrics_port_in_use_is_an_error(run_folder: Path, taken_port: int) -> None:
    address = f"127.0.0.1:{taken_port}"
    refusal = start(run_folder, *LOCAL[:2], "--metrics-address", address)
    assert refusal.exit_code == 78
    assert f"cannot serve metrics on {address}: the port is in use; name another" in refusal.line
    assert len(refusal.line) < 150
    assert "port.replaced" not in refusal.log


def test_ports_that_were_not_named_fall_back_and_say_so(tmp_path: Path) -> None:
    _where, mesh_port = split_address(DEFAULT_LISTEN[0])
    host, metrics_port = split_host_port(DEFAULT_METRICS_ADDRESS)
    with listening("0.0.0.0", mesh_port), listening(host, metrics_port):
        nobody = f"/ip4/127.0.0.1/tcp/1/p2p/{SOMEBODY}"
        refusal = start(tmp_path, "--log-level", "info", "--peers", nobody)
    assert "no peer of --peers" in refusal.line, "it came as far as that"
    replaced = [line for line in refusal.log.splitlines() if "port.replaced" in line]
    assert len(replaced) == 2
    assert DEFAULT_LISTEN[0] in replaced[0]
    assert DEFAULT_METRICS_ADDRESS in replaced[1]


def test_a_device_that_is_not_there_is_refused_before_anything_is_joined(tmp_path: Path) -> None:
    nobody = f"/ip4/127.0.0.1/tcp/1/p2p/{SOMEBODY}"
    refusal = start(tmp_path, *LOCAL, "--device", "cuda:99", "--peers", nobody)
    assert refusal.exit_code == 78
    assert refusal.line == "demo-node: device 'cuda:99' is not available here: use auto or cpu"
    assert "connecting" not in refusal.log


def test_a_model_that_cannot_fit_is_refused_with_the_numbers(
    tmp_path: Path, run_folder: Path
) -> None:
    run = decode_manifest((run_folder / "manifest.json").read_bytes())
    giant = replace(run, model=replace(run.model, layers=256, width=65_536, hidden=65_536))
    manifest = tmp_path / "giant.json"
    manifest.write_bytes(encode_manifest(giant))
    refusal = start(tmp_path / "node", *LOCAL, "--manifest", manifest)
    assert refusal.exit_code == 78
    assert re.match(
        r"demo-node: this model needs about \d+\.\d GB for 8 states of [\d,]+ parameters and the"
        r" training of one; this \w.* has \d.* free: use a larger machine",
        refusal.line,
    ), refusal.line


def break_key(folder: Path) -> None:
    (folder / "node.key").chmod(0o640)


def misspell_key(folder: Path) -> None:
    (folder / "config.toml").write_text('log_levle = "info"\n')


def break_toml(folder: Path) -> None:
    (folder / "config.toml").write_text("threads = \n")


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (break_key, 77, "other users can read the key; run: chmod 600"),
        (misspell_key, 78, "unknown key 'log_levle'; did you mean 'log_level'?"),
        (break_toml, 78, "config.toml: Invalid value (at line 1"),
    ],
)
def test_a_spoiled_folder_is_named(
    tmp_path: Path, spoil: Callable[[Path], None], code: int, words: str
) -> None:
    make_run(tmp_path)
    spoil(tmp_path)
    refusal = start(tmp_path)
    assert refusal.exit_code == code
    assert words in refusal.line
    assert str(tmp_path) in refusal.line


def test_a_second_init_refuses(run_folder: Path) -> None:
    before = (run_folder / "manifest.json").read_bytes()
    refusal = refuse("init", "--datadir", run_folder)
    assert refusal.exit_code == 78
    assert "this folder has a run; start it with demo-node start" in refusal.line
    assert (run_folder / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("command", ["status", "peers", "rounds", "top"])
def test_who_asks_a_node_that_does_not_run_is_told(run_folder: Path, command: str) -> None:
    refusal = refuse(command, "--datadir", run_folder, "--json")
    assert refusal.exit_code == 69
    assert f"no node is running in {run_folder}" in refusal.line


def test_a_node_that_still_waits_leaves_at_the_first_signal(tmp_path: Path) -> None:
    with started(tmp_path / "node", "start", "--wait-manifest") as node:
        node.wait_for_status(lambda status: status.state is NodeState.WAITING)
        node.signal(signal.SIGINT)
        assert node.wait() == 0
        assert "Traceback" not in node.stderr
