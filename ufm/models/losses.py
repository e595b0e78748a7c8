"""The two losses of the literature as values: value, gradient and curvature in the logits Z (C, n), with a weight a column."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from manifolds.classes import ClassLayout


def one_hot(layout: ClassLayout, device: str = "cpu") -> Tensor:
    """Y, the labels in class blocks. (C, n)"""
    labels = torch.as_tensor(layout.labels, device=device)
    return torch.nn.functional.one_hot(labels, layout.C).T.to(torch.float64).contiguous()


def column_weights(layout: ClassLayout, weights: "np.ndarray | float", device: str = "cpu") -> Tensor:
    """One weight a column from one number, or from one number a class. (n,)"""
    per_class = np.broadcast_to(np.asarray(weights, dtype=np.float64), (layout.C,))
    return torch.as_tensor(np.repeat(per_class, layout.sizes), device=device)


@dataclass(frozen=True, eq=False)
class CrossEntropy:
    """sum_i v_i (log sum_c exp Z_ci - Z_{y_i i}) with column weights v (n,) and labels Y (C, n)."""

    Y: Tensor
    weights: Tensor

    def value_and_gradient(self, Z: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and its gradient diag(v) (softmax Z - Y). (C, n) -> scalar, (C, n)"""
        log_p = torch.log_softmax(Z, 0)
        return -((self.Y * log_p).sum(0) @ self.weights), (log_p.exp() - self.Y) * self.weights

    def curvature_at(self, Z: Tensor) -> Callable[[Tensor], Tensor]:
        """The derivative of the gradient at Z as a map of directions. (C, n) -> (C, n)"""
        p = torch.softmax(Z, 0)
        weighted = p * self.weights
        return lambda dZ: weighted * (dZ - (p * dZ).sum(0))


@dataclass(frozen=True, eq=False)
class SquaredError:
    """(1/2) sum_i v_i |Z_i - Y_i|^2 with column weights v (n,) and targets Y (C, n)."""

    Y: Tensor
    weights: Tensor

    def value_and_gradient(self, Z: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and its gradient (Z - Y) diag(v). (C, n) -> scalar, (C, n)"""
        R = Z - self.Y
        G = R * self.weights
        return (R * G).sum() / 2, G

    def curvature_at(self, Z: Tensor) -> Callable[[Tensor], Tensor]:
        """The derivative of the gradient at Z as a map of directions. (C, n) -> (C, n)"""
        return lambda dZ: dZ * self.weights


Loss = CrossEntropy | SquaredError
