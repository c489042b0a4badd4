"""A small run that really happened: its data folder, as one of its nodes would leave it."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from demo_node.ports import ApplyOrder, Trained, TrainOrder
from demo_node.store.chainlog import ChainEntry, ChainLog, scan_chain_log
from demo_node.store.corpus import build_corpus, save_corpus
from demo_node.store.datadir import DataDir, open_datadir
from demo_node.store.disk import FileDisk
from demo_node.store.frames import compute_file_header, encode_file
from demo_node.store.key import NodeKey, create_key, verify
from demo_node.store.manifest_file import save_manifest
from demo_node.store.payloads import PayloadStore
from demo_node.store.signed import SignedLog
from demo_node.store.snapshot_info import SnapshotInfo
from demo_node.store.snapshots import SnapshotStore
from demo_node.trainer.learner import LocalLearner
from demo_protocol.answers import encode_bundle, encode_chain_state
from demo_protocol.chain import Chain, Record, make_bundle
from demo_protocol.manifest import Agreement, Manifest, carries_root, compute_run_id
from demo_protocol.messages import (
    Header,
    Membership,
    Proposal,
    Sealed,
    seal_header,
    seal_membership,
    seal_proposal,
)
from demo_protocol.roster import compute_rank, genesis_state, get_member_names
from demo_protocol.state_root import compute_state_root
from tests import builders
from tests.trainer.builders import CPU, corpus_bytes

PEERS = 3
LAST_ROUND = 7
FORKED_ROUND = 5
"""Two records follow that of the round before; the node and everybody else go on with one."""
SNAPSHOT_ROUNDS = (3, 6)
ROOT_ROUND = 4
"""Its record carries the root of the state after the round before."""


@dataclass(slots=True)
class Swarm:
    """Peers that train and agree in this process. What peer 0 keeps goes into `folder`.

    `lies` says for (peer, round) which digest what it signs gives instead of the true one.
    """

    folder: Path
    initial: bytes = b""
    """A snapshot file to go on from, if any."""
    lies: dict[tuple[int, int], bytes] = field(default_factory=dict)
    false_root: bytes = b""
    """What the record of ROOT_ROUND carries instead of the true one."""
    keys: list[NodeKey] = field(default_factory=lambda: [make_key(n) for n in range(PEERS)])
    manifest: Manifest = field(init=False)
    run_id: bytes = field(init=False)
    chain: Chain = field(init=False)
    head: bytes = b""
    digests: dict[bytes, bytes] = field(default_factory=dict)
    payloads: dict[bytes, bytes] = field(default_factory=dict)
    learners: list[LocalLearner] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.set_num_threads(1)  # tiny matrices: a second thread waits more than it works
        usual = builders.manifest(agreement=Agreement(snapshot_every=ROOT_ROUND + 1))
        text = corpus_bytes(usual)
        train, heldout = text[: usual.data.train_bytes], text[usual.data.train_bytes :]
        corpus = build_corpus("stdlib-bytes", train, heldout, 1_024)
        named = hashlib.sha256(self.initial).hexdigest() if self.initial else ""
        self.manifest = replace(usual, data=corpus.data, initial=named)
        self.run_id = compute_run_id(self.manifest)
        self.chain = Chain(self.manifest, self.run_id, genesis_state(self.run_id))
        disk = FileDisk()
        datadir = open_datadir(disk, self.folder)
        if self.initial:
            datadir.initial.write_bytes(self.initial)
        samples = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self.learners = [
            LocalLearner(self.manifest, samples, CPU, initial=datadir.initial) for _ in self.keys
        ]
        for learner in self.learners:
            self.digests[self.run_id] = learner.load(self.run_id, None)
        save_manifest(disk, datadir.manifest, self.manifest)
        save_corpus(disk, datadir.corpus, corpus)
        create_key(disk, datadir.key, self.keys[0])

    def run(self) -> None:
        """All rounds, one after the other."""
        self.head = self.run_id
        for round_ in range(LAST_ROUND + 1):
            headers = [self.contribute(peer, self.head, round_) for peer in range(PEERS)]
            record = self.propose(self.head, round_, headers, rank=0)
            if round_ == FORKED_ROUND:
                self.propose(self.head, round_, headers[:2], rank=1)
            self.head = record.hash
            if round_ in SNAPSHOT_ROUNDS:
                self.save_snapshot(record)

    def propose(
        self, parent: bytes, round_: int, headers: list[Sealed[Header]], *, rank: int
    ) -> Record:
        """A record by the member of that rank; everybody joins in the first one."""
        author = self._find_author(parent, round_, rank)
        sealed = self.seal(self.keys[author], parent, round_, headers)
        if author == 0:
            self._sign("proposal", round_, sealed.raw)
        record = self.chain.add(sealed, {h.hash: h for h in headers}, verify)
        self.log(ChainEntry(record.hash, parent, round_, encode_bundle(make_bundle(record))))
        order = ApplyOrder(
            record=record.hash,
            parent=parent,
            round=round_,
            payloads=tuple(self.payloads[h.body.payload_hash] for h in record.contributions),
        )
        for learner in self.learners:
            self.digests[record.hash] = learner.apply(order)
        return record

    def seal(
        self, author: NodeKey, parent: bytes, round_: int, headers: list[Sealed[Header]]
    ) -> Sealed[Proposal]:
        """A signed proposal, whether or not any rule allows it."""
        joins = [self._join(peer) for peer in range(PEERS)] if parent == self.run_id else []
        joins.sort(key=lambda join: join.body.peer)
        number = self.keys.index(author) if author in self.keys else -1
        proposal = Proposal(
            round=round_,
            peer=author.public,
            parent=parent,
            parent_digest=self.lies.get((number, round_), self.digests[parent]),
            contributions=tuple(sorted(header.hash for header in headers)),
            late=(),
            joins=tuple(join.raw for join in joins),
            leaves=(),
            state_root=self._root_due(parent),
        )
        return seal_proposal(proposal, self.run_id, author.sign)

    def _root_due(self, parent: bytes) -> bytes:
        state = self.chain[parent].state if parent in self.chain else None
        if state is None or not carries_root(self.manifest.agreement, state.height + 1):
            return b""
        return self.false_root or compute_state_root(state, self.learners[0].leaves(parent))

    def log(self, entry: ChainEntry) -> None:
        """Append to chain.log; `rewrite_log` for what its node would not append."""
        log = ChainLog(FileDisk(), DataDir(self.folder).chain_log, self.run_id)
        log.append(entry)
        log.sync()
        log.close()

    def entries(self) -> list[tuple[int, ChainEntry]]:
        """(position, entry) of chain.log."""
        path = DataDir(self.folder).chain_log
        return list(scan_chain_log(FileDisk(), path, self.run_id, lambda damage: None))

    def rewrite_log(self, entries: Iterable[ChainEntry]) -> None:
        """A chain.log of just these, its checks as they should be."""
        header = compute_file_header("chain", self.run_id)
        payloads = [e.record + e.parent + e.round.to_bytes(8, "big") + e.raw for e in entries]
        DataDir(self.folder).chain_log.write_bytes(b"".join(encode_file(header, payloads)))

    def save_snapshot(self, record: Record) -> None:
        info = SnapshotInfo(
            run_id=self.run_id,
            record=record.hash,
            round=record.round,
            height=record.state.height,
            digest=self.digests[record.hash],
            chain_state=encode_chain_state(record.state),
        )
        store = SnapshotStore(FileDisk(), DataDir(self.folder).snapshots, self.run_id)
        asyncio.run(store.save(info, _later(self.learners[0].snapshot(record.hash))))

    def contribute(
        self, peer: int, base: bytes, round_: int, *, digest: bytes = b"", samples: int = 4
    ) -> Sealed[Header]:
        """A signed header of what the peer has just trained."""
        trained = self._train(peer, base, round_, samples)
        name = PayloadStore(FileDisk(), DataDir(self.folder).payloads).put(round_, trained.payload)
        self.payloads[name] = trained.payload
        header = Header(
            round=round_,
            peer=self.keys[peer].public,
            base=base,
            digest=digest or self.lies.get((peer, round_), self.digests[base]),
            vote=base,
            payload_hash=name,
            payload_bytes=len(trained.payload),
            k=trained.k,
            samples=trained.samples,
            loss_micronats=trained.loss_micronats,
        )
        sealed = seal_header(header, self.run_id, self.keys[peer].sign)
        if peer == 0:
            self._sign("header", round_, sealed.raw)
        return sealed

    def _train(self, peer: int, base: bytes, round_: int, samples: int) -> Trained:
        return self.learners[peer].train(
            TrainOrder(
                round=round_,
                base=base,
                deadline_ms=time.time_ns() // 1_000_000 + 60_000,
                sample_first=16 * (PEERS * round_ + peer),
                sample_count=samples,
                k=self.manifest.learning.k,
            )
        )

    def _find_author(self, parent: bytes, round_: int, rank: int) -> int:
        state, agreement = self.chain[parent].state, self.manifest.agreement
        if not get_member_names(state, agreement):
            return 0
        ranks = [compute_rank(state, key.public, round_, agreement) for key in self.keys]
        return ranks.index(rank)

    def _join(self, peer: int) -> Sealed[Membership]:
        wish = Membership(joins=True, peer=self.keys[peer].public, round=0)
        return seal_membership(wish, self.run_id, self.keys[peer].sign)

    def _sign(self, kind: str, round_: int, raw: bytes) -> None:
        log = SignedLog(FileDisk(), DataDir(self.folder).signed_log, self.run_id, 0)
        log.put(kind, round_, raw)
        log.close()


def make_key(number: int) -> NodeKey:
    return NodeKey(bytes([number + 1]) * 32)


async def _later(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
