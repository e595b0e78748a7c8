"""What of a batch goes into the network and what are its labels: tuples, mappings, or a function of the user's."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from manifolds.representation import short_repr
from ufm.arrays import has_float64

BatchT = TypeVar("BatchT")
LABELS = ("labels", "label")


@dataclass(frozen=True, repr=False)
class Selected:
    """The arguments of the network and the labels."""

    labels: Tensor
    args: tuple[object, ...] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict)
    __repr__ = short_repr


Select = Callable[[Any], tuple[object, Tensor]]  # batch -> (input or mapping of keyword arguments, labels)


def selected(batch: object, select: Select | None = None) -> Selected:
    """Inputs and labels of a batch.

    A mapping (dict, BatchEncoding): its entry `labels` or `label`, the others are keyword arguments. A sequence: inputs, labels,
    and what follows is left alone. With `select`, whatever it returns: (inputs, labels), inputs a mapping for keyword arguments,
    or a pair or more for a network that needs as many.
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
            too = " too" if len(strange) < len(chosen.kwargs) else ""
            takes = f"the network takes {', '.join(parameters) or 'nothing'}"
            raise _unknown_batch(f"{takes}, and a batch has {', '.join(strange)}{too}")
    args = chosen.args
    if len(args) == 1 and type(args[0]) in (tuple, list) and _needs_several(network, args[0]):
        args = args[0]
    return network(*to_device(args, device), **to_device(chosen.kwargs, device))


def warn_of_shift(chosen: Selected, shift: bool) -> None:
    """Warn where the labels of tokens are these tokens, as causal language models are given them and shift them themselves."""
    labels, tokens = chosen.labels, chosen.kwargs.get("input_ids", chosen.args[0] if chosen.args else None)
    if shift or labels.ndim != 2 or not isinstance(tokens, Tensor) or tokens.shape != labels.shape or tokens.is_floating_point():
        return
    counted = labels >= 0
    if bool(counted.any()) and bool((labels == tokens.to(labels.device))[counted].all()):
        said = "the labels are the tokens at their own positions, and a causal language model predicts the next ones"
        warnings.warn(f"{said}: give shift=True", stacklevel=3)


@contextmanager
def second_entry_named(batch: object, select: Select | None) -> Iterator[None]:
    """Add to a ValueError about labels that they are the second of more entries, where nobody chose them."""
    try:
        yield
    except ValueError as error:
        if select is not None or not isinstance(batch, Sequence) or len(batch) < 3:
            raise
        taken = f"the second of the {len(batch)} entries of a batch was taken for its labels"
        raise _unknown_batch(f"{error}; {taken}") from error


def _needs_several(network: nn.Module, inputs: Any) -> bool:
    """Whether a network cannot be called with one argument, and can with each of these as one."""
    signature = inspect.signature(network.forward)
    try:
        signature.bind(inputs)
    except TypeError:
        with suppress(TypeError):
            signature.bind(*inputs)
            return True
    return False


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


def labels_on(device: torch.device, labels: Tensor) -> Tensor:
    """The labels beside the features of a network on this device: on the CPU where it has no float64."""
    return labels.to(device) if has_float64(device) else labels


def _of_pair(inputs: object, labels: object, first_axis: bool = True) -> Selected:
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
