"""`demo-node replay`: rounds done again, and everything compared that somebody said of them.

Digests accuse, replays decide (rule 20): what comes out here from payloads that have the right
hashes is what every honest node had. Reads only.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from demo_node.audit.branch import (
    Branch,
    Evidence,
    Link,
    Payment,
    choose_branch,
    collect_evidence,
)
from demo_node.audit.disputes import Disputes
from demo_node.audit.files import REFETCH, REPULL, list_payloads
from demo_node.audit.findings import About, Finding, Report, Say, count, say_nothing
from demo_node.audit.logs import read_chain_log
from demo_node.audit.records import FILE, TELL
from demo_node.audit.snapshots import (
    REMEDY,
    SnapshotHead,
    check_snapshot,
    list_snapshots,
    read_head,
)
from demo_node.learn.digest import compute_digest
from demo_node.learn.exact import apply_update
from demo_node.native import decode_payload
from demo_node.store.chainlog import ChainEntry
from demo_node.store.datadir import DataDir
from demo_node.store.disk import Disk
from demo_node.store.manifest_file import load_manifest
from demo_node.store.tensorfile import NotTensors
from demo_node.trainer.device import choose_devices
from demo_node.trainer.tensors import compute_leaves, decode_tensors, make_initial
from demo_protocol.errors import ConfigError, Reject
from demo_protocol.fp32 import compute_step
from demo_protocol.manifest import Manifest, compute_run_id
from demo_protocol.payload import Payload
from demo_protocol.roster import GENESIS_ROUND
from demo_protocol.schema import compute_schema
from demo_protocol.state_root import compute_state_root

State = Mapping[str, Tensor]

Heads = Mapping[bytes, SnapshotHead]
"""Snapshots by the record they follow."""

SAY_EVERY: Final = 50
"""Records between two lines of progress."""

FETCH: Final = "copy it from a peer's data folder, or replay from a later round"


@dataclass(frozen=True, slots=True)
class Start:
    """A state at hand, after the first `done` records of the branch; state 0 without a snapshot."""

    done: int
    record: bytes
    round: int
    head: SnapshotHead | None

    @property
    def name(self) -> str:
        """For people."""
        return f"the snapshot of round {self.round}" if self.head else "state 0"


class _Gap(Exception):
    """The replay cannot go past this record; the finding says why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.text)
        self.finding = finding


def replay_folder(
    disk: Disk,
    folder: Path,
    *,
    first: int | None = None,
    last: int | None = None,
    device: str = "auto",
    say: Say = say_nothing,
) -> Report:
    """Execute the rounds `first` to `last` again and compare. None: as far as payloads reach.

    Raises ConfigError where there is nothing to replay, or nothing to begin with.
    """
    datadir = DataDir(folder)
    manifest = load_manifest(disk, datadir.manifest)
    if manifest is None:
        raise ConfigError(f"{folder} holds no run; name a node's data folder with --datadir")
    devices = choose_devices(device)
    if not devices.can_contribute:
        raise ConfigError("this machine's arithmetic is not exact: replay on another one")
    replay = _Replay(disk, datadir, manifest, devices.apply, say)
    replay.run(first, last)
    return replay.report


class _Replay:
    def __init__(
        self, disk: Disk, datadir: DataDir, manifest: Manifest, device: torch.device, say: Say
    ) -> None:
        self.report = Report()
        self._disk = disk
        self._datadir = datadir
        self._manifest = manifest
        self._device = device
        self._say = say
        self._run_id = compute_run_id(manifest)
        self._schema = compute_schema(manifest.model)
        self._payloads = list_payloads(disk, datadir)
        self._disputes = Disputes()
        self._evidence = Evidence()
        self._applied = 0
        self._compared = 0
        self._roots = 0

    def run(self, first: int | None, last: int | None) -> None:
        """Plan, replay, and say what came out."""
        branch = choose_branch(
            lambda: self._read_log(self.report.found), self._run_id, self._payloads, first, last
        )
        newest = branch.links[-1].round
        is_asked_for = last is not None or first == newest
        if not is_asked_for and not branch.links[-1].is_complete and len(branch.links) > 1:
            self.report.notes.append(
                f"left out: the newest record, of round {newest}, waits for payloads"
            )
            branch = replace(branch, links=branch.links[:-1])
        heads, sound = self._read_snapshots()
        starts = list(self._find_starts(branch, sound))
        start = _choose_start(branch, starts, first)
        self._evidence = collect_evidence(self._read_log, self._run_id, branch, start.round)
        self.report.found(*self._evidence.findings)
        self.report.looked_at("branch", branch.why)
        self.report.looked_at("begin", _describe_begin(start, branch, first))
        following: Start | None = start
        while following is not None:
            done = self._replay_from(following, branch, heads)
            # Past what is missing, the next snapshot goes on.
            following = next((s for s in starts if s.done > max(done, following.done)), None)
        self.report.found(*self._disputes.findings())
        self._tell()

    def _tell(self) -> None:
        """Say what was done. Raises ConfigError where nothing was, and nothing is wrong."""
        agreed, compared = self._disputes.agreed, self._compared
        if not self._applied and not self.report.findings:
            if not agreed:
                raise ConfigError(
                    "nothing was replayed: no record has its payloads and a state to begin with"
                )
            self.report.notes.append("no record was done again: only a state at hand was compared")
        roots = f", {count(self._roots, 'root')}" if self._roots else ""
        said = f"{count(agreed, 'digest')} of peers{roots} and {count(compared, 'snapshot')} agree"
        done = count(self._applied, "record")
        self.report.looked_at("replayed", f"{done} on {self._device}; {said}")

    def _read_log(
        self, found: Callable[[Finding], None] = lambda finding: None
    ) -> Iterator[ChainEntry]:
        return read_chain_log(self._disk, self._datadir, self._run_id, found)

    def _read_snapshots(self) -> tuple[dict[bytes, SnapshotHead], list[SnapshotHead]]:
        """Snapshots to compare with, by record; and those of them that may be begun with."""
        heads, sound = {}, []
        for path in list_snapshots(self._disk, self._datadir.snapshots):
            findings = check_snapshot(self._disk, path, self._run_id, self._schema)
            self.report.found(*findings)
            try:
                head = read_head(self._disk, path)
            except (NotTensors, FileNotFoundError):
                continue
            heads[head.info.record] = head
            if not findings:
                sound.append(head)
        return heads, sound

    def _find_starts(self, branch: Branch, heads: Sequence[SnapshotHead]) -> Iterator[Start]:
        """States on the branch, oldest first."""
        by_record = {head.info.record: head for head in heads}
        is_here = not self._manifest.initial or self._datadir.initial.exists()
        if branch.before == self._run_id and is_here:
            yield Start(0, self._run_id, GENESIS_ROUND, None)
        for done, record in enumerate([branch.before, *(link.record for link in branch.links)]):
            if record in by_record:
                yield Start(done, record, by_record[record].info.round, by_record[record])

    def _replay_from(self, start: Start, branch: Branch, heads: Heads) -> int:
        """Replay until the end or a gap; returns how many of the branch's records are done."""
        try:
            state: State = self._load(start)
        except _Gap as gap:
            self.report.found(gap.finding)
            return start.done
        self._compare_root(heads.get(start.record), state)
        for done in range(start.done, len(branch.links)):
            link = branch.links[done]
            try:
                payloads = self._read_payloads(link)
            except _Gap as gap:
                self.report.found(gap.finding)
                return done
            step = compute_step(self._manifest.learning, link.round)
            state = apply_update(state, payloads, self._schema, step)
            digest = compute_digest(state)
            self._applied += 1
            self._disputes.compare(link.round, digest, self._evidence.claims.get(link.record, []))
            if link.record in heads:
                self._compare_snapshot(heads[link.record], state)
                self._compare_root(heads[link.record], state)
            if self._applied % SAY_EVERY == 0:
                replayed = count(done + 1 - start.done, "record")
                self._say(f"replayed {replayed}, up to round {link.round}")
        return len(branch.links)

    def _load(self, start: Start) -> State:
        """The tensors to begin with. Raises _Gap where most peers know them to be others."""
        if start.head is None:
            state: State = self._load_initial()
            digest = compute_digest(state)
        else:
            state, digest = self._load_snapshot(start.head), start.head.info.digest
        claims = self._evidence.claims.get(start.record, [])
        agreeing = sum(claim.digest == digest for claim in claims)
        if start.head is not None and 2 * agreeing < len(claims):
            text = f"{len(claims) - agreeing} of {len(claims)} messages give another digest for it"
            raise _Gap(_blame(start.head, f"{text} than its own {digest.hex()}"))
        self._disputes.compare(start.round, digest, claims)
        return state

    def _load_initial(self) -> State:
        file = self._datadir.initial
        try:
            tensors = make_initial(self._manifest, self._schema, file)
        except ConfigError:
            text = "it is not the snapshot that the manifest names"
            raise _Gap(Finding(file=file.name, text=text, remedy=REFETCH)) from None
        return {name: tensor.to(self._device) for name, tensor in tensors.items()}

    def _load_snapshot(self, head: SnapshotHead) -> State:
        try:
            tensors = decode_tensors(self._disk.read(head.path), self._schema)
        except Reject as error:
            raise _Gap(_blame(head, str(error))) from None
        except FileNotFoundError:
            raise _Gap(_blame(head, "a running node has dropped it meanwhile")) from None
        return {name: tensor.to(self._device) for name, tensor in tensors.items()}

    def _read_payloads(self, link: Link) -> list[Payload]:
        """What the record's contributions sent. Raises _Gap where one cannot be used."""
        payloads = []
        for payment in self._evidence.contributions[link.record]:
            name = payment.payload_hash.hex()
            raw, file = self._read_payload(payment.payload_hash)
            if raw is None:
                text = f"payload {name[:16]} is not here (any more)"
                raise _Gap(_lacking("payloads", link, payment, text, FETCH))
            if hashlib.sha256(raw).digest() != payment.payload_hash:
                text = "its bytes do not have the hash that is its name"
                raise _Gap(_lacking(file, link, payment, text, REPULL))
            try:
                payloads.append(decode_payload(raw, self._schema, self._manifest.learning.k))
            except Reject as error:
                raise _Gap(
                    Finding(
                        file=file,
                        round=link.round,
                        peer=payment.peer,
                        about=About.PEER,
                        text=str(error),
                        remedy=TELL,
                    )
                ) from None
        return payloads

    def _read_payload(self, payload_hash: bytes) -> tuple[bytes | None, str]:
        """(bytes, file) of a payload; None where it is not here."""
        for path in self._payloads.get(payload_hash, []):
            with contextlib.suppress(FileNotFoundError):
                file = f"payloads/{path.parent.name}/{path.name}"
                return self._disk.read(path), file
        return None, ""

    def _compare_root(self, head: SnapshotHead | None, state: State) -> None:
        """Rule 21: what the records after this one say that its state is. The snapshot has what
        the chain says there, which is part of it.
        """
        if head is None:
            return
        claims = self._evidence.roots.get(head.info.record, [])
        root = compute_state_root(head.state, compute_leaves(state)) if claims else b""
        for claim in claims:
            if claim.digest == root:
                self._roots += 1
                continue
            text = (
                f"names root {claim.digest.hex()[:16]} for the state after round"
                f" {head.info.round}, the replay gives {root.hex()[:16]}"
            )
            self.report.found(
                Finding(
                    file=FILE,
                    round=claim.round,
                    peer=claim.peer,
                    about=About.PEER,
                    text=text,
                    remedy=TELL,
                )
            )

    def _compare_snapshot(self, head: SnapshotHead, state: State) -> None:
        """Bit by bit: every tensor of a snapshot and of the replay."""
        findings = []
        for spec in self._schema.tensors:
            offsets = head.tensors.get(spec.name, {}).get("data_offsets", [0, 0])
            try:
                raw = self._disk.read(
                    head.path, len(head.header) + offsets[0], offsets[1] - offsets[0]
                )
            except FileNotFoundError:  # a running node has dropped it meanwhile
                return
            words = state[spec.name].cpu().numpy().reshape(-1).view(np.uint32)
            if len(raw) != 4 * spec.size:
                findings.append(_blame(head, "it is not as large as the model has it", spec.name))
                continue
            different = int((np.frombuffer(raw, dtype="<u4") != words).sum())
            if different:
                text = f"{different} of {spec.size} values differ from the replay's"
                findings.append(_blame(head, text, spec.name))
        self.report.found(*findings)
        self._compared += not findings


def _choose_start(branch: Branch, starts: Sequence[Start], first: int | None) -> Start:
    """The newest state before round `first`; for None the oldest that payloads reach back to."""
    if not starts:
        raise ConfigError(
            "no sound snapshot lies on this branch, and the log does not begin at the run's start:"
            " there is no state to begin with"
        )
    if first is None:
        reach = len(branch.links)
        while reach and branch.links[reach - 1].is_complete:
            reach -= 1
        return next((s for s in starts if s.done >= reach), starts[-1])
    fitting = [s for s in starts if s.round < first] or [s for s in starts if s.round == first]
    if not fitting:
        raise ConfigError(
            f"the oldest state at hand is that after round {starts[0].round}:"
            f" replay --from {starts[0].round + 1} or later"
        )
    return fitting[-1]


def _describe_begin(start: Start, branch: Branch, first: int | None) -> str:
    """With which state, and why with an older one than was asked for."""
    early = [link.round for link in branch.links[start.done :] if link.round < (first or 0)]
    if not early:
        return f"with {start.name}"
    also = f"rounds {early[0]} to {early[-1]} are" if len(early) > 1 else f"round {early[0]} is"
    return f"with {start.name}, the newest before round {first}: {also} done again as well"


def _blame(head: SnapshotHead, text: str, tensor: str = "") -> Finding:
    return Finding(
        file=f"snapshots/{head.path.name}",
        round=head.info.round,
        tensor=tensor,
        text=text,
        remedy=REMEDY,
    )


def _lacking(file: str, link: Link, payment: Payment, text: str, remedy: str) -> Finding:
    return Finding(file=file, round=link.round, peer=payment.peer, text=text, remedy=remedy)
