"""What this operator chose for this node. Flags > environment > config.toml > default.

The three sources use the same keys: `--metrics-address`, `DEMO_NODE_METRICS_ADDRESS` and
`metrics_address = "..."`. What all peers of a run must share is in the manifest, not here.
"""

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from demo_node.quiet_hours import parse_quiet_hours
from demo_protocol.errors import ConfigError
from demo_protocol.limits import K_MAX

ENV_PREFIX: Final = "DEMO_NODE_"

CONFIG_FILE: Final = "config.toml"
"""In the data folder; absent means empty."""

DEFAULT_LISTEN: Final = ("/ip4/0.0.0.0/tcp/4001",)
DEFAULT_METRICS_ADDRESS: Final = "127.0.0.1:9464"
DEFAULT_TRACE_EVERY: Final = 10

ANNOUNCE_EXAMPLE: Final = "/dns4/node.example.org/tcp/4001"
PEER_EXAMPLE: Final = "/ip4/192.0.2.7/tcp/4001/p2p/12D3..."
TRACE_EXAMPLE: Final = "http://localhost:4318"
SHOWN_MAX: Final = 80
"""Characters of a wrong address that an error repeats: enough to tell which one it is."""

LOG_FORMATS: Final = ("auto", "console", "json")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")


ROLES: Final = ("member", "archive")
"""A member trains, votes and proposes; an archive keeps everything and serves it."""

MESHES: Final = ("libp2p", "hivemind")
"""py-libp2p in the node's own process; Go libp2p by hivemind's p2pd, in processes beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One node's settings. `named` has the keys the operator set, wherever that was.

    A port that was not named may fall back to a free one; a named port in use is an error.
    """

    datadir: Path
    peers: tuple[str, ...] = ()
    listen: tuple[str, ...] = DEFAULT_LISTEN
    announce: tuple[str, ...] = ()
    psk_file: Path | None = None
    mdns: bool = True
    kad: bool = False
    run_id: str = ""
    anchor: str = ""
    role: str = ROLES[0]
    mesh: str = MESHES[0]
    relay: bool = False
    manifest: Path | None = None
    wait_manifest: bool = False
    metrics_address: str = DEFAULT_METRICS_ADDRESS
    device: str = "auto"
    threads: int = 0
    nice: int = 10
    train_percent: int = 100
    gpu_memory_mb: int = 0
    disk_budget_mb: int = 0
    upload_kbit_s: int = 0
    download_kbit_s: int = 0
    metered: bool = False
    quiet_hours: str = ""
    quiet_upload_kbit_s: int = 0
    quiet_download_kbit_s: int = 0
    k: int = 0
    rounds: int = 0
    evaluate_every: int = 10
    train: bool = True
    trace_endpoint: str = ""
    trace_every: int = DEFAULT_TRACE_EVERY
    log_format: str = "auto"
    log_level: str = "info"
    clock_offset: float = 0.0
    named: frozenset[str] = frozenset()


def resolve_config(flags: Mapping[str, object], environ: Mapping[str, str]) -> Config:
    """Merge all sources. `flags` holds what the command line set, by key; None counts as unset.

    Raises ConfigError, naming the source and the key.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    datadir = find_datadir(given.pop("datadir", None), environ)
    values: dict[str, Any] = _read_toml(datadir / CONFIG_FILE)
    for key, read in _READERS.items():
        variable, flag = ENV_PREFIX + key.upper(), "--" + key.replace("_", "-")
        if variable in environ:
            values[key] = _read(read, environ[variable], variable)
        if key in given:
            values[key] = _read(read, given[key], flag)
    return Config(datadir=datadir, named=frozenset(values), **values)


def find_datadir(flag: object, environ: Mapping[str, str]) -> Path:
    """The data folder: what was named, else the user's data home."""
    named = flag or environ.get(ENV_PREFIX + "DATADIR")
    if named:
        return Path(str(named)).expanduser().absolute()
    home = environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(home).expanduser().absolute() / "demo-node"


def find_registry(environ: Mapping[str, str]) -> Path:
    """Where `demo-node runs` finds this user's data folders."""
    home = environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser().absolute() / "demo-node" / "runs"


def split_host_port(address: str) -> tuple[str, int]:
    """`host:port`, the host in brackets where it is IPv6. Raises ConfigError."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+):(\d{1,5})", address)
    if match is None or int(match[2]) > 65_535:
        raise ConfigError(f"{address!r} is not HOST:PORT, for example {DEFAULT_METRICS_ADDRESS}")
    return match[1].strip("[]"), int(match[2])


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            tree = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except NotADirectoryError:
        raise ConfigError(
            f"{path.parent} is not a folder; choose another --datadir", exit_code=73
        ) from None
    except PermissionError:
        raise ConfigError(f"{path} cannot be read; check its owner", exit_code=77) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not text in UTF-8; save it as that") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f'{path}: {error}; mend that line, to look like: threads = 2  or  log_level = "info"'
        ) from None
    for key in tree:
        if key not in _READERS:
            close = difflib.get_close_matches(key, _READERS, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"{path}: unknown key {key!r}{hint}")
    return {key: _read(_READERS[key], raw, f"{path}: {key}") for key, raw in tree.items()}


def _read(read: Callable[[object], object], raw: object, source: str) -> object:
    try:
        return read(raw)
    except (ValueError, ConfigError) as error:
        raise ConfigError(f"{source}: {error}") from None


def _text(raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError(f"{raw!r} is not text")
    return raw


def _texts(raw: object) -> tuple[str, ...]:
    """A list, or (from the environment) one text with commas between the items."""
    items = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(items, list | tuple):
        raise ValueError(f"{raw!r} is not a list of texts")
    return tuple(text for text in (_text(item).strip() for item in items) if text)


def _number(least: int, most: int = 10**18) -> Callable[[object], int]:
    def read(raw: object) -> int:
        text = str(raw)
        is_number = not isinstance(raw, bool) and re.fullmatch(r"-?\d{1,18}", text)
        if not is_number or not least <= int(text) <= most:
            bound = f"of at least {least}" if most == 10**18 else f"from {least} to {most}"
            raise ValueError(f"{raw!r} is not a whole number {bound}")
        return int(text)

    return read


def _seconds(raw: object) -> float:
    try:
        value = float(str(raw))
    except ValueError:
        value = math.nan
    if not abs(value) <= 1e9:
        raise ValueError(f"{raw!r} is not a number of seconds")
    return value


def _switch(raw: object) -> bool:
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    value = known.get(str(raw).lower())
    if value is None:
        raise ValueError(f"{raw!r} is neither true nor false")
    return value


def _choice(*choices: str) -> Callable[[object], str]:
    def read(raw: object) -> str:
        if raw not in choices:
            raise ValueError(f"{raw!r} is none of {', '.join(choices)}")
        return str(raw)

    return read


def _path(raw: object) -> Path:
    return raw if isinstance(raw, Path) else Path(_text(raw)).expanduser().absolute()


def _host_port(raw: object) -> str:
    split_host_port(_text(raw))
    return _text(raw)


def _trace_endpoint(raw: object) -> str:
    """Where an OTLP collector takes traces; its usual path is added where there is none."""
    text = _text(raw)
    match = re.fullmatch(r"https?://(?:\[[\da-fA-F:]+\]|[\w.-]+)(?::(\d{1,5}))?(/[\w./-]*)?", text)
    if match and not 1 <= int(match[1] or 80) <= 65_535:
        match = None
    if text and match is None:
        is_secret = re.search("[@?#]", text)  # a name and password, or a token
        shown = "what was given" if is_secret else repr(text[:SHOWN_MAX])
        raise ValueError(
            f"{shown} is no address like {TRACE_EXAMPLE}; what a collector asks for in headers goes"
            " into OTEL_EXPORTER_OTLP_HEADERS"
        )
    return text.rstrip("/") + "/v1/traces" if match and match[2] in (None, "/") else text


def _quiet_hours(raw: object) -> str:
    text = _text(raw).strip()
    parse_quiet_hours(text)
    return text


def _device(raw: object) -> str:
    text = _text(raw)
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise ValueError(f"{raw!r} is none of auto, cpu, cuda, cuda:N, mps")
    return text


def _run_id(raw: object) -> str:
    text = _text(raw).lower()
    if not re.fullmatch(r"([0-9a-f]{64})?", text):
        raise ValueError("a run id has 64 hexadecimal digits; copy it whole")
    return text


def _anchor(raw: object) -> str:
    text = _text(raw).lower()
    if not re.fullmatch(r"[0-9a-f]{64}", text):  # an empty one would anchor nothing, unseen
        raise ValueError("a record's hash has 64 hexadecimal digits; copy it whole")
    return text


def _listen(raw: object) -> tuple[str, ...]:
    addresses = _texts(raw)
    for address in addresses:
        if not re.fullmatch(r"/ip[46]/[0-9a-fA-F.:]+/tcp/\d{1,5}", address):
            raise ValueError(f"{address!r} is no address like {DEFAULT_LISTEN[0]}")
    return addresses


def _announce(raw: object) -> tuple[str, ...]:
    addresses = _texts(raw)
    for address in addresses:
        match = re.fullmatch(r"/(ip4|ip6|dns|dns4|dns6)/[\w.:-]+/tcp/(\d{1,5})", address)
        if match is None or not 0 < int(match[2]) < 1 << 16:
            raise ValueError(f"{address[:SHOWN_MAX]!r} is no address like {ANNOUNCE_EXAMPLE}")
        if re.match(r"/ip[46]/(0\.0\.0\.0|[0:]+)/", address):
            raise ValueError(f"{address!r} is where to listen; nobody can dial it")
    return addresses


def _peers(raw: object) -> tuple[str, ...]:
    addresses = _texts(raw)
    for address in addresses:
        if fault := _find_peer_fault(address):
            shown = address if len(address) <= SHOWN_MAX else address[:SHOWN_MAX] + "..."
            raise ValueError(f"{shown!r} {fault}")
    return addresses


def _find_peer_fault(address: str) -> str:
    """What is missing or wrong in /<family>/<host>/tcp/<port>/p2p/<peer id>, in a few words.

    /dnsaddr/<host> says neither port nor peer id: records that it leads to do.
    """
    if re.fullmatch(r"/dnsaddr/[\w.-]+(/p2p/\w+)?", address):
        return ""
    parts = address.split("/")
    fault = f"is no address like {PEER_EXAMPLE}"
    if parts[0] or len(parts) < 3 or parts[1] not in ("ip4", "ip6", "dns", "dns4", "dns6"):
        return fault
    _, family, host, *rest = parts
    transport, port, *end = [*rest, "", ""][: max(2, len(rest))]
    if not host:
        fault = f"has no host after /{family}/"
    elif transport in ("", "p2p"):
        fault = "has no /tcp/<port>"
    elif transport != "tcp":
        fault = f"has /{transport[:9]}; only /tcp/<port> works"
    elif not re.fullmatch(r"\d{1,5}", port) or not 0 < int(port) < 1 << 16:
        fault = "has no port from 1 to 65535 after /tcp/"
    elif end[:1] != ["p2p"] or not end[1:] or not end[1]:
        fault = "has no /p2p/<peer id> at its end; copy the whole line"
    elif re.fullmatch(r"\w+", end[1]) and not end[2:]:
        fault = ""
    return fault


_READERS: Final[dict[str, Callable[[object], object]]] = {
    "peers": _peers,
    "listen": _listen,
    "announce": _announce,
    "psk_file": _path,
    "mdns": _switch,
    "kad": _switch,
    "run_id": _run_id,
    "anchor": _anchor,
    "role": _choice(*ROLES),
    "mesh": _choice(*MESHES),
    "relay": _switch,
    "manifest": _path,
    "wait_manifest": _switch,
    "metrics_address": _host_port,
    "device": _device,
    "threads": _number(0),
    "nice": _number(0, 19),
    "train_percent": _number(1, 100),
    "gpu_memory_mb": _number(0),
    "disk_budget_mb": _number(0),
    "upload_kbit_s": _number(0),
    "download_kbit_s": _number(0),
    "metered": _switch,
    "quiet_hours": _quiet_hours,
    "quiet_upload_kbit_s": _number(0),
    "quiet_download_kbit_s": _number(0),
    "k": _number(1, K_MAX),
    "rounds": _number(0),
    "evaluate_every": _number(0),
    "train": _switch,
    "trace_endpoint": _trace_endpoint,
    "trace_every": _number(1),
    "log_format": _choice(*LOG_FORMATS),
    "log_level": _choice(*LOG_LEVELS),
    "clock_offset": _seconds,
}
"""One reader per key of Config that an operator may set: raw value in, checked value out."""
