"""Which operations are taken for affine: asked of examples of every class, feature by feature, whatever the batches are."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.ufm.ledger.test_resolution import examples, layer
from ufm.ledger import ledger
from ufm.ledger.affine import agree


def in_batches(x: Tensor, y: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return [(x[k : k + size], y[k : k + size]) for k in range(0, len(y), size)]


def test_a_batch_norm_without_running_statistics_is_no_affine_layer() -> None:
    """It normalises by the batch in evaluation mode too. A layer whose output a hook changes is not affine either."""
    x, y = examples(4, 40, torch.float32)
    hooked = nn.Linear(4, 4)
    hooked.register_forward_hook(lambda module, inputs, out: out.relu())
    net = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4, track_running_stats=False), hooked)
    assert ledger(net, [(x, y)]).affine == (True, False, False)


def test_a_layer_with_another_forward_is_asked_what_it_does() -> None:
    """As adapters and quantisers put it on a layer of torch."""
    x, y = examples(4, 40, torch.float32)
    replaced = nn.Linear(4, 4)
    plain = replaced.forward
    replaced.forward = lambda z: plain(z).relu()  # type: ignore[method-assign]
    assert ledger(nn.Sequential(replaced, nn.Linear(4, 4)), [(x, y)]).affine == (False, True)


def test_one_large_feature_does_not_make_an_activation_affine() -> None:
    """Its gain is a gain of the ReLU, and no rounding."""
    x, y = examples(8, 400, torch.float32, distance=1.0)
    x[:, 0] = 1e4 * (1 + x[:, 0].abs())
    result = ledger(nn.Sequential(nn.ReLU()), [(x, y)])
    assert result.gain.max() > 0.03
    assert result.affine == (False,)
    assert not result.raised.any()
    assert result.unresolved.tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_weak_nonlinearity_of_collapsed_features_is_no_rounding(dtype: torch.dtype) -> None:
    """tanh bends class means on a line by 1e-4 of them: nothing beside their distances, and much beside deviations of 1e-7."""
    y = torch.arange(300) % 3
    centres = torch.tensor([-0.014, 0.0, 0.0105], dtype=torch.float64)[y]
    noise = torch.randn(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (torch.stack([centres, 2 * centres], 1) + 1e-7 * noise).to(dtype)
    for net in (nn.Sequential(nn.Tanh()), Bent()):
        result = ledger(net, [(x, y)])
        assert result.gain[0, 1] > 3
        assert result.affine == (False,)
        assert not result.raised.any()
        assert result.unresolved.tolist() == [0, 0]


class Bent(nn.Module):
    """The same as a function."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


def test_numbers_agree_by_feature() -> None:
    a = torch.tensor([[1.0, 1e4], [0.5, -1e4]])
    assert agree(a, a + torch.tensor([3e-4, 3.0]))
    assert not agree(a, a + torch.tensor([4e-3, 3.0]))
    assert not agree(a, a + torch.tensor([3e-4, 4.0]))
    assert agree(a * torch.tensor([0.0, 1.0]), a * torch.tensor([1e-4, 1.0]))  # what cancellation leaves of 1e4 in float32
    assert not agree(a, a[:1])
    assert not agree(a, a * torch.nan)
    assert agree(a[:0], a[:0])


@pytest.mark.parametrize("size", [1, 2, 100])
def test_batches_of_one_class_say_what_is_affine(size: int) -> None:
    """Far classes one after the other: in every batch a unit of the ReLU is on for all examples, or off for all."""
    x, y = examples(4, 400, torch.float32, distance=0.0)
    x += 10 * (2 * torch.stack([y // 2, y % 2, y // 4 + 1, y // 4 + 1], 1) - 1)
    order = torch.argsort(y, stable=True)
    both = nn.Linear(4, 8)
    both.weight.data = torch.cat([torch.eye(4), -torch.eye(4)])
    net = nn.Sequential(both, nn.ReLU(), nn.Linear(8, 4))
    known, result = ledger(net, [(x, y)]), ledger(net, in_batches(x[order], y[order], size))
    assert known.gain[1].max() > 0.1
    assert result.affine == known.affine == (True, False, True)
    assert result.unresolved.tolist() == [0, 0, 0, 0]
    np.testing.assert_allclose(result.omega, known.omega, rtol=1e-4)
    assert np.nanmax(result.violations()) < 1e-5


def test_the_same_example_many_times_first_says_nothing_of_the_others() -> None:
    x, y = examples(4, 40, torch.float32)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    same = ledger(net, [(x[:1].expand(3, -1), y[:1].expand(3)), (x[1:], y[1:])])
    assert same.affine == (True, False, True)


@pytest.mark.parametrize("size", [1, 3])
def test_rounding_is_measured_whatever_the_size_of_the_batches(size: int) -> None:
    """A nearly singular layer and its inverse: what is marked, and that nothing remains, is as with one batch."""
    seen, tolerance = 0, 2.0**-11.5
    for seed in range(8):
        x, y = examples(4, 160, torch.float32, seed=seed)
        linear = layer(10.0 ** -torch.linspace(0, 4, 4, dtype=torch.float64), torch.float32, 30.0, seed)
        inverse = nn.Linear(4, 4)
        inverse.weight.data = torch.linalg.inv(linear.weight.data.double()).float()
        inverse.bias.data = -(inverse.weight.data @ linear.bias.data)
        result = ledger(nn.Sequential(linear, inverse), in_batches(x, y, size))
        assert not np.nanmax(result.violations(), initial=-1) > np.log1p(tolerance), seed
        seen += int(result.raised.sum())
    assert seen > 3
