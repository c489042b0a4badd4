"""All tensors of a state, or of a delta, in one row: what the codec reads and writes at once.

A matrix lies row by row, padded to whole chunks; all vectors follow, one after the other, padded
too. So every row of a chunk is 64 numbers in a line: chunks are cut out by one gather, whatever
the number of tensors. N chunks, S = 4096 N numbers.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from demo_node.native import Places
from demo_protocol.errors import LocalFault
from demo_protocol.schema import CHUNK, SLOTS, Schema


class Layout:
    """Where tensors and chunks lie in a row of a schema."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.size = schema.chunks * SLOTS
        self._starts: dict[str, tuple[int, int]] = {}
        """Offset and, of a matrix, pitch; 0: a vector."""
        offsets = np.arange(schema.chunks, dtype=np.int64) * SLOTS
        pitches = np.full(schema.chunks, CHUNK, dtype=np.int32)
        for grid in schema.grids:
            start, pitch = grid.first * SLOTS, grid.across * CHUNK
            self._starts[grid.name] = start, pitch
            chunk = np.arange(grid.down * grid.across)
            own = slice(grid.first, grid.first + len(chunk))
            down, across = np.divmod(chunk, grid.across)
            offsets[own] = start + down * CHUNK * pitch + across * CHUNK
            pitches[own] = pitch
        for span in schema.spans:
            self._starts[span.name] = schema.span_first * SLOTS + span.offset, 0
        self.places = Places(offsets, pitches, self.size)
        lines = offsets[:, None] + np.arange(CHUNK) * pitches[:, None].astype(np.int64)
        filled = torch.zeros(self.size, dtype=torch.bool)
        for view in self.view(filled).values():
            view.fill_(True)
        self.padding = torch.nonzero(~filled).flatten()
        """Numbers of the row that belong to no tensor, int64; kept 0."""
        self._lines = torch.from_numpy(lines.reshape(-1) // CHUNK)
        self._held: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def view(self, row: Tensor) -> dict[str, Tensor]:
        """The schema's tensors, by name in its order, sharing memory with a row [S]."""
        return {spec.name: self._view(row, spec.name, spec.shape) for spec in self.schema.tensors}

    def _view(self, row: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
        start, pitch = self._starts[name]
        strides = [1] * len(shape)
        if len(shape) >= 2:
            strides[-2] = pitch
        for axis in range(len(shape) - 3, -1, -1):
            strides[axis] = strides[axis + 1] * shape[axis + 1]
        return row.as_strided(shape, strides, row.storage_offset() + start)

    def lines(self, device: torch.device) -> Tensor:
        """Which 64 numbers of a row are each line of each chunk: int64 [64 N]."""
        return self._hold(device)[0]

    def padding_on(self, device: torch.device) -> Tensor:
        """`padding`, on a device."""
        return self._hold(device)[1]

    def _hold(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Sent to a card once: it would be waited for each time."""
        if device not in self._held:
            self._held[device] = self._lines.to(device), self.padding.to(device)
        return self._held[device]

    def cut(self, row: Tensor) -> Tensor:
        """Chunks [N, 64, 64] of a row [S]; a copy."""
        lines = row.view(-1, CHUNK).index_select(0, self.lines(row.device))
        return lines.view(-1, CHUNK, CHUNK)

    def join(self, chunks: Tensor) -> Tensor:
        """Inverse of `cut`."""
        row = torch.empty(self.size, dtype=chunks.dtype, device=chunks.device)
        row.view(-1, CHUNK).index_copy_(0, self.lines(row.device), chunks.view(-1, CHUNK))
        return row


def put_lines(row: Tensor, lines: Tensor, values: Tensor) -> None:
    """row[lines] = values; fp32 [m, 64] each, all lines different."""
    if row.device.type == "cpu":
        row.numpy()[lines.numpy()] = values.numpy()  # a third of index_copy_'s time
    else:
        row.index_copy_(0, lines, values)


@lru_cache(maxsize=16)
def find_layout(schema: Schema) -> Layout:
    """Made once for each schema."""
    return Layout(schema)


class Flat(Mapping[str, Tensor]):
    """Tensors by name, in the order of a schema, that share one row [S]."""

    def __init__(self, row: Tensor, layout: Layout) -> None:
        self.row = row
        self.layout = layout

    @cached_property
    def _views(self) -> dict[str, Tensor]:
        """Made when somebody asks for a tensor: who works on the row needs none."""
        return self.layout.view(self.row)

    @staticmethod
    def zeros(layout: Layout, device: torch.device) -> "Flat":
        """fp32."""
        return Flat(torch.zeros(layout.size, device=device), layout)

    @staticmethod
    @torch.no_grad()
    def of(tensors: Mapping[str, Tensor], schema: Schema) -> "Flat":
        """`tensors` themselves where they are one already, else a copy. One dtype and device.

        Raises LocalFault where a shape is not the schema's.
        """
        layout = find_layout(schema)
        if isinstance(tensors, Flat) and tensors.layout is layout:
            return tensors
        one = next(iter(tensors.values()))
        flat = Flat(torch.zeros(layout.size, dtype=one.dtype, device=one.device), layout)
        for name, view in flat.items():
            if tensors[name].shape != view.shape:  # copy_ would repeat a smaller one
                raise LocalFault(f"{name} has the shape {tuple(tensors[name].shape)}")
            view.copy_(tensors[name])
        return flat

    def to(self, device: torch.device) -> "Flat":
        """Itself where it is there already, else a copy: one, whatever the number of tensors."""
        row = self.row.to(device)
        return self if row is self.row else Flat(row, self.layout)

    def __getitem__(self, name: str) -> Tensor:
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)


def check_fp32(state: Mapping[str, Tensor], who: str) -> None:
    """Raise LocalFault, in the name of `who`, unless all tensors are fp32 (rule E3)."""
    tensors = [("the row", state.row)] if isinstance(state, Flat) else state.items()
    for name, tensor in tensors:
        if tensor.dtype != torch.float32:
            raise LocalFault(f"{who}: {name} is {tensor.dtype}, the replicated state is fp32")
