"""The files beside the chain: manifest, key, payloads, corpus, and what this node signed."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from demo_node.audit.findings import Finding
from demo_node.audit.snapshots import hash_file
from demo_node.store.corpus import compute_corpus_path
from demo_node.store.datadir import DataDir
from demo_node.store.disk import Disk
from demo_node.store.key import NodeKey, load_key
from demo_protocol.errors import ConfigError
from demo_protocol.manifest import Data, Manifest
from demo_protocol.merkle import compute_leaf, compute_root

REPULL: Final = "delete it: the node asks its peers for it if it needs it again"

REFETCH: Final = "delete it: the node makes or fetches it again at its next start"

_ROUND: Final = re.compile(r"\d{1,18}")
_NAME: Final = re.compile(r"[0-9a-f]{64}")


def check_key(disk: Disk, datadir: DataDir) -> tuple[NodeKey | None, list[Finding]]:
    """The node's key, None where it is missing or unusable, and what is wrong with it."""
    if datadir.key.name not in disk.names(datadir.path):
        return None, []
    try:
        return load_key(disk, datadir.key), []
    except ConfigError as error:
        text, _, remedy = str(error).removeprefix(f"{datadir.key}: ").partition("; ")
        return None, [Finding(file=datadir.key.name, text=text, remedy=remedy)]


@dataclass(frozen=True, slots=True)
class Listing:
    """Where a record lists a payload: the contribution's round and author."""

    round: int
    peer: bytes


def list_payloads(disk: Disk, datadir: DataDir) -> dict[bytes, list[Path]]:
    """Payload files by the hash in their name; one payload may lie in two rounds."""
    found: dict[bytes, list[Path]] = {}
    for folder in filter(_ROUND.fullmatch, disk.names(datadir.payloads)):
        for name in filter(_NAME.fullmatch, disk.names(datadir.payloads / folder)):
            path = datadir.payloads / folder / name
            found.setdefault(bytes.fromhex(name), []).append(path)
    return found


def check_payloads(
    disk: Disk, held: Mapping[bytes, list[Path]], listed: Mapping[bytes, Listing]
) -> Iterator[Finding]:
    """Payloads whose bytes do not have the hash in their name. Reads them all, one at a time."""
    for name, path in ((name, path) for name, paths in held.items() for path in paths):
        try:
            raw = disk.read(path)
        except FileNotFoundError:  # a running node has dropped it meanwhile
            continue
        if hashlib.sha256(raw).digest() == name:
            continue
        listing = listed.get(name)
        yield Finding(
            file=f"payloads/{path.parent.name}/{path.name}",
            round=listing.round if listing else int(path.parent.name),
            peer=listing.peer if listing else b"",
            text="its bytes do not have the hash that is its name",
            remedy=REPULL,
        )


def check_initial(disk: Disk, datadir: DataDir, manifest: Manifest) -> list[Finding]:
    """Is the state that the run goes on from, if any, the one that the manifest names?"""
    if not manifest.initial or datadir.initial.name not in disk.names(datadir.path):
        return []
    if hash_file(disk, datadir.initial).hex() == manifest.initial:
        return []
    return [
        Finding(
            file=datadir.initial.name,
            text="it is not the snapshot that the manifest names",
            remedy=REFETCH,
        )
    ]


def check_corpus(disk: Disk, datadir: DataDir, data: Data) -> tuple[bool, list[Finding]]:
    """Is the training text here, and does it have the manifest's Merkle root?"""
    path = compute_corpus_path(datadir.corpus, data)
    try:
        size = disk.size(path)
    except FileNotFoundError:
        return False, []
    blocks = range(0, size, data.block_bytes)
    leaves = [compute_leaf(disk.read(path, start, data.block_bytes)) for start in blocks]
    if size == data.train_bytes + data.heldout_bytes and compute_root(leaves).hex() == data.root:
        return True, []
    return True, [
        Finding(
            file=f"corpus/{path.name}",
            text="it is not the text that the manifest names",
            remedy=REFETCH,
        )
    ]
