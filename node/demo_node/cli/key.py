"""`demo-node key`: look at the node's identity, keep a copy of it, move it to another machine."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from demo_node.cli.options import datadir_option, json_option, resolve_datadir
from demo_node.mesh.peer_id import encode_peer_id
from demo_protocol.errors import ConfigError

if TYPE_CHECKING:
    from demo_node.store.key import NodeKey

_CANNOT_CREATE: Final = 73


@click.group()
def key() -> None:
    """Show, make, copy this node's key; or make a private swarm's.

    Peers know a node by its key. A copy of it on another disk lets the same peer come back on
    another machine. Never run two nodes with one key: peers see one that contradicts itself.
    """


@key.command()
@datadir_option
def new(datadir: str | None) -> None:
    """Make a key for a folder that has none.

    It is needed before the node joins a run that lists its nodes; else demo-node init and start
    make one, too. A key that is there is never overwritten.
    """
    from demo_node.store.datadir import hold_lock, open_datadir  # cryptography: not for --help
    from demo_node.store.disk import FileDisk
    from demo_node.store.key import create_key, generate_key

    disk = FileDisk()
    folder, made = open_datadir(disk, resolve_datadir(datadir)), generate_key()
    with hold_lock(disk, folder):
        create_key(disk, folder.key, made)
    click.echo(f"peer id     {encode_peer_id(made.public)}")
    click.echo(f"file        {folder.key}")


def _check_parent(file: Path) -> None:
    if not file.parent.is_dir():
        raise ConfigError(
            f"{file.parent}: there is no such folder; choose another file",
            exit_code=_CANNOT_CREATE,
        )


@key.command()
@datadir_option
@json_option
def show(datadir: str | None, as_json: bool) -> None:
    """Show the peer id and the public key; never the secret."""
    from demo_node.store.datadir import DataDir  # cryptography: not for --help
    from demo_node.store.disk import FileDisk
    from demo_node.store.key import load_key

    path = DataDir(resolve_datadir(datadir)).key
    public = load_key(FileDisk(), path).public
    if as_json:
        document = {"schema": 1, "peer_id": encode_peer_id(public), "public_key": public.hex()}
        click.echo(json.dumps({**document, "path": str(path)}))
        return
    click.echo(f"peer id     {encode_peer_id(public)}")
    click.echo(f"public key  {public.hex()}")
    click.echo(f"file        {path}")


@key.command()
@datadir_option
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def export(datadir: str | None, file: Path) -> None:
    """Copy the key to FILE, which only you can read. It must not exist yet.

    The format is libp2p's own for private keys.
    """
    from demo_node.store.datadir import DataDir  # cryptography: not for --help
    from demo_node.store.disk import FileDisk
    from demo_node.store.key import create_key, load_key

    disk, file = FileDisk(), file.absolute()
    held = load_key(disk, DataDir(resolve_datadir(datadir)).key)
    _check_parent(file)
    create_key(disk, file, held)
    click.echo(f"wrote {file}: the secret key of {encode_peer_id(held.public)}; show it to nobody")


@key.command("import")
@datadir_option
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def import_(datadir: str | None, file: Path) -> None:
    """Make the key in FILE this folder's own. A key that is there is never overwritten.

    The node that used the key before must have ended. FILE is left where it is.
    """
    from demo_node.store.datadir import hold_lock, open_datadir  # cryptography: not for --help
    from demo_node.store.disk import FileDisk
    from demo_node.store.key import create_key, load_key

    disk = FileDisk()
    found: NodeKey = load_key(disk, file.absolute())
    folder = open_datadir(disk, resolve_datadir(datadir))
    with hold_lock(disk, folder):
        create_key(disk, folder.key, found)
    click.echo(f"this folder's node is now {encode_peer_id(found.public)}")
    click.echo(f"file        {folder.key}")


@key.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def psk(file: Path) -> None:
    """Make the key of a private swarm.

    It is in a new FILE that only you can read. Give each node a copy, over a way that you trust,
    and start all of them with --psk-file FILE.
    The format is that of libp2p's others (swarm.key).
    """
    import secrets

    from demo_node.store.disk import FileDisk
    from demo_node.store.swarm_key import create_swarm_key

    file = file.absolute()
    _check_parent(file)
    create_swarm_key(FileDisk(), file, secrets.token_bytes(32))
    click.echo(f"wrote {file}: who has it may connect; show it to nobody else")
