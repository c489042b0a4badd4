"""What a node keeps on its disk, and an archive for others."""

from collections.abc import Sequence
from typing import Protocol


class RoundStore(Protocol):
    """What a round writes down and looks up. Methods that wait on the disk are coroutines."""

    async def persist_signed(self, kind: str, round_: int, hash_: bytes, raw: bytes) -> None:
        """Durable when it returns (rule 10). Raises LocalFault where another hash is there."""
        ...

    def list_signed(self, kind: str) -> tuple[int, list[bytes]]:
        """What was signed of a kind, oldest first, after a round, and that round.

        Up to it what was signed may be forgotten; -1 where nothing is. May be called in a thread.
        """
        ...

    async def keep_record(self, record: bytes, parent: bytes, round_: int, bundle: bytes) -> None:
        """Append a RecordBundle to the chain log."""
        ...

    async def read_record(self, record: bytes) -> tuple[bytes | None, bytes]:
        """(RecordBundle of a record, its parent), or (None, b"") where the log lacks it."""
        ...

    @property
    def payload_bytes(self) -> int:
        """Bytes of all payloads that are held."""
        ...

    @property
    def payloads_from(self) -> int | None:
        """First round of which there are payloads; None where there are none at all."""
        ...

    async def keep_payload(self, round_: int, payload_hash: bytes, raw: bytes) -> None:
        """Keep a payload for the window of the manifest.

        Raises ConfigError where the disk takes none: then it is held in memory for a while.
        """
        ...

    async def read_payload(self, payload_hash: bytes) -> bytes | None:
        """The payload, if it is held and its hash still matches."""
        ...

    async def forget_payloads_before(self, round_: int, needed_from: int) -> int:
        """Payloads of older rounds are not needed any more. Returns the first round kept.

        A later one where the disk budget asks for it, but none from `needed_from` on is dropped.
        """
        ...


class Archive(Protocol):
    """What a node serves besides its rounds."""

    def snapshots(self) -> Sequence[tuple[bytes, bytes]]:
        """(record, root of the state after it) of the snapshots that can be given, newest first."""
        ...

    async def read_initial(self, hash_: bytes) -> bytes | None:
        """The file of state 0, by its SHA-256, where the manifest names one."""
        ...

    async def read_state_leaves(self, root: bytes) -> bytes | None:
        """Leaf hashes of a state that is kept, by its Merkle root (rule 21)."""
        ...

    async def read_state_chunk(self, leaf: bytes) -> bytes | None:
        """A chunk of such a state, by its leaf hash."""
        ...

    async def read_corpus(self, hash_: bytes) -> bytes | None:
        """For the corpus root the list of its leaf hashes, for a leaf hash the block."""
        ...

    def addresses(self) -> Sequence[str]:
        """Multiaddrs of this node and of peers it knows, for others to dial."""
        ...
