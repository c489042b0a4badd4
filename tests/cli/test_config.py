from pathlib import Path

import pytest

from demo_node.config import DEFAULT_LISTEN, Config, find_datadir, resolve_config, split_host_port
from demo_protocol.errors import ConfigError

PEER = "/ip4/192.0.2.7/tcp/4001/p2p/12D3KooWAbc"


def resolve(tmp_path: Path, toml: str = "", **flags: object) -> Config:
    (tmp_path / "config.toml").write_text(toml)
    return resolve_config({"datadir": tmp_path, **flags}, {})


def test_nothing_said_means_the_defaults(tmp_path: Path) -> None:
    config = resolve_config({"datadir": str(tmp_path), "rounds": None}, {})
    assert config == Config(datadir=tmp_path)
    assert config.listen == DEFAULT_LISTEN
    assert not config.named


def test_flags_beat_the_environment_beats_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('threads = 1\nrounds = 1\nlog_level = "debug"\n')
    environ = {"DEMO_NODE_THREADS": "2", "DEMO_NODE_ROUNDS": "2", "UNRELATED": "x"}
    config = resolve_config({"datadir": tmp_path, "threads": 3}, environ)
    assert (config.threads, config.rounds, config.log_level) == (3, 2, "debug")
    assert config.named == {"threads", "rounds", "log_level"}


def test_lists_come_from_all_sources(tmp_path: Path) -> None:
    assert resolve(tmp_path, f'peers = ["{PEER}"]').peers == (PEER,)
    assert resolve(tmp_path, peers=(PEER, PEER)).peers == (PEER, PEER)
    environ = {"DEMO_NODE_PEERS": f"{PEER}, {PEER}"}
    assert resolve_config({"datadir": tmp_path}, environ).peers == (PEER, PEER)


def test_an_unknown_key_is_an_error_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'pears'; did you mean 'peers'\?") as caught:
        resolve(tmp_path, "pears = []")
    assert caught.value.exit_code == 78
    with pytest.raises(ConfigError, match=r"unknown key 'qqq'$"):
        resolve(tmp_path, "qqq = 1")
    with pytest.raises(ConfigError, match="unknown key 'datadir'"):
        resolve(tmp_path, 'datadir = "/x"')


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("threads = ", "config.toml: Invalid value (at"),
        ("rounds = 1\nlog_level = info", "(at line 2, column 16); mend that line, to look like"),
        ("threads = -1", "config.toml: threads: -1 is not a whole number"),
        ('quiet_hours = "22-7"', "quiet_hours: '22-7' is no span of hours like 22:00-07:00"),
        ("metered = 2", "metered: 2 is neither true nor false"),
        ("threads = true", "threads: True is not a whole number"),
        ('listen = ["4001"]', "listen: '4001' is no address like"),
        ("listen = [4001]", "listen: 4001 is not text"),
        ("listen = 4001", "listen: 4001 is not a list"),
        ('announce = ["/ip4/192.0.2.7"]', "announce: '/ip4/192.0.2.7' is no address like /dns4/"),
        ('announce = ["/dns4/a/tcp/0"]', "announce: '/dns4/a/tcp/0' is no address like"),
        ('announce = ["/ip4/0.0.0.0/tcp/1"]', "'/ip4/0.0.0.0/tcp/1' is where to listen"),
        ('anchor = ""', "anchor: a record's hash has 64 hexadecimal digits"),
        ('run_id = "3f9c"', "run_id: a run id has 64 hexadecimal digits"),
        ('anchor = "3f9c"', "anchor: a record's hash has 64 hexadecimal digits"),
        ('role = "voter"', "role: 'voter' is none of member, archive"),
        ('metrics_address = "9464"', "metrics_address: '9464' is not HOST:PORT"),
        ('metrics_address = "[::1]:99999"', "is not HOST:PORT"),
        ('device = "tpu"', "device: 'tpu' is none of auto, cpu"),
        ('train = "perhaps"', "train: 'perhaps' is neither true nor false"),
        ('log_format = "xml"', "log_format: 'xml' is none of auto, console, json"),
    ],
)
def test_a_bad_value_names_its_key(tmp_path: Path, toml: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(tmp_path, toml)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "fault"),
    [
        ("192.0.2.7:4001", "is no address like /ip4/192.0.2.7/tcp/4001/p2p/12D3..."),
        ("/onion3/example:4001", "is no address like"),
        ("/ip4//tcp/4001/p2p/12D3KooWAbc", "has no host after /ip4/"),
        ("/ip4/192.0.2.7", "has no /tcp/<port>"),
        ("/ip4/192.0.2.7/p2p/12D3KooWAbc", "has no /tcp/<port>"),
        ("/ip4/192.0.2.7/udp/4001/p2p/12D3KooWAbc", "has /udp; only /tcp/<port> works"),
        ("/ip4/192.0.2.7/tcp", "has no port from 1 to 65535 after /tcp/"),
        ("/ip4/192.0.2.7/tcp/0/p2p/12D3KooWAbc", "has no port from 1 to 65535 after /tcp/"),
        ("/ip4/192.0.2.7/tcp/99999/p2p/12D3KooWAbc", "has no port from 1 to 65535 after /tcp/"),
        ("/ip4/192.0.2.7/tcp/4001", "has no /p2p/<peer id> at its end; copy the whole line"),
        ("/ip4/192.0.2.7/tcp/4001/p2p/", "has no /p2p/<peer id> at its end; copy the whole line"),
        (PEER + "/p2p-circuit", "is no address like"),
        ("x" * 1000, "is no address like"),
        ("/dnsaddr/", "is no address like"),
        ("/dnsaddr/run.example/tcp/1", "is no address like"),
    ],
)
def test_a_wrong_peer_address_is_told_what_is_wrong(
    tmp_path: Path, address: str, fault: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(tmp_path, peers=(address,))
    line = str(caught.value)
    assert line.startswith(f"--peers: '{address[:80]}")
    assert f"' {fault}" in line
    assert line.count(address[:80]) == 1
    assert len(line) < 150


def test_a_name_that_lists_peers_is_an_address(tmp_path: Path) -> None:
    for address in ("/dnsaddr/run.example", "/dnsaddr/run.example/p2p/12D3KooWAbc"):
        assert resolve(tmp_path, peers=(address,)).peers == (address,)


def test_a_node_may_send_fewer_coefficients_than_its_run_allows(tmp_path: Path) -> None:
    assert resolve(tmp_path).k == 0  # the run's
    assert resolve(tmp_path, "k = 8").k == 8
    assert resolve_config({"datadir": tmp_path}, {"DEMO_NODE_K": "9"}).k == 9
    for wrong in (0, 4097):
        with pytest.raises(
            ConfigError, match=rf"--k: {wrong} is not a whole number from 1 to 4096"
        ):
            resolve(tmp_path, k=wrong)


def test_a_bad_value_names_its_source(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^DEMO_NODE_THREADS: 'two' is not a whole number"):
        resolve_config({"datadir": tmp_path}, {"DEMO_NODE_THREADS": "two"})
    with pytest.raises(ConfigError, match=r"^--run-id: a run id has"):
        resolve(tmp_path, run_id="3f9c")


def test_the_data_folder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/volunteer")
    assert find_datadir(None, {}) == Path("/home/volunteer/.local/share/demo-node")
    assert find_datadir(None, {"XDG_DATA_HOME": "/x"}) == Path("/x/demo-node")
    assert find_datadir(None, {"DEMO_NODE_DATADIR": "/y"}) == Path("/y")
    assert find_datadir("~/z", {"DEMO_NODE_DATADIR": "/y"}) == Path("/home/volunteer/z")


def test_host_and_port_are_split() -> None:
    assert split_host_port("127.0.0.1:0") == ("127.0.0.1", 0)
    assert split_host_port("[::1]:9464") == ("::1", 9464)


def test_a_file_where_the_folder_should_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is not a folder") as caught:
        resolve_config({"datadir": tmp_path / "file"}, {})
    assert caught.value.exit_code == 73


def test_a_file_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"log_level = \xff")
    with pytest.raises(ConfigError, match=r"config\.toml: not text in UTF-8"):
        resolve_config({"datadir": tmp_path}, {})


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("", ""),
        ("http://localhost:4318", "http://localhost:4318/v1/traces"),
        ("https://otel.example.org/", "https://otel.example.org/v1/traces"),
        ("http://[::1]:4318/v1/traces", "http://[::1]:4318/v1/traces"),
        ("http://10.0.0.1/a/tempo", "http://10.0.0.1/a/tempo"),
        ("http://a:65535", "http://a:65535/v1/traces"),
    ],
)
def test_where_traces_go(tmp_path: Path, given: str, used: str) -> None:
    assert resolve(tmp_path, trace_endpoint=given).trace_endpoint == used


@pytest.mark.parametrize(
    "given",
    [
        "localhost:4318",
        "ftp://a",
        "http://",
        "http://me:secret@host",
        "http://a?token=b",
        "http://a:99999",
        "http://a:65536/v1/traces",
        "http://[::1]:0",
    ],
)
def test_an_endpoint_that_is_none_is_refused(tmp_path: Path, given: str) -> None:
    with pytest.raises(ConfigError, match=r"--trace-endpoint: .* is no address like"):
        resolve(tmp_path, trace_endpoint=given)


@pytest.mark.parametrize(
    "given",
    [
        "http://me:hunter2@collector:4318",
        "https://hunter2@collector/v1/traces",
        "https://collector/v1/traces?token=hunter2",
        "https://collector/v1/traces#hunter2",
    ],
)
def test_a_password_in_an_endpoint_is_not_repeated(tmp_path: Path, given: str) -> None:
    with pytest.raises(ConfigError, match=r"--trace-endpoint: .* is no address like") as refused:
        resolve(tmp_path, trace_endpoint=given)
    assert "hunter2" not in str(refused.value)
