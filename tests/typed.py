"""What the type checker cannot read off torch, geoopt and numpy, said in one place."""

import geoopt
import numpy as np
import torch


def gradient_of(leaf: torch.Tensor) -> torch.Tensor:
    """The gradient that a backward pass left there."""
    assert leaf.grad is not None
    return leaf.grad


def parameter_on(manifold: geoopt.Manifold, x: torch.Tensor) -> geoopt.ManifoldParameter:
    """geoopt takes the manifold in `__new__`; what is declared is the `__init__` of torch's Parameter."""
    return geoopt.ManifoldParameter(x, manifold=manifold)  # type: ignore[unexpected-keyword]


def linear(layer: torch.nn.Module) -> torch.nn.Linear:
    """A layer of a Sequential, which knows its members as modules only."""
    assert isinstance(layer, torch.nn.Linear)
    return layer


def global_state() -> np.ndarray:
    """A copy of the state of numpy's global generator, which the library must not touch."""
    return np.random.get_state(legacy=False)["state"]["key"].copy()  # noqa: NPY002
