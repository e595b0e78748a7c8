"""Layers of a network by name, what is taken for their features, and measures that need no classifier."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from manifolds.linalg import epsilon, symmetrize
from ufm.features.statistics import ClassStatistics

Reduce = Callable[[Tensor], Tensor]
ROWS_CHECKED = 8  # of a pass, whether the classifier is linear in them
PRODUCTS_AGREE = 2**-5  # of ||w|| ||h||
WRAPPERS = ("module", "_orig_mod")  # of DistributedDataParallel and of torch.compile


def bare(model: nn.Module) -> nn.Module:
    """The network inside of DistributedDataParallel or torch.compile."""
    while True:
        inner = next((inside for name in WRAPPERS if isinstance(inside := getattr(model, name, None), nn.Module)), None)
        if inner is None or type(model).__name__ not in ("DistributedDataParallel", "DataParallel", "OptimizedModule"):
            return model
        model = inner


def name_of(model: nn.Module, layer: str | nn.Module) -> str:
    """The dotted name of a layer that is given by it or by itself. Raises ValueError for a module that is not of the network."""
    if isinstance(layer, str):
        return layer
    for name, module in bare(model).named_modules():
        if module is layer:
            return name
    raise ValueError(f"the {type(layer).__name__} that was given is no layer of this network: give one of its own, or a name")


def linear_layer(model: nn.Module, name: str) -> nn.Linear:
    """The Linear layer called `name` (dotted). Raises ValueError with the linear layers there are where it is none of them."""
    linear = {path: layer for path, layer in bare(model).named_modules() if isinstance(layer, nn.Linear)}
    if name not in linear:
        raise ValueError(f"the network has no linear layer called {name!r}; it has: {', '.join(linear) or 'none'}")
    return linear[name]


def any_layer(model: nn.Module, name: str) -> nn.Module:
    """The module called `name` (dotted). Raises ValueError with the names there are where it is none of them."""
    modules = dict(bare(model).named_modules())
    if not name or name not in modules:
        raise ValueError(f"the network has no layer called {name!r}; it has: {', '.join(filter(None, modules)) or 'none'}")
    return modules[name]


def weights_of(layer: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """W and b, read in evaluation mode: in training mode a parametrisation such as spectral_norm changes whenever it is read."""
    modes = [(module, module.training) for module in layer.modules()]
    layer.eval()
    try:
        return layer.weight, layer.bias
    finally:
        for module, training in modes:
            module.training = training


def few_rows(x: Tensor) -> Tensor:
    """A copy of the first of the vectors along the last axis. (..., P) -> (k, P)"""
    return x.detach().flatten(0, -2)[:ROWS_CHECKED].clone()


def check_linear(layer: nn.Linear, name: str, features: Tensor, output: Any) -> None:
    """Raise ValueError where a layer does not give W h + b of its weights, whose decisions and loss are reported.

    A few rows are looked at, to 1/32 of ||w|| ||h||, more than products in bfloat16 are off by.
    """
    W, b = weights_of(layer)
    if not W.dtype.is_floating_point:
        raise ValueError(f"the weights of the layer {name!r} are {W.dtype}, floats are needed: measure before it is quantised")
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        h, given = few_rows(features), few_rows(first_tensor(output)).float()
        expected = nn.functional.linear(h.to(W.dtype), W, b).float()
        if given.shape == expected.shape and not expected.numel():
            return
        size = torch.linalg.vector_norm(h.float(), dim=1).max() * torch.linalg.vector_norm(W, dim=1).float().max()
        size = size if b is None else size + b.abs().max()
        if given.shape != expected.shape or bool((given - expected).abs().max() > PRODUCTS_AGREE * size):
            raise ValueError(
                f"the layer {name!r} does not give W h + b of its weights, by which decisions and loss are measured: "
                "give features and the classifier that is meant to NeuralCollapse.update yourself"
            )


def first_tensor(output: Any) -> Tensor:
    """What a layer gives on: itself, or the first of several outputs. Raises ValueError for anything else."""
    while isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise ValueError(f"the layer gives {type(output).__name__}, a tensor is needed")
    return output.detach()


def pooled(features: Tensor) -> Tensor:
    """Channels (b, P) of maps (b, P, ...): the mean over all places. Features (b, P) and tokens (b, T, P) as they are."""
    return features.flatten(2).mean(2) if features.ndim > 3 else features


def flattened(features: Tensor) -> Tensor:
    """Every number of an example is a feature: (b, P ...) -> (b, P)."""
    return features.flatten(1)


class RandomProjection:
    """Gaussian random projection of all numbers of an example to `size` features, the same for every batch (seeded).

    Distances between examples keep their ratio to about sqrt(8 log(n) / size) (Johnson & Lindenstrauss 1984); the SNR of a sketch
    is at most that of the features.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        if size < 1:
            raise ValueError(f"size = {size}: a sketch needs at least 1 feature")
        self.size, self.seed = size, seed
        self._matrix: Tensor | None = None

    def __call__(self, features: Tensor) -> Tensor:
        wide = features.flatten(1)
        if self._matrix is None or self._matrix.shape[0] != wide.shape[1]:
            generator = torch.Generator().manual_seed(self.seed)
            self._matrix = torch.randn(wide.shape[1], self.size, generator=generator) / self.size**0.5
        self._matrix = self._matrix.to(wide)
        return wide @ self._matrix


def effective_rank(stats: ClassStatistics[Tensor]) -> float:
    """exp of the entropy of the singular values of the centred features, as shares of their sum (Roy & Vetterli 2007).

    Raises ValueError where all features are equal.
    """
    within, E = torch.linalg.eigh(symmetrize(stats.sigma_w))
    within = torch.where(within > stats.P * epsilon(within) * within[-1], within, 0.0)
    # the roots side by side, since an eigenvalue of Sigma_T would lose half of the digits of its root
    values = torch.linalg.svdvals(torch.cat([stats.centred_means * stats.priors**0.5, E * within.sqrt()], 1))
    if not float(values.sum()) > 0:
        raise ValueError("all features are equal: Sigma_T = 0 has no effective rank")
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())
