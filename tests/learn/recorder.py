"""What torch is asked to do, operation by operation, below autograd."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WAITING: Final = {
    "_local_scalar_dense",
    "is_nonzero",
    "item",
    "nonzero",
    "masked_select",
    "unique_dim",
    "_unique2",
    "equal",
}
"""Operations whose outcome the processor has to know before it can go on."""


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Notes every operation inside `with`, in order."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.launched: list[str] = []
        """Those that compute or move something, which views do not."""
        self.waited: list[str] = []
        """Those that wait for a card: they read a value, or their shape depends on one."""
        self.moved: list[str] = []
        """Copies from one device to another."""
        self.sizes: list[int] = []
        """Bytes of each new storage."""
        self._kept: list[Tensor] = []  # so that no two storages have one address

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Do it, and note it."""
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        given = list(_find_tensors([args, kwargs]))
        out = func(*args, **kwargs)
        made = list(_find_tensors(out))
        if name in WAITING or (name.startswith("index") and _has_mask(args)):
            self.waited.append(name)
        devices = {tensor.device for tensor in [*given, *made] if tensor.ndim}
        if len(devices) > 1:
            self.moved.append(name)
        held = {_find_storage(tensor) for tensor in [*given, *self._kept]}
        if func._schema.is_mutable or any(_find_storage(tensor) not in held for tensor in made):
            self.launched.append(name)
        for tensor in made:
            if _find_storage(tensor) not in held:
                self.sizes.append(tensor.untyped_storage().nbytes())
                self._kept.append(tensor)
        return out


def _has_mask(args: Sequence[Any]) -> bool:
    """index and index_put with booleans: how many are true decides on the shape."""
    return any(tensor.dtype in (torch.bool, torch.uint8) for tensor in _find_tensors(args[1:2]))


def _find_storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _find_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _find_tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _find_tensors(one)
