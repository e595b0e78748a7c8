"""The state of a network after an operation, as tensors by name, and what is done to every tensor of a value."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

State = dict[str, Tensor]  # live tensors by name of the operation that made them
INPUT = "input"


@dataclass(frozen=True)
class Operation:
    """Name of an operation, what it is, and whether it is affine on the data at hand (None where that was not asked)."""

    name: str
    kind: str
    affine: bool | None = None


Visit = Callable[[Operation, State, State | None], None]


def tensors_of(value: object) -> list[Tensor]:
    """The floating-point tensors with an axis in a value, tuples, lists and dictionaries looked into."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() and value.ndim else []
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [tensor for part in parts for tensor in tensors_of(part)]


def mapped(value: object, change: Callable[[Tensor], Tensor]) -> object:
    """The value with every tensor of `tensors_of` changed, in the same order; dictionaries stay as they are."""
    if isinstance(value, Tensor):
        return change(value) if value.is_floating_point() and value.ndim else value
    if isinstance(value, (tuple, list)):
        return type(value)(mapped(part, change) for part in value)
    return value
