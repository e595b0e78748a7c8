"""The state of a network after an operation, as tensors by name, and what is done to every tensor of a value."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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


def tensors_of(value: Any) -> list[Tensor]:
    """The floating-point tensors with an axis in a value, tuples, lists and dictionaries looked into."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() and value.ndim else []
    if isinstance(value, dict):
        value = list(value.values())
    return [t for part in value for t in tensors_of(part)] if isinstance(value, (tuple, list)) else []


def mapped(value: Any, change: Any) -> Any:
    if isinstance(value, Tensor):
        return change(value) if value.is_floating_point() and value.ndim else value
    if isinstance(value, (tuple, list)):
        return type(value)(mapped(part, change) for part in value)
    return value
