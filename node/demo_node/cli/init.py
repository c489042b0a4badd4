"""`demo-node init`: make a key and the manifest of a new run."""

import datetime
import os
import re
import secrets
import shlex
import time
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from demo_node.cli.admitting import STAMP_BITS, describe_admission, parse_admission
from demo_node.cli.options import IntegerRange, NumberRange, datadir_option, resolve_datadir
from demo_node.cli.plan import plan_run, plan_schedule
from demo_node.config import find_registry
from demo_protocol.errors import ConfigError
from demo_protocol.limits import STAMP_BITS_MAX
from demo_protocol.manifest import (
    ADMISSIONS,
    PPB,
    Data,
    Manifest,
    compute_run_id,
    has_ended,
    validate_manifest,
)
from demo_protocol.presets import PRESETS
from demo_protocol.schedule import round_at

if TYPE_CHECKING:
    from demo_node.cli.origin import Origin
    from demo_node.store.corpus import Corpus
    from demo_node.store.datadir import DataDir
    from demo_node.store.disk import FileDisk


@click.command()
@datadir_option
@click.option(
    "--from",
    "snapshot",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="SNAPSHOT",
    help="Go on from the parameters in this file, of any run; see above.",
)
@click.option(
    "--preset",
    type=click.Choice(tuple(PRESETS)),
    help="Size of the model: tiny and small for any machine, base for patient ones, gpu for"
    " graphics cards. [default: tiny, or that of --from]",
)
@click.option("--name", help="What people will call this run. [default: demo, or that of --from]")
@click.option(
    "--rounds",
    type=IntegerRange(min=0),
    default=0,
    help="How many rounds the run has; its learning rate falls over them."
    " [default: 0, an open end]",
)
@click.option(
    "--round-seconds",
    type=NumberRange(0.1, 86_400),
    help="Length of a round. Over home internet links, tens of seconds."
    " [default: 60, or that of --from]",
)
@click.option(
    "--overlap",
    type=IntegerRange(0, 1),
    help="1: a round is exchanged while the next one trains, so that machines never wait for the"
    " network; each update comes one round later. [default: 0, or that of --from]",
)
@click.option(
    "--learning-rate",
    type=NumberRange(1e-9, 1.0),
    help="How far a round's update moves a parameter. [default: the preset's, or that of --from]",
)
@click.option(
    "--admission",
    type=click.Choice(ADMISSIONS),
    help="Who may join: anybody (open), who has done some work for it (stamp), or the nodes that"
    " are listed (allowlist). [default: open, or that of --from]",
)
@click.option(
    "--stamp-bits",
    type=IntegerRange(1, STAMP_BITS_MAX),
    help="With --admission stamp: 2 to the power of so many hashes are computed for a join, on"
    " average, in every hour in which it is asked for. 20 take a second, 28 some minutes; over 31"
    f" hardly anybody gets in. [default: {STAMP_BITS}]",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="KEY",
    help="With --admission allowlist: the peer id or public key of a node that may join, see"
    " demo-node key show. Once for each; this node's own is on the list.",
)
@click.option(
    "--genesis",
    default="now",
    show_default=True,
    metavar="WHEN",
    help="When round 0 begins: now, +SECONDS, or a time like 2027-01-31T18:00:00+01:00.",
)
@click.option(
    "--seed",
    type=IntegerRange(0, 2**32 - 1),
    help="Seed of the run: of its parameters at genesis, without --from. [default: random]",
)
def init(datadir: str | None, snapshot: Path | None, genesis: str, **choices: Any) -> None:
    """Open a new run: write its manifest, and a key for this node.

    The manifest holds every number that all peers of the run must share; its hash is the run id.
    It trains on the source text of this machine's Python, which joining peers fetch if theirs
    differs. Nothing that exists is overwritten.

    With --from a new run begins where an old one was: to change its learning rate, or to leave a
    bad stretch behind. SNAPSHOT is a file like snapshots/120-0123456789abcdef.safetensors in a
    node's data folder; left there, it also gives the old run's settings and text. Joining peers
    fetch it. The old run is not touched; the new one needs a --datadir of its own.
    """
    genesis_ms = parse_genesis(genesis, time.time_ns() // 1_000_000)
    admission = parse_admission(choices["admission"], choices["stamp_bits"], choices["allow"])
    from demo_node.cli.origin import find_origin  # cryptography and more: not for --help
    from demo_node.store.datadir import hold_lock, open_datadir
    from demo_node.store.disk import FileDisk
    from demo_node.store.initial import copy_initial
    from demo_node.store.manifest_file import save_manifest
    from demo_node.store.registry import remember_folder
    from demo_node.store.stdlib import build_stdlib_corpus

    disk = FileDisk()
    origin = find_origin(disk, snapshot.absolute(), choices["preset"]) if snapshot else None
    corpus = origin.corpus if origin and origin.corpus else build_stdlib_corpus()
    manifest = _compose_manifest(choices, genesis_ms, corpus.data, origin)
    folder = open_datadir(disk, resolve_datadir(datadir))
    with hold_lock(disk, folder):
        own = _prepare_folder(disk, folder, corpus)
        old = origin.manifest.agreement if origin and origin.manifest else None
        manifest = replace(manifest, agreement=admission.apply(manifest.agreement, old, own))
        validate_manifest(manifest)
        if origin is not None:
            initial = copy_initial(disk, origin.path, folder.initial).hex()
            manifest = replace(manifest, initial=initial)
        save_manifest(disk, folder.manifest, manifest)
    remember_folder(find_registry(os.environ), folder.path)
    click.echo(f"run      {manifest.name}, id {compute_run_id(manifest).hex()}")
    click.echo(f"manifest {folder.manifest}")
    if origin is not None:
        click.echo(f"from     {origin.path}")
        if origin.manifest is not None and origin.manifest.data != manifest.data:
            click.echo("text     this Python's library: the old run's text is not beside it")
    for label, line in zip_longest(("admits",), describe_admission(manifest.agreement)):
        click.echo(f"{label or '':<8} {line}")
    click.echo(f"begins   {_format_time(genesis_ms)}, {_format_rounds(manifest)}")
    suffix = f" --datadir {shlex.quote(str(folder.path))}" if datadir else ""
    click.echo(f"next     demo-node start{suffix}")


def _compose_manifest(
    choices: dict[str, Any], genesis_ms: int, data: Data, origin: "Origin | None"
) -> Manifest:
    """What was chosen, else as it was in the run of `origin`, else the defaults."""
    old = origin.manifest if origin else None
    round_ms = old.schedule.round_ms if old else 60_000
    if choices["round_seconds"] is not None:
        round_ms = round(choices["round_seconds"] * 1000)
    rounds, seed, name = choices["rounds"], choices["seed"], choices["name"]
    overlap = choices["overlap"]
    if overlap is None:
        overlap = old.agreement.overlap_rounds if old else 0
    manifest = plan_run(
        name=name if name is not None else old.name if old else "demo",
        seed=secrets.randbits(32) if seed is None else seed,
        preset=choices["preset"] or "tiny",
        schedule=plan_schedule(genesis_ms, round_ms, overlap),
        data=data,
        rounds=rounds,
        overlap=overlap,
    )
    model, learning = manifest.model, manifest.learning
    if origin is not None:
        model = origin.preset.model
        learning = replace(origin.preset.learning, lr_decay_rounds=rounds)
    if choices["learning_rate"] is not None:
        learning = replace(learning, lr_ppb=round(choices["learning_rate"] * PPB))
    manifest = replace(manifest, model=model, learning=learning, rounds_total=rounds)
    validate_manifest(manifest)
    if has_ended(manifest, round_at(manifest.schedule, time.time_ns() // 1_000_000)):
        raise click.BadParameter(
            f"{rounds} rounds from then on would be over already", param_hint="--genesis"
        )
    return manifest


def _prepare_folder(disk: "FileDisk", folder: "DataDir", corpus: "Corpus") -> bytes:
    """A key and the text, where there is no run yet; the public key. Raises ConfigError."""
    from demo_node.store.corpus import save_corpus
    from demo_node.store.key import create_key, generate_key, load_key
    from demo_node.store.manifest_file import load_manifest

    if load_manifest(disk, folder.manifest) is not None:
        raise ConfigError(
            f"{folder.manifest} exists: this folder has a run; start it with"
            f" demo-node start --datadir {folder.path}, or choose another --datadir"
        )
    if disk.names(folder.path).count(folder.key.name):
        key = load_key(disk, folder.key)  # one that a joining node made: it stays this node's
    else:
        key = generate_key()
        create_key(disk, folder.key, key)
    save_corpus(disk, folder.corpus, corpus)
    return key.public


def parse_genesis(text: str, now_ms: int) -> int:
    """Milliseconds since 1970 of `now`, `+SECONDS` or an ISO 8601 time (local without offset)."""
    if text == "now":
        return now_ms
    if match := re.fullmatch(r"\+(\d{1,9}(?:\.\d{1,3})?)", text):
        return now_ms + round(float(match[1]) * 1000)
    try:
        return round(datetime.datetime.fromisoformat(text).timestamp() * 1000)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is neither now, +SECONDS, nor a time like 2027-01-31T18:00:00+01:00",
            param_hint="--genesis",
        ) from None


def _format_time(ms: int) -> str:
    moment = datetime.datetime.fromtimestamp(ms / 1000).astimezone()
    return moment.isoformat(sep=" ", timespec="seconds")


def _format_rounds(manifest: Manifest) -> str:
    rounds = f"{manifest.rounds_total:,} rounds" if manifest.rounds_total else "rounds"
    return f"{rounds} of {manifest.schedule.round_ms / 1000:g} s"
