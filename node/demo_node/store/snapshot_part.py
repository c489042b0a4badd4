"""A state that is being fetched chunk by chunk (rule 21), in `snapshots/<root>.part`."""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Final

from demo_node.store.assembler import Assembler
from demo_node.store.disk import Disk
from demo_node.store.tensorfile import encode_header
from demo_protocol.errors import Reject
from demo_protocol.limits import CHAIN_STATE_BYTES_MAX, STATE_CHUNK_BYTES
from demo_protocol.state_root import count_leaves

PART: Final = ".part"


class SnapshotPart(Assembler):
    """Chunks of one state, whose fp32 tensors have these `shapes`."""

    def __init__(
        self, disk: Disk, path: Path, root: bytes, shapes: Mapping[str, Sequence[int]]
    ) -> None:
        """Go on with what an earlier process fetched. Reads all of it."""
        self.shapes = shapes
        self.tensor_bytes = 4 * sum(prod(shape) for shape in shapes.values())
        count = count_leaves(self.tensor_bytes // 4)
        super().__init__(
            disk, path, "snapshot", root, count, STATE_CHUNK_BYTES, CHAIN_STATE_BYTES_MAX
        )

    @property
    def held_bytes(self) -> int:
        """Progress: bytes of parameters fetched so far, to within one chunk."""
        return min(self.held * STATE_CHUNK_BYTES, self.tensor_bytes)

    def read_chain_state(self) -> bytes:
        """What the chain says at the record. Once it is complete."""
        return self.read(self.leaves[0])

    def read_tensors(self) -> Iterator[bytes]:
        """The parameters, chunk by chunk. Once it is complete.

        Raises Reject where they are not as long as the model is: the root is of something else.
        """
        size = 0
        for leaf in self.leaves[1:]:
            chunk = self.read(leaf)
            size += len(chunk)
            yield chunk
        if size != self.tensor_bytes:
            raise Reject("it is of another model")

    def read_file(self) -> bytes:
        """A safetensors file of the parameters, for the trainer. Once it is complete."""
        return b"".join([encode_header(self.shapes, {}), *self.read_tensors()])


def compute_part_name(root: bytes) -> str:
    """Name of the file in which chunks of the state with this root are collected."""
    return root.hex()[:32] + PART
