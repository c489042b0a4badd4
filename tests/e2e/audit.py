"""One node's data folder replayed from the genesis, in this process: who needs to believe nodes?"""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from demo_node.ports import ApplyOrder
from demo_node.store.chainlog import ChainEntry, ChainLog
from demo_node.store.corpus import compute_corpus_path
from demo_node.store.datadir import DataDir
from demo_node.store.disk import FileDisk
from demo_node.store.journal import Journal
from demo_node.store.key import verify
from demo_node.store.manifest_file import load_manifest
from demo_node.store.payloads import PayloadStore
from demo_node.trainer.device import Devices
from demo_node.trainer.learner import LocalLearner
from demo_node.trainer.tensors import read_corpus
from demo_protocol.answers import decode_bundle
from demo_protocol.chain import Chain, Record
from demo_protocol.manifest import Manifest, compute_run_id
from demo_protocol.messages import Header, Sealed, decode_header, decode_proposal
from demo_protocol.roster import genesis_state

CPU = Devices(train=torch.device("cpu"), apply=torch.device("cpu"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """What one node kept: its run, the records on its log and the payloads they list."""

    manifest: Manifest
    corpus: Path
    chain: Chain
    payloads: Mapping[bytes, bytes]

    @property
    def run_id(self) -> bytes:
        """Name of the run, and of the record everything descends from."""
        return self.chain.run_id

    def make_learner(self) -> LocalLearner:
        """A trainer of this run that holds state 0 and nothing else."""
        torch.set_num_threads(1)  # tiny matrices: a second thread waits more than it works
        learner = LocalLearner(self.manifest, read_corpus(self.corpus, self.manifest.data), CPU)
        learner.load(self.run_id, None)
        return learner

    def path_to(self, head: bytes) -> list[Record]:
        """Records after the genesis up to `head`."""
        return self.chain.path(self.run_id, head)

    def order(
        self, record: Record, only: Callable[[Sealed[Header]], bool] = lambda header: True
    ) -> ApplyOrder:
        """What a node gives to its trainer for this record; `only` leaves contributions out."""
        listed = [h for h in record.contributions if h.body.k and only(h)]
        return ApplyOrder(
            record=record.hash,
            parent=record.parent,
            round=record.round,
            payloads=tuple(self.payloads[h.body.payload_hash] for h in listed),
        )


def read_books(folder: Path, *others: Path) -> Books:
    """Read a data folder and check every record and signature by the rules. Changes nothing.

    A node that took a peer's snapshot lacks the records and payloads before it. With `others`,
    which are folders of nodes of the same run, what any of them kept counts.
    """
    disk, datadir, folders = FileDisk(), DataDir(folder), (folder, *others)
    manifest = load_manifest(disk, datadir.manifest)
    assert manifest is not None
    run_id = compute_run_id(manifest)
    chain = Chain(manifest, run_id, genesis_state(run_id))
    kept = {entry.record: entry for each in folders for entry in read_chain(each)}
    for entry in sorted(kept.values(), key=lambda entry: entry.round):  # parents first
        bundle = decode_bundle(entry.raw)
        headers = [decode_header(raw, run_id) for raw in bundle.headers]
        chain.add(decode_proposal(bundle.proposal, run_id), {h.hash: h for h in headers}, verify)
    wanted = {
        header.body.payload_hash
        for record in chain.records.values()
        for header in record.contributions
        if header.body.k
    }
    stores = [PayloadStore(disk, DataDir(each).payloads) for each in folders]
    held = {name: raw for store in stores for name in wanted if (raw := store.get(name))}
    return Books(
        manifest=manifest,
        corpus=compute_corpus_path(datadir.corpus, manifest.data),
        chain=chain,
        payloads=held,
    )


def replay(learner: LocalLearner, orders: Sequence[ApplyOrder]) -> list[bytes]:
    """The digest after each record."""
    return [learner.apply(order) for order in orders]


def read_chain(folder: Path) -> list[ChainEntry]:
    """The entries of a node's chain log, oldest first. The node may be running."""
    with _copied(DataDir(folder).chain_log) as path:
        log = ChainLog(FileDisk(), path, _find_run_id(folder))
        entries = list(log.entries())
        log.close()
    return entries


def read_signed(folder: Path) -> list[tuple[str, int, bytes]]:
    """(kind, round, message) of what a node's log of signed messages holds."""
    found: list[tuple[str, int, bytes]] = []

    def keep(_position: int, entry: bytes) -> None:
        end = 1 + entry[0]
        found.append(
            (entry[1:end].decode(), int.from_bytes(entry[end : end + 8]), entry[end + 8 :])
        )

    with _copied(DataDir(folder).signed_log) as path:
        Journal.open(FileDisk(), path, "signed", _find_run_id(folder), keep).close()
    return found


@contextlib.contextmanager
def _copied(path: Path) -> Iterator[Path]:
    """A copy to read: to open a log means to repair it, which is its node's business."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copy(path, folder))


def _find_run_id(folder: Path) -> bytes:
    manifest = load_manifest(FileDisk(), DataDir(folder).manifest)
    assert manifest is not None
    return compute_run_id(manifest)
