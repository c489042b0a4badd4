"""`demo-node init`: make a key and the manifest of a new run."""

import datetime
import re
import secrets
import time

import click

from demo_node.cli.options import datadir_option, resolve_datadir
from demo_node.cli.plan import plan_run, plan_schedule
from demo_protocol.errors import ConfigError
from demo_protocol.manifest import compute_run_id
from demo_protocol.presets import PRESETS


@click.command()
@datadir_option
@click.option(
    "--preset",
    type=click.Choice(tuple(PRESETS)),
    default="tiny",
    show_default=True,
    help="Size of the model: tiny and small for any machine, gpu for graphics cards.",
)
@click.option("--name", default="demo", show_default=True, help="What people will call this run.")
@click.option(
    "--round-seconds",
    type=click.FloatRange(0.1, 86_400),
    default=60.0,
    show_default=True,
    help="Length of a round. Over home internet links, tens of seconds.",
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
    type=click.IntRange(0, 2**32 - 1),
    help="Seed of the parameters at genesis. [default: random]",
)
def init(
    datadir: str | None,
    preset: str,
    name: str,
    round_seconds: float,
    genesis: str,
    seed: int | None,
) -> None:
    """Open a new run: write its manifest, and a key for this node.

    The manifest holds every number that all peers of the run must share; its hash is the run id.
    It trains on the source text of this machine's Python, which joining peers fetch if theirs
    differs. Nothing that exists is overwritten.
    """
    genesis_ms = parse_genesis(genesis, time.time_ns() // 1_000_000)
    schedule = plan_schedule(genesis_ms, round(round_seconds * 1000))
    from demo_node.store.corpus import save_corpus  # cryptography and more: not for --help
    from demo_node.store.datadir import hold_lock, open_datadir
    from demo_node.store.disk import FileDisk
    from demo_node.store.key import create_key, generate_key, load_key
    from demo_node.store.manifest_file import load_manifest, save_manifest
    from demo_node.store.stdlib import build_stdlib_corpus

    disk = FileDisk()
    folder = open_datadir(disk, resolve_datadir(datadir))
    with hold_lock(disk, folder):
        if load_manifest(disk, folder.manifest) is not None:
            raise ConfigError(
                f"{folder.manifest} exists: this folder has a run; start it with"
                f" demo-node start --datadir {folder.path}, or choose another --datadir"
            )
        corpus = build_stdlib_corpus()
        manifest = plan_run(
            name=name,
            seed=secrets.randbits(32) if seed is None else seed,
            preset=preset,
            schedule=schedule,
            data=corpus.data,
        )
        if disk.names(folder.path).count(folder.key.name):
            load_key(disk, folder.key)  # one that a joining node made: it stays this node's
        else:
            create_key(disk, folder.key, generate_key())
        save_corpus(disk, folder.corpus, corpus)
        save_manifest(disk, folder.manifest, manifest)
    click.echo(f"run      {manifest.name}, id {compute_run_id(manifest).hex()}")
    click.echo(f"manifest {folder.manifest}")
    click.echo(f"begins   {_format_time(genesis_ms)}, rounds of {round_seconds:g} s")
    suffix = f" --datadir {folder.path}" if datadir else ""
    click.echo(f"next     demo-node start{suffix}")


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
