"""The axis of the examples may be any: a ledger is the same wherever a network puts it, also where sizes coincide."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ufm.ledger import ledger
from ufm.ledger.example_axis import by_example, example_axis

Batches = list[tuple[Tensor, Tensor]]


def sequences(T: int, batch: int, n: int = 96) -> Batches:
    generator = torch.Generator().manual_seed(T)
    y = torch.arange(n) % 3
    x = torch.randn(n, T, 2, generator=generator) + 1.5 * torch.randn(3, T, 2, generator=generator)[y]
    return [(x[k : k + batch], y[k : k + batch]) for k in range(0, n, batch)]


class Network(nn.Module):
    """Positions one by one, then all together, with the examples where `order` says."""

    def __init__(self, order: str, T: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.order, self.T = order, T
        self.each, self.act, self.head = nn.Linear(2, 2), nn.ReLU(), nn.Linear(2 * T, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.order == "second":
            return self.head(self.act(self.each(x.transpose(0, 1))).transpose(0, 1).flatten(1))
        if self.order == "last":
            return self.head(self.act(self.each(x).movedim(0, 2)).movedim(2, 0).flatten(1))
        if self.order == "outer":
            return self.head(self.act(self.each(x.reshape(-1, 2))).reshape(-1, 2 * self.T))
        if self.order == "inner":
            h = self.act(self.each(x.transpose(0, 1).reshape(-1, 2)))
            return self.head(h.reshape(self.T, -1, 2).transpose(0, 1).flatten(1))
        return self.head(self.act(self.each(x)).flatten(1))


@pytest.mark.parametrize("order", ["second", "last", "outer", "inner"])
@pytest.mark.parametrize(("T", "batch"), [(8, 8), (16, 8), (4, 8), (5, 7), (3, 96), (4, 1)])
def test_the_ledger_does_not_depend_on_where_the_examples_are(order: str, T: int, batch: int) -> None:
    batches = sequences(T, batch)
    plain, moved = ledger(Network("first", T), batches), ledger(Network(order, T), batches)
    rows = [0, *(1 + moved.operations.index(name) for name in ("each", "act", "head"))]
    expected = plain.omega[[0, *(1 + plain.operations.index(name) for name in ("each", "act", "head"))]]
    np.testing.assert_allclose(moved.omega[rows], expected, rtol=1e-5)
    assert [moved.affine[k] for k in range(len(moved.operations))] == [name != "act" for name in moved.operations]
    between = [k for k in range(len(moved.operations)) if moved.operations[k] not in ("each", "act", "head")]
    np.testing.assert_allclose(moved.gain[between], 0, atol=1e-5)


def test_states_of_recurrent_layers_have_the_examples_second() -> None:
    class Recurrent(nn.Module):
        def __init__(self, first: bool, hidden: bool) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.layer, self.head, self.first, self.hidden = nn.GRU(2, 5, 2, batch_first=first), nn.Linear(5, 3), first, hidden

        def forward(self, x: Tensor) -> Tensor:
            out, state = self.layer(x if self.first else x.transpose(0, 1))
            return self.head(state[-1] if self.hidden else out[:, -1] if self.first else out[-1])

    batches = sequences(8, 8)
    ledgers = [ledger(Recurrent(first, hidden), batches) for first in (True, False) for hidden in (True, False)]
    for one in ledgers:
        np.testing.assert_allclose(one.omega[-2:], ledgers[0].omega[-2:], rtol=1e-5)
        assert one.seen == "torch.fx"


def test_hooks_find_the_examples_too() -> None:
    class Untraceable(Network):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if float(x.sum()) < 1e9 else x

    batches = sequences(8, 8)
    by_hooks, plain = ledger(Untraceable("second", 8), batches), ledger(Network("first", 8), batches)
    assert by_hooks.seen == "hooks"
    np.testing.assert_allclose(by_hooks.omega, plain.omega[[0, 1, 2, 4]], rtol=1e-5)


@pytest.mark.parametrize("spoiled", [lambda x: x.mean(0), lambda x: (x.flatten(0, 1) - x.flatten(0, 1).roll(1, 0)).abs()])
def test_tensors_in_which_examples_mix_are_refused(spoiled: Callable[[Tensor], Tensor]) -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(spoiled(x))

    with pytest.raises(ValueError, match="no axis has the examples, or several of them mix there"):
        ledger(Mixing(), sequences(8, 8))


def test_inputs_whose_first_axis_is_not_that_of_the_examples_are_refused_with_the_way_out() -> None:
    batches = [(x.transpose(0, 1), y) for x, y in sequences(5, 8)]
    with pytest.raises(ValueError, match=r"inputs of shape \(5, 8, 2\) with 8 labels: .* give inputs.transpose\(0, 1\)"):
        ledger(Network("first", 5), batches)


@given(st.permutations(range(3)), st.integers(1, 4), st.booleans(), st.integers(2, 9))
@settings(max_examples=30)
def test_the_axis_is_found_and_its_rows_are_the_examples(order: list[int], fold: int, inner: bool, b: int) -> None:
    x = torch.randn(b + 1, fold, 2, 3, generator=torch.Generator().manual_seed(b))

    def placed(examples: Tensor) -> Tensor:
        return (examples.transpose(0, 1) if inner else examples).flatten(0, 1).permute(*order)

    axis = example_axis(
        placed(x[:3]) if b > 2 else placed(x[[0, 1, 0]]), placed(x[[0, 1, 2, 0]]) if b > 2 else placed(x[[0, 1, 0, 1]])
    )
    assert axis is not None
    rows = by_example(placed(x), b + 1, "h", axis)
    again = by_example(placed(x.flip(0)), b + 1, "h", axis)
    torch.testing.assert_close(again, rows.flip(0))
    mean = axis.means_with_neighbours(placed(x))
    torch.testing.assert_close(mean, placed((x + x.roll(1, 0)) / 2))
