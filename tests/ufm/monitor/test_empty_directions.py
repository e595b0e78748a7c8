"""Features with directions along which nothing varies, in fewer dimensions than classes: NC1 and omega of the others."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ufm.features.measures import phd_nc1
from ufm.features.statistics import statistics_of
from ufm.monitor import NeuralCollapse, watch


def nc1_by_definition(H: np.ndarray, y: np.ndarray, rank: int) -> float:
    """tr(Sigma_W Sigma_B^+) / C in float64, the pseudo-inverse from the `rank` largest eigenvalues of Sigma_B."""
    C = int(y.max()) + 1
    M = np.stack([H[y == c].mean(0) for c in range(C)])
    D = H - M[y]
    centred = (M - H.mean(0)) * np.sqrt(np.bincount(y) / len(y))[:, None]
    values, E = np.linalg.eigh(centred.T @ centred)
    kept = E[:, len(E) - rank :]
    return float(((D @ kept) ** 2).sum(0) / len(y) @ (1 / values[len(E) - rank :])) / C


def normalised(dtype: torch.dtype, C: int = 30, P: int = 16) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A network whose head sees a LayerNorm, which leaves P - 1 dimensions."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(20 * C) % C
    x = torch.randn(C, P, generator=generator)[y] * 2 + torch.randn(len(y), P, generator=generator)
    net = nn.Sequential(nn.Linear(P, P), nn.LayerNorm(P), nn.Linear(P, C))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        norm = net.get_parameter("1.weight")
        norm.copy_(0.5 + 1.5 * torch.rand(P, generator=generator))
    return net.to(dtype), x.to(dtype), y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_direction_that_layer_norm_takes_away_is_no_signal(dtype: torch.dtype) -> None:
    net, x, y = normalised(dtype)
    watched = watch(net, "2")
    values = watched.measure([(x, y)])
    H = net[:2](x).detach().double().numpy()
    assert values["dropped"] == 1
    assert values["nc1"] == pytest.approx(nc1_by_definition(H, y.numpy(), 15), rel=1e-6)
    assert values["omega_geometric_mean"] > 0
    assert not {"nc1", "omega_geometric_mean"} & set(watched.undefined)


@pytest.mark.parametrize("C", [40, 23])  # P < C - 1, and P > C - 1 with fewer live units than C - 1
def test_a_dead_unit_leaves_the_measures_of_the_others(C: int) -> None:
    rng = np.random.default_rng(1)
    y = np.arange(20 * C) % C
    H = np.maximum(rng.standard_normal((C, 24))[y] + 0.5 * rng.standard_normal((len(y), 24)), 0)
    dead = H.copy()
    dead[:, [3, 7, 11]] = 0.0
    live = np.delete(H, [3, 7, 11], axis=1)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        with_dead, without = NeuralCollapse(C), NeuralCollapse(C)
        with_dead.update(torch.tensor(dead).to(dtype), torch.tensor(y))
        without.update(torch.tensor(live).to(dtype), torch.tensor(y))
        values, expected = with_dead.compute(), without.compute()
        assert values["dropped"] == 3
        rounded = torch.tensor(live).to(dtype).double().numpy()
        assert values["nc1"] == pytest.approx(nc1_by_definition(rounded, y, 21), rel=1e-9)
        assert values["omega_geometric_mean"] == pytest.approx(expected["omega_geometric_mean"], rel=1e-9)


def test_a_direction_that_varies_within_classes_alone_still_makes_nc1_infinite() -> None:
    rng = np.random.default_rng(2)
    y = np.arange(90) % 9
    D = rng.standard_normal((90, 4))
    D -= np.stack([D[y == c].mean(0) for c in range(9)])[y]
    means = rng.standard_normal((9, 4)) * [1, 1, 1, 0]
    with pytest.raises(ValueError, match="rank 3 < 4"):
        phd_nc1(statistics_of(means[y] + D, y, 9))
    with pytest.raises(ValueError, match="all features are equal"):
        phd_nc1(statistics_of(np.ones((18, 3)), np.arange(18) % 9, 9))


@pytest.mark.parametrize("noise", [1e-5, 1e-9])
def test_a_direction_of_small_variance_and_signal_is_kept(noise: float) -> None:
    rng = np.random.default_rng(3)
    y = np.arange(200) % 10
    scale = np.array([1, 1, 1, 1e-6])
    H = (rng.standard_normal((10, 4))[y] + noise * rng.standard_normal((200, 4))) * scale
    assert phd_nc1(statistics_of(H, y, 10)) == pytest.approx(nc1_by_definition(H / scale, y, 4), rel=1e-5)
