"""What a simulated node keeps: real logs on a disk in memory, which outlives each of its lives."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from demo_node.sim.shelf import Catalogue, Shelf
from demo_node.sim.snapshots import ModelSnapshots
from demo_node.store.chainlog import ChainEntry, ChainLog
from demo_node.store.memory import MemoryDisk
from demo_node.store.signed import SignedLog
from demo_protocol.effects import Finalised, Persist
from demo_protocol.finality import Final
from demo_protocol.identity import Kind
from demo_protocol.limits import RECORDS_PER_REPLY_MAX, RECORDS_REPLY_BYTES_MAX
from demo_protocol.roster import ChainState

if TYPE_CHECKING:
    from demo_node.sim.actor import Actor

FOLDER = Path("/node")


@dataclass(slots=True)
class Disk:
    """What of a node outlives a crash. Payload bytes and states are modelled by their names."""

    files: MemoryDisk
    payloads: Shelf
    is_full: bool = False
    final: Final | None = None
    final_state: ChainState | None = None
    snapshots: ModelSnapshots = field(default_factory=ModelSnapshots)


def make_disk(shared: dict[bytes, bytes], catalogue: Catalogue) -> Disk:
    """An empty one. `shared`: pieces of files that disks have in common."""
    files = MemoryDisk(shared=shared)
    files.make_folder(FOLDER)
    return Disk(files, Shelf(catalogue))


class Store:
    """The logs of one life of a node, and what goes to its disk besides."""

    def __init__(self, actor: "Actor", now_round: int) -> None:
        files, run_id = actor.disk.files, actor.world.run_id
        self._actor = actor
        self._chain_log = ChainLog(files, FOLDER / "chain.log", run_id)
        self._signed = SignedLog(files, FOLDER / "signed.log", run_id, now_round)

    def close(self) -> None:
        """The life is over."""
        self._signed.close()
        self._chain_log.close()

    @property
    def signed_until(self) -> dict[Kind, int]:
        """The newest round of each kind that was signed, in this life or an earlier one."""
        return {kind: self._signed.newest(kind) for kind in Kind}

    def entries(self, after_round: int) -> Iterator[ChainEntry]:
        """Records of later rounds, in the order in which they were kept."""
        return self._chain_log.entries(after_round)

    def keep_signed(self, effect: Persist) -> None:
        """Write down what is about to be sent (rule 10)."""
        self._signed.put(effect.kind, effect.round, effect.raw)

    def keep_record(self, record: bytes) -> None:
        """Write it down, with its headers."""
        step = self._actor.view.chain.records.get(record)
        if step is not None:
            raw = self._actor.world.encoded_bundle(step)
            self._chain_log.append(ChainEntry(record, step.parent, step.round, raw))
            self._chain_log.sync()

    def keep_final(self, effect: Finalised) -> None:
        """Remember what is never left, and what the chain says there."""
        disk = self._actor.disk
        disk.final = Final(effect.record, effect.round, effect.height)
        disk.final_state = self._actor.view.chain[effect.record].state

    def keep_snapshot(self) -> None:
        """Keep the state after the head, where one is due and it is here."""
        actor = self._actor
        state, agreement = actor.view.head_state, actor.world.manifest.agreement
        if state.height % agreement.snapshot_every == 0 and state.record in actor.trainer.states:
            window = agreement.payload_window_rounds
            actor.disk.snapshots.keep(actor.trainer.snapshot(state), window)

    def forget_payloads(self, round_: int) -> None:
        """Drop what no walk needs any more, now that `round_` is over."""
        actor = self._actor
        window = actor.world.manifest.agreement.payload_window_rounds
        actor.disk.payloads.forget_before(min(round_, actor.view.head_state.round) - window)

    def give_records(self, record: bytes, count: int) -> list[bytes]:
        """A record and its ancestors, oldest first, from memory or from the log.

        As `Server._records`: no more than an answer may hold.
        """
        chain, found = self._actor.view.chain, list[bytes]()
        size = 0
        while len(found) < min(count, RECORDS_PER_REPLY_MAX):
            step = chain.records.get(record)
            if step is not None and step.proposal is not None:
                raw, record = self._actor.world.encoded_bundle(step), step.parent
            elif (entry := self._chain_log.get(record)) is not None:
                raw, record = entry.raw, entry.parent
            else:
                break
            size += len(raw)
            if size > RECORDS_REPLY_BYTES_MAX:
                break
            found.append(raw)
        return found[::-1]

    def list_trail(self, final: Final | None) -> dict[bytes, int]:
        """Its records and their rounds, back to that of `final` if its log goes so far."""
        view = self._actor.view
        chain = view.chain
        trail = {step.hash: step.round for step in chain.ancestors(view.head)}
        name, round_ = chain.root.record, chain.root.round
        while final is not None and round_ > final.round:
            entry = self._chain_log.get(name)
            if entry is None:
                break
            trail[name] = round_ = entry.round
            name = entry.parent
        return trail
