"""`python -m tests.monitoring.faulty_node start ...`: a node that does wrong while told so.

It is the real node with a few seams patched. A fault is on while a file of its name lies in the
folder that the environment variable FAULTS_FOLDER names.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from libp2p.io.exceptions import ConnectionClosedError

from demo_node.cli import main
from demo_node.mesh.transport import MeteredStream
from demo_node.ports import ApplyOrder, Trained, TrainOrder
from demo_node.system_clock import SystemClock
from demo_node.trainer.client import TrainerClient
from demo_protocol.payload import PREFIX_BYTES
from demo_protocol.pool import Pool

FAULTS_FOLDER: Final = "DEMO_FAULTS_FOLDER"
"""Environment variable: where the files are."""

SKEW_MS: Final = 5_000


class Fault(StrEnum):
    """What can be wrong with a node."""

    ISOLATED = "isolated"  # no connection to a peer holds, neither way
    SKEWED = "skewed"  # the machine's clock is five seconds ahead
    UNSOUND = "unsound"  # payloads of the right length and hash, and malformed
    DIVERGED = "diverged"  # other parameters than everybody else's


@contextlib.contextmanager
def planted(folder: Path, fault: Fault) -> Iterator[None]:
    """The fault is there until the block ends."""
    path = folder / fault
    path.touch()
    try:
        yield
    finally:
        path.unlink()


def has(fault: Fault) -> bool:
    """Whether this node has the fault now."""
    return (Path(os.environ[FAULTS_FOLDER]) / fault).exists()


def patch_connections() -> None:
    """ISOLATED: what is read or written next ends its connection; new ones end at once."""
    read, write = MeteredStream.read, MeteredStream.write

    async def read_unless_cut(self: MeteredStream, n: int | None = None) -> bytes:
        data = await read(self, n)
        if has(Fault.ISOLATED):
            self.abort()
            return b""
        return data

    async def write_unless_cut(self: MeteredStream, data: bytes) -> None:
        if has(Fault.ISOLATED):
            self.abort()
            raise ConnectionClosedError("cut by a test", transport="tcp")
        await write(self, data)

    MeteredStream.read = read_unless_cut  # type: ignore[method-assign]
    MeteredStream.write = write_unless_cut  # type: ignore[method-assign]


def patch_clock() -> None:
    """SKEWED: what this node tells its peers, and compares with what they say."""
    raw_now_ms = SystemClock.raw_now_ms

    def skewed_now_ms(self: SystemClock) -> int:
        return raw_now_ms(self) + (SKEW_MS if has(Fault.SKEWED) else 0)

    SystemClock.raw_now_ms = skewed_now_ms  # type: ignore[method-assign]


def patch_trainer() -> None:
    """UNSOUND and DIVERGED: what comes out of the trainer is not what it should be."""
    train, apply, add_payloads = TrainerClient.train, TrainerClient.apply, Pool.add_payloads
    unsound: set[bytes] = set()

    async def train_unsound(self: TrainerClient, order: TrainOrder) -> Trained:
        trained = await train(self, order)
        if not has(Fault.UNSOUND):
            return trained
        prefix, rest = trained.payload[:PREFIX_BYTES], trained.payload[PREFIX_BYTES:]
        payload = prefix + bytes(len(rest))  # a code ends with a one
        unsound.add(hashlib.sha256(payload).digest())
        return replace(trained, payload=payload)

    def add_sound_payloads(self: Pool, round_: int, payload_hashes: Iterable[bytes]) -> None:
        sound = [name for name in payload_hashes if name not in unsound]
        add_payloads(self, round_, sound)  # a liar does not fall for what it made up itself

    async def apply_diverged(self: TrainerClient, order: ApplyOrder) -> bytes:
        digest = await apply(self, order)
        return bytes(byte ^ 0xFF for byte in digest) if has(Fault.DIVERGED) else digest

    TrainerClient.train = train_unsound  # type: ignore[method-assign]
    Pool.add_payloads = add_sound_payloads  # type: ignore[method-assign]
    TrainerClient.apply = apply_diverged  # type: ignore[method-assign]


if __name__ == "__main__":
    patch_connections()
    patch_clock()
    patch_trainer()
    main()
