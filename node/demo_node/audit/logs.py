"""Both logs, read entry by entry: what is damaged is named, what is intact is looked into."""

from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path
from typing import Final

from demo_node.audit.findings import Finding, Say
from demo_node.audit.records import FILE, RESTORE, RecordAudit
from demo_node.store.chainlog import ChainEntry, decode_entry, scan_chain_log
from demo_node.store.datadir import DataDir
from demo_node.store.disk import Disk
from demo_node.store.frames import ENTRY_BYTES_MAX, FRAME_BYTES, START, Damage, compute_file_header
from demo_node.store.key import verify
from demo_node.store.signed import scan_signed_log
from demo_protocol.answers import decode_bundle
from demo_protocol.errors import ConfigError, Reject
from demo_protocol.identity import Kind
from demo_protocol.limits import HASH_BYTES
from demo_protocol.messages import (
    Header,
    Membership,
    Proposal,
    Sealed,
    check_signature,
    decode_header,
    decode_membership,
    decode_proposal,
)

SAY_EVERY: Final = 10_000
"""Records between two lines of progress: some seconds."""

SIGNED_FILE: Final = "signed.log"

SIGNED_REMEDY: Final = (
    "none is needed: at its next start the node sets the damage aside and sits out a round"
)


def read_owner(disk: Disk, path: Path, purpose: str) -> bytes:
    """The run that a log says it belongs to; empty where it does not say."""
    try:
        header = disk.read(path, 0, START)
    except FileNotFoundError:
        return b""
    owner = header[-HASH_BYTES - 8 : -8]
    is_whole = len(header) == START and header == compute_file_header(purpose, owner)
    return owner if is_whole else b""


def read_chain_log(
    disk: Disk, datadir: DataDir, run_id: bytes, found: Callable[[Finding], None]
) -> Iterator[ChainEntry]:
    """The intact entries, parents before children; `found` is told of damage in the end.

    Raises ConfigError for another run's.
    """
    path, last = datadir.chain_log, 0
    damages: list[Damage] = []

    def scan() -> Iterator[ChainEntry]:
        nonlocal last
        for position, entry in scan_chain_log(disk, path, run_id, damages.append):
            yield entry
            last = position

    try:
        logged = {e.record for _, e in scan_chain_log(disk, path, run_id, lambda damage: None)}
        yield from _put_in_order(scan(), logged)
    except FileNotFoundError:
        return
    for damage in _leave_unfinished(disk, path, damages, last):
        found(
            Finding(
                file=FILE,
                round=_guess_round(disk, path, damage, run_id),
                text=_describe(damage),
                remedy=(
                    "none is needed: at its next start the node sets the damage aside and asks its"
                    " peers for the record"
                ),
            )
        )


def _put_in_order(entries: Iterable[ChainEntry], logged: Container[bytes]) -> Iterator[ChainEntry]:
    """Each entry after its parent, where that is `logged`: a node that catches up keeps several
    records at once, and which is written first is chance. Only what waits is in memory.
    """
    seen: set[bytes] = set()
    waiting: dict[bytes, list[ChainEntry]] = {}
    for arrived in entries:
        if arrived.parent in logged and arrived.parent not in seen:
            waiting.setdefault(arrived.parent, []).append(arrived)
            continue
        ready = deque([arrived])
        while ready:
            entry = ready.popleft()
            seen.add(entry.record)
            yield entry
            ready.extend(waiting.pop(entry.record, []))
    for left in waiting.values():  # their parents were damaged meanwhile
        yield from left


def check_chain_log(
    disk: Disk, datadir: DataDir, run_id: bytes, audit: RecordAudit, say: Say
) -> list[Finding]:
    """Feed every intact entry to `audit`; returns what is damaged."""
    damaged: list[Finding] = []
    try:
        for entry in read_chain_log(disk, datadir, run_id, damaged.append):
            audit.take(entry)
            if audit.records % SAY_EVERY == 0:
                say(f"checked {audit.records} records, up to round {entry.round}")
    except ConfigError:
        return [Finding(file=FILE, text="it belongs to another run", remedy=RESTORE)]
    audit.finish()
    return damaged


def check_signed_log(
    disk: Disk, datadir: DataDir, run_id: bytes, own: bytes
) -> tuple[int, list[Finding]]:
    """(messages, what is wrong). `own` is this node's public key, empty where it is not known."""
    damages: list[Damage] = []
    findings: list[Finding] = []
    count, path = 0, datadir.signed_log
    try:
        for kind, round_, raw in scan_signed_log(disk, path, run_id, damages.append):
            count += 1
            problem, own = _check_signed(kind, round_, raw, run_id, own)
            if problem:
                findings.append(Finding(file=SIGNED_FILE, round=round_, text=problem, remedy=_MOVE))
    except FileNotFoundError:
        return 0, []
    except ConfigError:
        return 0, [Finding(file=SIGNED_FILE, text="it belongs to another run", remedy=_MOVE)]
    for damage in damages:
        finding = Finding(file=SIGNED_FILE, text=_describe(damage), remedy=SIGNED_REMEDY)
        findings.append(finding)
    return count, findings


_MOVE = "move it away, if this key runs nowhere else, and sit out a round before you start again"


def _check_signed(
    kind: str, round_: int, raw: bytes, run_id: bytes, own: bytes
) -> tuple[str, bytes]:
    """(what is wrong or "", whose key the log's messages are signed with)."""
    try:
        author, signed_round = _check_message(kind, raw, run_id)
    except (Reject, ValueError) as error:
        return f"a {kind} here is none: {error}", own
    if signed_round != round_:
        return f"a {kind} of round {signed_round} is kept under this one", own
    if own and author != own:
        return f"a {kind} is signed with another key than node.key", own
    return "", author


def _check_message(kind: str, raw: bytes, run_id: bytes) -> tuple[bytes, int]:
    """(author, round) of a signed message. Raises Reject; ValueError: there is no such kind."""
    sealed: Sealed[Header] | Sealed[Proposal] | Sealed[Membership]
    match Kind(kind):
        case Kind.HEADER:
            check_signature(sealed := decode_header(raw, run_id), verify)
        case Kind.PROPOSAL:
            check_signature(sealed := decode_proposal(raw, run_id), verify)
        case Kind.MEMBERSHIP:
            check_signature(sealed := decode_membership(raw, run_id), verify)
    return sealed.body.peer, sealed.body.round


def _leave_unfinished(disk: Disk, path: Path, damages: list[Damage], last: int) -> list[Damage]:
    """What is damaged, less an entry that a running node was writing when we came to it.

    `last` is the position of the last intact entry.
    """
    if damages and damages[-1].position > last:
        end = damages[-1].position + damages[-1].length
        if disk.size(path) > end:
            return damages[:-1]
    return damages


def _guess_round(disk: Disk, path: Path, damage: Damage, run_id: bytes) -> int | None:
    """The round of the record that damaged bytes were, from what is left of them.

    Each is in it twice: in the signed proposal and before it. A flip spoils one of them.
    """
    raw = disk.read(path, damage.position, min(damage.length, ENTRY_BYTES_MAX))[FRAME_BYTES:]
    entry = decode_entry(raw)
    try:
        proposal = decode_proposal(decode_bundle(entry.raw).proposal, run_id)
        check_signature(proposal, verify)
    except Reject:
        return entry.round if len(raw) > 2 * HASH_BYTES + 8 and damage.position else None
    return proposal.body.round


def _describe(damage: Damage) -> str:
    if damage.position == 0:
        return "its first bytes, which name the run, are damaged"
    return f"{damage.length} bytes at {damage.position} are damaged"
