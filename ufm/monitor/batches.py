"""What of a batch goes into the network and what are its labels: tuples, mappings, or a function of the user's."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from manifolds.representation import short_repr

LABELS = ("labels", "label")


@dataclass(frozen=True)
class Selected:
    """The arguments of the network and the labels."""

    labels: Tensor
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    __repr__ = short_repr


Select = Callable[[Any], tuple[Any, Tensor]]  # batch -> (input or mapping of keyword arguments, labels)


def selected(batch: Any, select: Select | None = None) -> Selected:
    """Inputs and labels of a batch.

    A mapping (dict, BatchEncoding): its entry `labels` or `label`, the others are keyword arguments. A sequence: inputs, labels,
    and what follows is left alone. With `select`, whatever it returns: (inputs, labels), inputs a mapping for keyword arguments.
    Raises ValueError where a batch is neither, or where what lies in the place of labels cannot be labels.
    """
    if select is not None:
        pair = select(batch)
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
            raise ValueError(f"select returned {type(pair).__name__}: the pair (inputs, labels) is needed")
        return _of_pair(*pair, first_axis=False)  # whose inputs may have their examples along another axis
    if isinstance(batch, Mapping):
        name = next((name for name in LABELS if name in batch), None)
        if name is None:
            raise _unknown_batch(f"a batch with the entries {', '.join(map(str, batch))} has no {' or '.join(map(repr, LABELS))}")
        return _of_pair({key: value for key, value in batch.items() if key != name}, batch[name])
    if isinstance(batch, Sequence) and len(batch) >= 2:
        return _of_pair(batch[0], batch[1])
    raise _unknown_batch(f"a batch is {type(batch).__name__}")


def outputs_of(network: nn.Module, chosen: Selected, device: torch.device) -> Any:
    """What a network returns on a batch. Raises ValueError for entries of a mapping that are no arguments of it."""
    parameters = inspect.signature(network.forward).parameters
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        strange = [str(name) for name in chosen.kwargs if name not in parameters]
        if strange:
            raise _unknown_batch(
                f"the network takes {', '.join(parameters) or 'nothing'}, and a batch has {', '.join(strange)} too"
            )
    return network(*to_device(chosen.args, device), **to_device(chosen.kwargs, device))


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors and whatever else has `to`, moved, inside of mappings and sequences too; anything else as it is."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: to_device(inner, device) for name, inner in value.items()}
    if callable(getattr(value, "to", None)):  # packed sequences, graphs
        return value.to(device)
    if isinstance(value, (tuple, list)):
        moved = [to_device(inner, device) for inner in value]
        make = getattr(type(value), "_make", type(value) if type(value) in (tuple, list) else tuple)
        return make(moved)
    return value


def _of_pair(inputs: Any, labels: Any, first_axis: bool = True) -> Selected:
    if not isinstance(labels, Tensor):
        raise _unknown_batch(f"labels are {type(labels).__name__}, a tensor is needed")
    if not labels.ndim:
        raise _unknown_batch("labels are a single number, a batch has one an example")
    first = next(iter(inputs.values()), None) if isinstance(inputs, Mapping) else inputs
    if first_axis and isinstance(first, Tensor) and first.ndim and len(first) != len(labels):
        raise _unknown_batch(f"{len(first)} inputs have {len(labels)} labels")
    return Selected(labels, (), inputs) if isinstance(inputs, Mapping) else Selected(labels, (inputs,))


def _unknown_batch(reason: str) -> ValueError:
    return ValueError(f"{reason}: give select=, a function of the batch that returns (inputs, labels)")
