"""No key and no payload in a line, whatever is handed to the log."""

import base64
import io
import random
from collections.abc import Callable

import pytest

from demo_node.mesh.peer_id import encode_peer_id
from demo_node.observe.log import open_log
from demo_node.observe.observers import LogObserver
from demo_node.observe.redact import HASHES, TEXT_MAX, cut_secrets, redact

SECRETS = [random.Random(seed).randbytes(32 + 13 * (seed % 9)) for seed in range(200)]
"""Keys (32 bytes) and payloads: random bytes all look alike."""

WAYS: dict[str, Callable[[bytes], object]] = {
    "bytes": lambda raw: raw,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "number": lambda raw: int.from_bytes(raw, "big"),
    "repr": repr,
    "bare repr": lambda raw: repr(raw)[2:-1],
    "hex": bytes.hex,
    "upper hex": lambda raw: raw.hex().upper(),
    "base64": lambda raw: base64.b64encode(raw).decode(),
    "base64 for URLs": lambda raw: base64.urlsafe_b64encode(raw).decode(),
    "an error": lambda raw: ValueError(f"cannot take {raw!r} here"),
    "an error with hex": lambda raw: ValueError(f"{raw.hex()} is no header"),
    "a list": lambda raw: [1, raw],
    "a dictionary": lambda raw: {"key": raw.hex(), raw: 1},
}


def spell(raw: bytes) -> list[str]:
    """Each 16 bytes of `raw` in the ways they could stand in a line, but for hex."""
    parts = [repr(raw[i : i + 16])[2:-1] for i in range(len(raw) - 15)]
    parts += [part.replace("\\", "\\\\") for part in parts]  # as JSON has it
    # Base64 takes three bytes at a time: what begins within three looks otherwise.
    wholes = [base64.b64encode(raw[first:]).decode().rstrip("=") for first in range(3)]
    wholes += [whole.replace("+", "-").replace("/", "_") for whole in wholes]
    return parts + [whole[i : i + 22] for whole in wholes for i in range(len(whole) - 21)]


def spell_hex(raw: bytes) -> list[str]:
    return [raw[i : i + 16].hex() for i in range(len(raw) - 15)]


@pytest.mark.usefixtures("libraries_log_as_before")
@pytest.mark.parametrize("format_", ["json", "console"])
@pytest.mark.parametrize("way", WAYS)
def test_a_secret_never_comes_into_a_line(way: str, format_: str) -> None:
    out = io.StringIO()
    observer = LogObserver(open_log(format_, "debug", out))
    for number, raw in enumerate(SECRETS):
        value = WAYS[way](raw)
        observer.on_event("progress.made", detail=value, number=number)
        observer.on_event("progress.made", detail=f"a peer said {value!s}, which is wrong")
    lines = out.getvalue().splitlines()
    assert len(lines) == 2 * len(SECRETS)
    for number, raw in enumerate(SECRETS):
        text = "".join(lines[2 * number : 2 * number + 2])
        assert not [part for part in spell(raw) if part in text], text
        assert not [part for part in spell_hex(raw) if part in text.lower()], text
        assert str(int.from_bytes(raw, "big")) not in text
        assert f"number={number}" in text or f'"number": {number}' in text


@pytest.mark.parametrize("name", sorted(HASHES))
def test_what_is_public_is_kept(name: str) -> None:
    public = {name: random.Random(name).randbytes(32).hex()}
    assert redact(None, "", dict(public)) == public
    secret = {name: base64.b64encode(random.Random(name).randbytes(32)).decode()}
    assert redact(None, "", dict(secret)) != secret, "no hash is written so"


TEXTS = [
    *(f"dialling /ip4/192.0.2.7/tcp/4001/p2p/{encode_peer_id(raw[:32])}" for raw in SECRETS[:20]),
    "/home/anna/.local/share/demo-node/snapshots/1200-3f9c0a1b2c3d4e5f.safetensors",
    "/Users/Anna/Library/Application-Support/DemoNode2/run3/chain.log.damaged",
    "/tmp/pytest-of-root/pytest-12/test_a_node_that_is_killed0/n3/run/control.sock",
    "/var/folders/zz/zyxvpxvq6csfxvn_n0000000000000/T/tmpab3k9_x2/datadir/node.key",
    "http://127.0.0.1:9464/metrics",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate_v2(handle) at Context.cpp:42",
    "digest 3f9c0a1b2c3d4e5f of record 0123456789abcdef; 16777216 samples, 1.5e-3, 2026-11-21",
    "training.keeps_diverging StatusCode.UNAVAILABLE HTTPConnectionPool(host='localhost', port=1)",
]


@pytest.mark.parametrize("text", TEXTS)
def test_what_people_need_to_read_is_kept(text: str) -> None:
    assert cut_secrets(text) == text


FOLDERS = ["/srv/GPU1", "/data/Run_2026-11-21_A1", "/tmp/x/nodeC", "/srv/GPU1/HDD2/Lab_3B/2026Q4"]
FOLDERS += ["/Users/Anna/Lab_3B/2026Q4", "/home/a/V100_x4/RTX4090", "/var/Job-3f9c0a1b-2c3d-4e5f"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_where_a_snapshot_lies_is_kept(folder: str) -> None:
    draw = random.Random(folder)
    for round_ in range(5_000):
        path = f"{folder}/snapshots/{round_}-{draw.randbytes(8).hex()}.safetensors"
        line = {"path": path, "reason": f"[Errno 28] No space left on device: '{path}'"}
        assert redact(None, "", dict(line)) == line


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_a_secret_beside_a_path_is_cut_out(encode: Callable[[bytes], bytes]) -> None:
    for raw in SECRETS:
        text = f"/srv/GPU1/Run_2026-11-21_A1/{encode(raw).decode()}/1200-3f9c0a1b2c3d4e5f.key"
        cut = cut_secrets(text)
        assert not [part for part in spell(raw) if part in cut], cut


def test_bytes_that_can_be_read_are_cut_out_too() -> None:
    for raw in (b"correct horse battery staple", b'it\'s "quoted"', b""):
        assert (
            cut_secrets(f"got {raw!r}, {bytearray(raw)!r}.") == "got <bytes>, bytearray(<bytes>)."
        )
    assert cut_secrets("bad key b'correct horse") == "bad key <bytes>", "cut off, it has no end"


def test_no_value_is_long() -> None:
    line = redact(None, "", {"event": "a b " * 9_999, "reason": ["x y"] * 9_999, "count": 3})
    assert all(len(str(value)) <= TEXT_MAX + 1 for value in line.values())
    assert line["count"] == 3


def test_json_has_no_nan() -> None:
    assert redact(None, "", {"loss": float("nan"), "ratio": 0.5}) == {"loss": None, "ratio": 0.5}
