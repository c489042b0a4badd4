"""A run's identity: every number all peers must agree on, and the hash that names the run.

The canonical form is JSON with sorted keys, no spaces, integers and strings only (floats have
no canonical text). A peer reads the very bytes another peer hashed: what does not re-encode to
the same bytes is not a manifest.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, Final, get_type_hints

from demo_protocol.errors import ConfigError
from demo_protocol.limits import (
    ALLOWED_MAX,
    CONTRIBUTORS_MAX,
    K_MAX,
    MANIFEST_BYTES_MAX,
    STAMP_BITS_MAX,
)
from demo_protocol.schedule import BPS, Schedule

PROTOCOL_VERSION: Final = 2

ADMISSIONS: Final = ("open", "stamp", "allowlist")
"""Values of `agreement.admission` (rule 26)."""

PPM: Final = 1_000_000
"""Fields that end in `_ppm` are millionths."""

PPB: Final = 1_000_000_000
"""Fields that end in `_ppb` are billionths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Who is in and what wins (PROTOCOL.md section 2, "Defaults")."""

    late_rounds: int = 6
    expire_rounds: int = 20
    forget_rounds: int = 400
    probation: int = 3
    final_depth: int = 4
    final_min_records: int = 64
    final_min_peers: int = 3
    overlap_rounds: int = 0
    contributors: int = 32
    admission: str = "open"
    stamp_bits: int = 0
    allowlist: str = ""
    snapshot_every: int = 10
    payload_window_rounds: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Shape of the byte-level decoder; all widths are multiples of 64."""

    layers: int
    width: int
    hidden: int
    heads: int
    context: int
    vocabulary: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """What a round trains and how its update is made (rules T1 to T6)."""

    local: str = "steps"
    semantics: str = "bounded"
    k: int = 32
    beta_ppm: int = 900_000
    lr_ppb: int = 10_000_000
    weight_decay_ppb: int = 0
    lr_warmup_rounds: int = 0
    lr_decay_rounds: int = 0
    lr_final_bps: int = 1_000
    inner_lr_ppb: int = 3_000_000
    inner_beta1_ppm: int = 900_000
    inner_beta2_ppm: int = 950_000
    inner_weight_decay_ppm: int = 100_000
    clip_ppm: int = 1_000_000
    micro_batch: int = 4
    samples_start: int = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Which text: an ordered list of samples, named by the Merkle root of its blocks.

    A corpus is one byte string: the training text, then the held-out text.
    """

    kind: str
    root: str
    train_bytes: int
    heldout_bytes: int
    block_bytes: int = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything two nodes must have in common to take part in one run.

    `initial` is the SHA-256 of a snapshot file whose parameters are state 0; empty: they are made
    from the seed. `rounds_total` 0 means an open end.
    """

    version: int = PROTOCOL_VERSION
    name: str
    seed: int
    initial: str = ""
    rounds_total: int = 0
    schedule: Schedule
    agreement: Agreement
    model: Model
    learning: Learning
    data: Data


def encode_manifest(manifest: Manifest) -> bytes:
    """Canonical bytes: the run id is their hash."""
    return json.dumps(
        asdict(manifest), sort_keys=True, separators=(",", ":"), ensure_ascii=True
    ).encode()


def decode_manifest(raw: bytes) -> Manifest:
    """Inverse of `encode_manifest`.

    Raises ConfigError when `raw` is no manifest this version can take part in.
    """
    if len(raw) > MANIFEST_BYTES_MAX:
        raise ConfigError(
            f"the manifest has {len(raw)} bytes, at most {MANIFEST_BYTES_MAX} are read"
        )
    try:
        tree = json.loads(raw)
    except (ValueError, RecursionError):
        raise ConfigError("the manifest is not JSON") from None
    version = tree.get("version") if isinstance(tree, dict) else None
    if version != PROTOCOL_VERSION:
        raise ConfigError(
            f"the manifest is of protocol version {version!r}, this node speaks {PROTOCOL_VERSION};"
            " install the demo-node release that made it",
            exit_code=76,
        )
    manifest: Manifest = _build(Manifest, tree, "manifest")
    validate_manifest(manifest)
    if encode_manifest(manifest) != raw:
        raise ConfigError("the manifest is not in canonical form: it cannot be edited by hand")
    return manifest


def compute_run_id(manifest: Manifest) -> bytes:
    """32 bytes that name the run: SHA-256 over a domain tag and the canonical manifest."""
    return hashlib.sha256(b"demo-node/run/1\0" + encode_manifest(manifest)).digest()


def carries_root(agreement: Agreement, height: int) -> bool:
    """Rule 21: does a record of this height name the Merkle root of its parent's state?"""
    return height % agreement.snapshot_every == 0


def has_ended(manifest: Manifest, round_: int) -> bool:
    """Is `round_` after the run's last one? No record is of such a round."""
    return 0 < manifest.rounds_total <= round_


def validate_manifest(manifest: Manifest) -> None:
    """Raise ConfigError, naming the key, where a value makes no working run."""
    for key, holds, wanted in _conditions(manifest):
        if not holds:
            raise ConfigError(f"manifest key {key}: must be {wanted}")


def _conditions(m: Manifest) -> list[tuple[str, bool, str]]:
    s, a, net, learning, data = m.schedule, m.agreement, m.model, m.learning, m.data
    phases = s.train_bps + s.contribute_bps + s.propose_bps
    propose_ms = s.round_ms * s.propose_bps // BPS
    return [
        ("name", 0 < len(m.name) <= 64 and m.name.isprintable(), "1 to 64 printable characters"),
        ("seed", 0 <= m.seed < 2**32, "an unsigned 32-bit number"),
        ("initial", not m.initial or _is_hash(m.initial), "64 hexadecimal digits, or empty"),
        ("rounds_total", 0 <= m.rounds_total < 2**31, "0 (open end) or more"),
        ("schedule.genesis_ms", 0 <= s.genesis_ms < 2**53, "milliseconds since 1970"),
        ("schedule.round_ms", 100 <= s.round_ms <= 86_400_000, "100 ms to one day"),
        ("schedule.train_bps", 0 < s.train_bps < BPS, "between 1 and 9999"),
        ("schedule.contribute_bps", 0 < s.contribute_bps < BPS, "between 1 and 9999"),
        (
            "schedule.propose_bps",
            s.propose_bps > 0 and phases < BPS,
            "positive, all phases < 10000",
        ),
        ("schedule.slots", 1 <= s.slots <= 16, "1 to 16"),
        (
            "schedule.slot_offset_ms",
            s.slot_offset_ms > 0 and (s.slots - 1) * s.slot_offset_ms < propose_ms,
            "positive, and the last slot inside the propose phase",
        ),
        ("schedule.skew_max_ms", 0 <= s.skew_max_ms < s.round_ms, "less than a round"),
        ("agreement.late_rounds", 1 <= a.late_rounds <= 64, "1 to 64"),
        ("agreement.expire_rounds", a.expire_rounds >= 2, "at least 2"),
        (
            "agreement.forget_rounds",
            a.forget_rounds >= 20 * a.expire_rounds,
            ">= 20 x expire_rounds",
        ),
        ("agreement.probation", 0 <= a.probation <= 1000, "0 to 1000"),
        ("agreement.final_depth", a.final_depth >= 3, "at least 3"),
        ("agreement.final_min_peers", a.final_min_peers >= 1, "at least 1"),
        ("agreement.final_min_records", a.final_min_records >= 1, "at least 1"),
        ("agreement.overlap_rounds", a.overlap_rounds in (0, 1), "0 or 1"),
        (
            "agreement.contributors",
            0 <= a.contributors <= CONTRIBUTORS_MAX,
            f"0 (every member) to {CONTRIBUTORS_MAX}",
        ),
        ("agreement.admission", a.admission in ADMISSIONS, " or ".join(ADMISSIONS)),
        (
            "agreement.stamp_bits",
            1 <= a.stamp_bits <= STAMP_BITS_MAX if a.admission == "stamp" else a.stamp_bits == 0,
            f"1 to {STAMP_BITS_MAX} where admission is stamp, else 0",
        ),
        (
            "agreement.allowlist",
            _is_allowlist(a.allowlist) if a.admission == "allowlist" else not a.allowlist,
            f"1 to {ALLOWED_MAX} public keys in hexadecimal, sorted, each once, joined by commas,"
            " where admission is allowlist, else empty",
        ),
        ("agreement.snapshot_every", 1 <= a.snapshot_every <= 100_000, "1 to 100000"),
        (
            "agreement.payload_window_rounds",
            a.payload_window_rounds >= 2 * a.snapshot_every + a.late_rounds,
            "at least 2 x snapshot_every + late_rounds",
        ),
        ("model.layers", 1 <= net.layers <= 256, "1 to 256"),
        ("model.width", 0 < net.width <= 65_536 and net.width % 64 == 0, "a multiple of 64"),
        ("model.hidden", 0 < net.hidden <= 262_144 and net.hidden % 64 == 0, "a multiple of 64"),
        (
            "model.heads",
            0 < net.heads <= net.width and net.width % (2 * net.heads) == 0,
            "a divisor of half the width",
        ),
        ("model.context", 8 <= net.context <= 65_536, "8 to 65536"),
        ("model.vocabulary", net.vocabulary == 256, "256 (bytes)"),
        ("learning.local", learning.local in ("steps", "accumulate"), '"steps" or "accumulate"'),
        ("learning.semantics", learning.semantics == "bounded", '"bounded"'),
        ("learning.k", 1 <= learning.k <= K_MAX, f"1 to {K_MAX}"),
        ("learning.beta_ppm", 0 <= learning.beta_ppm <= PPM, "0 to 1000000"),
        ("learning.lr_ppb", 0 < learning.lr_ppb <= PPB, "1 to 1000000000"),
        ("learning.weight_decay_ppb", 0 <= learning.weight_decay_ppb <= PPB, "0 to 1000000000"),
        ("learning.lr_warmup_rounds", 0 <= learning.lr_warmup_rounds <= 10**9, "0 or more"),
        (
            "learning.lr_decay_rounds",
            0 <= learning.lr_decay_rounds <= 10**9,
            "0 (constant) or more",
        ),
        ("learning.lr_final_bps", 0 < learning.lr_final_bps <= BPS, "1 to 10000"),
        ("learning.inner_lr_ppb", 0 < learning.inner_lr_ppb <= PPB, "1 to 1000000000"),
        ("learning.inner_beta1_ppm", 0 <= learning.inner_beta1_ppm < PPM, "less than 1000000"),
        ("learning.inner_beta2_ppm", 0 <= learning.inner_beta2_ppm < PPM, "less than 1000000"),
        ("learning.inner_weight_decay_ppm", learning.inner_weight_decay_ppm >= 0, "0 or more"),
        ("learning.clip_ppm", learning.clip_ppm > 0, "positive"),
        ("learning.micro_batch", 1 <= learning.micro_batch <= 4096, "1 to 4096"),
        ("learning.samples_start", learning.samples_start >= 1, "at least 1"),
        ("data.kind", data.kind == "stdlib-bytes", '"stdlib-bytes"'),
        ("data.root", _is_hash(data.root), "64 hexadecimal digits"),
        ("data.train_bytes", net.context < data.train_bytes < 2**40, "more than one sample"),
        ("data.heldout_bytes", net.context < data.heldout_bytes < 2**40, "more than one sample"),
        ("data.block_bytes", 1_024 <= data.block_bytes <= 1 << 20, "1 KiB to 1 MiB"),
    ]


def list_allowed(allowlist: str) -> frozenset[bytes]:
    """The public keys of `agreement.allowlist`."""
    return (
        frozenset(bytes.fromhex(key) for key in allowlist.split(",")) if allowlist else frozenset()
    )


def join_allowed(peers: Iterable[bytes]) -> str:
    """Inverse of `list_allowed`, in the one form that a manifest may have."""
    return ",".join(sorted({peer.hex() for peer in peers}))


def _is_allowlist(text: str) -> bool:
    keys = text.split(",")
    is_sorted = all(a < b for a, b in itertools.pairwise(keys))
    return len(keys) <= ALLOWED_MAX and is_sorted and all(_is_hash(key) for key in keys)


def _is_hash(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _build(kind: type, tree: Any, where: str) -> Any:
    """`tree` as an instance of the dataclass `kind`: exactly its keys, exactly its types."""
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: must be an object")
    names = {field.name for field in fields(kind)}
    for key in tree:
        if key not in names:
            raise ConfigError(f"{where}: unknown key {key!r}")
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for name in sorted(names):
        if name not in tree:
            raise ConfigError(f"{where}: key {name!r} is missing")
        value, wanted = tree[name], hints[name]
        if is_dataclass(wanted) and isinstance(wanted, type):
            value = _build(wanted, value, f"{where}.{name}")
        elif type(value) is not wanted:
            raise ConfigError(f"{where}.{name}: must be of type {wanted.__name__}")
        values[name] = value
    return kind(**values)
