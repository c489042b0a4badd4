"""Views to control messages and back, by the names of their fields.

A view and its message have the same fields under the same names. Members of an enum are told by
name: `NodeState.ACTIVE` is `NODE_STATE_ACTIVE`, and `UNKNOWN` is what protobuf calls unspecified.
"""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from google.protobuf.message import Message

from demo_node.control.pb import control_pb2 as pb

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

M = TypeVar("M", bound=Message)
V = TypeVar("V", bound="DataclassInstance")


def encode(view: "DataclassInstance", kind: type[M]) -> M:
    """The message of that kind which `decode` reads."""
    return kind(**_list_fields(view))


def decode(message: Message, kind: type[V]) -> V:
    """The view that was encoded."""
    return kind(**{name: read(getattr(message, name)) for name, read in _find_readers(kind)})


def _list_fields(view: "DataclassInstance") -> dict[str, Any]:
    return {name: _to_field(getattr(view, name)) for name in _list_names(type(view))}


def _to_field(value: Any) -> Any:
    """What a message's constructor takes: numbers of enums, dicts for messages within."""
    if isinstance(value, Enum):
        return _number_members(type(value))[value.name]
    if isinstance(value, list | tuple):
        return [_to_field(item) for item in value]
    return _list_fields(value) if is_dataclass(value) and not isinstance(value, type) else value


@functools.cache
def _list_names(kind: "type[DataclassInstance]") -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


@functools.cache
def _number_members(kind: type[Enum]) -> dict[str, int]:
    """Name of a member -> its number on the wire."""
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).upper()
    numbers = getattr(pb, kind.__name__)
    names = {name: "UNSPECIFIED" if name == "UNKNOWN" else name for name in kind.__members__}
    return {name: numbers.Value(f"{prefix}_{label}") for name, label in names.items()}


@functools.cache
def _find_readers(kind: "type[DataclassInstance]") -> list[tuple[str, Callable[[Any], Any]]]:
    """By a view's types, what makes its fields of a message's."""
    hints = get_type_hints(kind)
    return [(name, _find_reader(hints[name])) for name in _list_names(kind)]


def _find_reader(hint: Any) -> Callable[[Any], Any]:
    if get_origin(hint) in (tuple, Sequence):
        read = _find_reader(get_args(hint)[0])
        return lambda values: tuple(map(read, values))
    if isinstance(hint, type) and issubclass(hint, Enum):
        members = {number: hint[name] for name, number in _number_members(hint).items()}
        return members.__getitem__
    if is_dataclass(hint) and isinstance(hint, type):
        return functools.partial(decode, kind=hint)
    return lambda value: value
