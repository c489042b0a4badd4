"""`demo-node verify`: everything in a data folder that signatures, hashes and links can prove.

Reads only, and needs neither torch nor a stopped node. What a running node changes meanwhile is
not damage.
"""

from collections.abc import Iterable
from pathlib import Path

from demo_node.audit.files import (
    check_corpus,
    check_initial,
    check_key,
    check_payloads,
    list_payloads,
)
from demo_node.audit.findings import About, Finding, Report, Say, count, say_nothing
from demo_node.audit.logs import check_chain_log, check_signed_log, read_owner
from demo_node.audit.records import FILE, RecordAudit
from demo_node.audit.snapshots import (
    REMEDY,
    SnapshotHead,
    check_snapshot,
    list_snapshots,
    read_head,
)
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.store.datadir import DataDir
from demo_node.store.disk import Disk
from demo_node.store.manifest_file import AGAIN, OtherProtocol, load_manifest
from demo_node.store.tensorfile import NotTensors
from demo_protocol.errors import ConfigError
from demo_protocol.manifest import Manifest, compute_run_id
from demo_protocol.schema import compute_schema


def verify_folder(disk: Disk, folder: Path, say: Say = say_nothing) -> Report:
    """Check a data folder. Raises ConfigError where there is no run in it that we can read."""
    datadir, report = DataDir(folder), Report()
    manifest = _verify_manifest(disk, datadir, report)
    if manifest is None:
        report.notes.append("without the run's manifest nothing else can be checked")
        return report
    run_id = compute_run_id(manifest)
    _verify_own(disk, datadir, run_id, report)
    heads = _verify_snapshots(disk, datadir, manifest, report)
    held = list_payloads(disk, datadir)
    audit = RecordAudit(
        manifest=manifest,
        run_id=run_id,
        roots={head.info.record: head.state for head in heads},
        held=held,
    )
    report.found(*check_chain_log(disk, datadir, run_id, audit, say))
    _tell_records(audit, report)
    report.found(*_compare(heads, audit))
    report.found(*check_payloads(disk, held, audit.listed))
    strangers = sum(name not in audit.listed for name in held)
    report.looked_at("payloads", f"{len(held)}, {strangers} of them in no record")
    report.found(*check_initial(disk, datadir, manifest))
    is_here, findings = check_corpus(disk, datadir, manifest.data)
    report.found(*findings)
    report.looked_at("corpus", "the text of the manifest's root" if is_here else "not here")
    return report


def _verify_manifest(disk: Disk, datadir: DataDir, report: Report) -> Manifest | None:
    """The run's manifest; None, with a finding, where it is not what this folder is about."""
    file = datadir.manifest.name
    try:
        manifest = load_manifest(disk, datadir.manifest)
    except OtherProtocol:
        raise  # nothing is wrong with it
    except ConfigError as error:
        text = str(error).removeprefix(f"{datadir.manifest}: ").removesuffix(f"; {AGAIN}")
        report.found(Finding(file=file, text=text, remedy=AGAIN))
        return None
    if manifest is None:
        raise ConfigError(f"{datadir.path} holds no run; name a node's data folder with --datadir")
    run_id = compute_run_id(manifest)
    report.looked_at("manifest", f'run {run_id.hex()}, "{manifest.name}"')
    owners = [owner for owner in _find_owners(disk, datadir) if owner]
    if owners and run_id not in owners:
        text = f"its run is {run_id.hex()[:16]}, everything else here is of {owners[0].hex()[:16]}"
        report.found(Finding(file=file, text=text, remedy=AGAIN))
        return None
    return manifest


def _find_owners(disk: Disk, datadir: DataDir) -> Iterable[bytes]:
    """The runs that the other files say they belong to."""
    yield read_owner(disk, datadir.chain_log, "chain")
    yield read_owner(disk, datadir.signed_log, "signed")
    for head in _read_heads(disk, datadir):
        yield head.info.run_id


def _verify_own(disk: Disk, datadir: DataDir, run_id: bytes, report: Report) -> None:
    key, findings = check_key(disk, datadir)
    report.found(*findings)
    if key is not None:
        report.looked_at("key", f"of {encode_peer_id(key.public)}, readable by its owner only")
    elif not findings:
        report.looked_at("key", "not here")
    signed, findings = check_signed_log(disk, datadir, run_id, key.public if key else b"")
    report.found(*findings)
    report.looked_at("signed", f"{count(signed, 'message')} of this node")


def _verify_snapshots(
    disk: Disk, datadir: DataDir, manifest: Manifest, report: Report
) -> list[SnapshotHead]:
    """Heads of the snapshots with which nothing is wrong so far."""
    run_id, schema = compute_run_id(manifest), compute_schema(manifest.model)
    damaged = set()
    paths = list_snapshots(disk, datadir.snapshots)
    for path in paths:
        findings = check_snapshot(disk, path, run_id, schema)
        report.found(*findings)
        if any(finding.file == f"snapshots/{path.name}" for finding in findings):
            damaged.add(path)
    heads = [head for head in _read_heads(disk, datadir) if head.path not in damaged]
    newest = max((head.info.round for head in heads), default=None)
    of = "" if newest is None else f", the newest of round {newest}"
    report.looked_at("snapshots", f"{len(paths)}{of}")
    return heads


def _read_heads(disk: Disk, datadir: DataDir) -> Iterable[SnapshotHead]:
    for path in list_snapshots(disk, datadir.snapshots):
        try:
            yield read_head(disk, path)
        except (NotTensors, FileNotFoundError):
            continue


def _tell_records(audit: RecordAudit, report: Report) -> None:
    report.found(*audit.findings)
    span = f" of rounds {audit.first_round} to {audit.newest_round}" if audit.records else ""
    records = count(audit.records, "record")
    report.looked_at("chain", f"{records}{span} with {count(audit.headers, 'header')}")
    is_damaged = any(f.file == FILE and f.about is About.FOLDER for f in report.findings)
    report.notes.extend(_describe_gaps(audit, is_damaged=is_damaged))
    if audit.unchecked:
        report.notes.append(
            f"checked for hashes, links and signatures only: {count(audit.unchecked, 'record')}, as"
            " the chain's state before is not here any more"
        )


def _describe_gaps(audit: RecordAudit, *, is_damaged: bool) -> Iterable[str]:
    """A joiner's log begins at the snapshot it got, and that is dropped with time."""
    rest = []
    for gap in audit.gaps.values():
        if gap.is_first and (gap.is_snapshot or not is_damaged):
            yield f"the log begins at round {gap.round}: this node joined from a snapshot there"
        elif gap.is_snapshot:
            yield f"the log goes on at round {gap.round}: this node took a snapshot there"
        else:
            rest.append(gap.round)
    if rest:
        lost = "or the log lost records" if not is_damaged else "or what is damaged was there"
        yield (
            f"the log lacks {count(len(rest), 'record')} that others follow, the first before round"
            f" {min(rest)}: there the node took a snapshot that it has dropped since, {lost}"
        )


def _compare(heads: Iterable[SnapshotHead], audit: RecordAudit) -> Iterable[Finding]:
    """Do the snapshots say what the log says?"""
    for head in heads:
        file, round_ = f"snapshots/{head.path.name}", head.info.round
        state = audit.states.get(head.info.record)
        if state is not None and state != head.info.chain_state:
            text = "its chain state is not the one that the records in chain.log lead to"
            yield Finding(file=file, round=round_, text=text, remedy=REMEDY)
        claims = audit.digests.get(head.info.record, {})
        agreeing = claims.get(head.info.digest, 0)
        if 2 * agreeing < sum(claims.values()):
            text = f"{sum(claims.values()) - agreeing} of {sum(claims.values())} messages give"
            text += f" another digest for it than its own {head.info.digest.hex()}"
            yield Finding(file=file, round=round_, text=text, remedy=REMEDY)
