"""Which axis of a tensor inside a network counts the examples of the batch: the one that grows when the batch does."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from ufm.ledger.affine import agree

FEW = 3  # examples, and one more


@dataclass(frozen=True)
class ExampleAxis:
    """The axis of length b * fold whose index is example * fold + position, or position * b + example where `inner`."""

    axis: int = 0
    fold: int = 1
    inner: bool = False

    def unfolded(self, tensor: Tensor) -> tuple[Tensor, int]:
        """A view in which one axis has the examples alone, and that axis."""
        if self.fold == 1:
            return tensor, self.axis
        sizes = (self.fold, -1) if self.inner else (-1, self.fold)
        return tensor.unflatten(self.axis, sizes), self.axis + self.inner

    def rows(self, tensor: Tensor) -> Tensor:
        """(b, ...), an example a row, flattened where the axis was folded."""
        view, axis = self.unfolded(tensor)
        rows = view.movedim(axis, 0)
        return rows if self.fold == 1 else rows.flatten(1)

    def means_with_neighbours(self, tensor: Tensor) -> Tensor:
        """(a + b) / 2 of every example a and its neighbour b, shaped as the tensor."""
        view, axis = self.unfolded(tensor)
        return ((view + view.roll(1, axis)) / 2).reshape(tensor.shape)


def example_axis(few: Tensor, more: Tensor) -> ExampleAxis | None:
    """The axis of the examples, from a tensor of `FEW` examples and of the same and one more; None where no axis is theirs."""
    grown = [k for k, sizes in enumerate(zip(few.shape, more.shape, strict=False)) if sizes[0] != sizes[1]]
    if few.ndim != more.ndim or len(grown) != 1:
        return None
    axis = grown[0]
    fold, rest = divmod(few.shape[axis], FEW)
    if rest or more.shape[axis] != fold * (FEW + 1):
        return None
    if fold == 1:
        return ExampleAxis(axis)
    candidates = (ExampleAxis(axis, fold, inner) for inner in (False, True))
    return next((one for one in candidates if agree(one.rows(few), one.rows(more)[:FEW])), None)


def example_axes(tensors: Callable[[Tensor], dict[str, Tensor]], x: Tensor) -> dict[str, ExampleAxis | None]:
    """The axis of the examples in every tensor, by name, that `tensors` gives for a batch; none known where it raises.

    What a forward raises for another number of examples than its own is anything; then the first axis is taken.
    """
    with suppress(Exception):
        few, more = (tensors(x[torch.arange(count, device=x.device) % len(x)]) for count in (FEW, FEW + 1))
        return {name: example_axis(few[name], more[name]) for name in few.keys() & more.keys()}
    return {}


def by_example(tensor: Tensor, batch: int, name: str, axis: ExampleAxis | None) -> Tensor:
    """(b, ...), an example a row. Raises ValueError where no axis is that of the examples."""
    if axis is not None and tensor.shape[axis.axis] == batch * axis.fold:
        return axis.rows(tensor)
    if axis == ExampleAxis() and tensor.shape[0] % batch == 0:  # not asked for other numbers of examples
        return tensor.reshape(batch, -1)
    raise ValueError(
        f"{name} gives shape {tuple(tensor.shape)} for {batch} examples: no axis has the examples, or several of them mix there"
    )
