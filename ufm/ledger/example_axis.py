"""Which axis of a tensor inside a network counts the examples of the batch.

It is the axis that grows with the batch, provided that along it every example changes its own entries alone.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

FEW_EXAMPLES, TWICE_AS_MANY = 4, 8  # examples; even, and multiples of each other, for networks that want such numbers
Tensors = dict[str, Tensor]  # of a run, by name


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


FIRST_AXIS = ExampleAxis()  # where a network mixes its examples, or cannot be asked
NO_EXAMPLES = "no examples"  # in place of an axis: the tensor does not depend on the examples
Found = ExampleAxis | str | None  # None: no axis has the examples, though they change the tensor


def example_axis(few: Tensor, more: Tensor, changed: list[Tensor]) -> Found:
    """The axis of the examples, from a tensor of a few examples, of twice as many, and where it changed with every single one."""
    grown = [k for k, (a, b) in enumerate(zip(few.shape, more.shape, strict=False)) if a != b]
    candidates = [FIRST_AXIS]
    if len(grown) > 1 and (len(few), len(more)) == (
        FEW_EXAMPLES,
        TWICE_AS_MANY,
    ):  # a matrix of pairs, the longest sequence of a batch
        return FIRST_AXIS
    if len(grown) == 1 and few.ndim == more.ndim:
        axis, (fold, rest) = grown[0], divmod(few.shape[grown[0]], FEW_EXAMPLES)
        if rest or more.shape[axis] != fold * TWICE_AS_MANY:
            return None
        candidates = [ExampleAxis(axis)] if fold == 1 else [ExampleAxis(axis, fold), ExampleAxis(axis, fold, inner=True)]
    if not any(bool(where.any()) for where in changed):
        return candidates[0] if grown else NO_EXAMPLES
    fitting = [one for one in candidates if all(_own_row_only(one, where, e) for e, where in enumerate(changed))]
    if len(fitting) == 1:
        return fitting[0]
    return FIRST_AXIS if grown and _all_change_with_each(changed) else None


def _all_change_with_each(changed: list[Tensor]) -> bool:
    """Whether every example changes most of what any of them changes, as in statistics of a batch."""
    ever = int(torch.stack(changed).any(0).sum())
    return all(2 * int(where.sum()) >= ever for where in changed)


def _own_row_only(axis: ExampleAxis, where: Tensor, example: int) -> bool:
    """Whether nothing has changed outside the row of an example."""
    rows = axis.rows(where)
    return len(rows) > example and not bool(torch.cat([rows[:example], rows[example + 1 :]]).any())


def example_axes(tensors: Callable[[Tensor], Tensors], x: Tensor) -> dict[str, Found]:
    """The axis of the examples in every tensor, by name, that `tensors` gives for a batch; none known where it raises.

    What a forward raises for another number of examples than its own is anything; then the first axis is taken.
    """
    generator = torch.Generator().manual_seed(0)
    with suppress(Exception):
        inputs = _varied(x[torch.arange(TWICE_AS_MANY, device=x.device) % len(x)], generator)
        few, more = tensors(inputs[:FEW_EXAMPLES].clone()), tensors(inputs.clone())
        others: list[Tensors] = []
        for example in range(FEW_EXAMPLES):
            other = inputs[:FEW_EXAMPLES].clone()
            other[example] = _varied(other[example : example + 1], generator)[0]
            others.append(tensors(other))
        names = [name for name in few if name in more and all(name in other for other in others)]
        return {name: example_axis(few[name], more[name], [_differ(few[name], o[name]) for o in others]) for name in names}
    return {}


def _varied(x: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers with noise as large as their spread; others, which may be indices of a table, in another order in every example."""
    if not x.is_floating_point():
        flat = x.flatten(1)
        return torch.stack([row[torch.randperm(len(row), generator=generator).to(x.device)] for row in flat]).reshape(x.shape)
    spread = float(x.double().std()) if x.numel() > 1 else 0.0
    noise = torch.randn(x.shape, generator=generator).to(x)
    return x + noise * (spread if 0 < spread < float("inf") else 1.0)


def _differ(a: Tensor, b: Tensor) -> Tensor:
    """Where two tensors differ, NaN being equal to NaN; everywhere where their shapes do."""
    if a.shape != b.shape:
        return torch.ones_like(a, dtype=torch.bool)
    return (a != b) & ~(a.isnan() & b.isnan())


def by_example(tensor: Tensor, batch: int, name: str, axis: Found) -> Tensor:
    """(b, ...), an example a row. Raises ValueError where no axis is that of the examples."""
    if isinstance(axis, ExampleAxis) and axis.axis < tensor.ndim and tensor.shape[axis.axis] == batch * axis.fold:
        return axis.rows(tensor)
    if axis == FIRST_AXIS and tensor.shape[0] % batch == 0:
        return tensor.reshape(batch, -1)
    raise ValueError(
        f"{name} gives shape {tuple(tensor.shape)} for {batch} examples: no axis has the examples, or several of them mix there"
    )
