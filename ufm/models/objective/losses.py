"""The losses of the literature: value, gradient and curvature in the logits Z (C, n), with a weight a column.

Both take numpy arrays and torch tensors, and return the kind that they hold.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from manifolds.class_centering import ClassLayout
from manifolds.linalg import Array, ArrayT, namespace
from manifolds.representation import short_repr


def one_hot(layout: ClassLayout, device: str = "cpu") -> Tensor:
    """Y, the labels in class blocks. (C, n)"""
    labels = torch.as_tensor(layout.labels, device=device)
    return torch.nn.functional.one_hot(labels, layout.C).T.to(torch.float64).contiguous()


def column_weights(layout: ClassLayout, weights: "np.ndarray | float", device: str = "cpu") -> Tensor:
    """One weight a column from one number, or from one number a class. (n,)"""
    per_class = np.broadcast_to(np.asarray(weights, dtype=np.float64), (layout.C,))
    return torch.as_tensor(np.repeat(per_class, layout.sizes), device=device)


@dataclass(frozen=True, eq=False, repr=False)
class CrossEntropy:
    """sum_i v_i (log sum_c exp Z_ci - Z_{y_i i}) with column weights v (n,) and labels Y (C, n).

    Everything is formed from the margins Z_ci - Z_{y_i i} of the wrong classes and log1p, so that value, gradient and curvature
    keep their relative accuracy where the loss is exponentially small.
    """

    Y: Array
    weights: Array
    __repr__ = short_repr

    @cached_property
    def wrong(self) -> Array:
        """1 - Y. (C, n)"""
        return 1 - self.Y

    def at(self, Z: ArrayT) -> tuple[ArrayT, ArrayT]:
        """The loss of every column and the probabilities of its wrong classes, 0 at the right one. (C, n) -> (n,), (C, n)"""
        xp = namespace(Z)
        margins = Z - (self.Y * Z).sum(0)
        top = xp.amax(margins, 0)  # 0 where the right class leads
        terms = xp.exp(margins - top) * self.wrong
        total = terms.sum(0)
        return top + xp.log1p(total + xp.expm1(-top)), terms / (total + xp.exp(-top))

    def value_and_gradient(self, Z: ArrayT) -> tuple[ArrayT, ArrayT]:
        """The loss and its gradient diag(v) (softmax Z - Y). (C, n) -> scalar, (C, n)"""
        losses, p = self.at(Z)
        return losses @ self.weights, (p - self.Y * p.sum(0)) * self.weights

    def curvature_at(self, Z: ArrayT) -> Callable[[ArrayT], ArrayT]:
        """The derivative of the gradient at Z as a map of directions. (C, n) -> (C, n)"""
        _, p = self.at(Z)
        weighted = p * self.weights

        def apply(dZ: ArrayT) -> ArrayT:
            moves = dZ - (self.Y * dZ).sum(0)
            result = weighted * (moves - (p * moves).sum(0))
            return result - self.Y * result.sum(0)

        return apply


@dataclass(frozen=True, eq=False, repr=False)
class SquaredError:
    """(1/2) sum_i v_i |Z_i - Y_i|^2 with column weights v (n,) and targets Y (C, n)."""

    Y: Array
    weights: Array
    __repr__ = short_repr

    def value_and_gradient(self, Z: ArrayT) -> tuple[ArrayT, ArrayT]:
        """The loss and its gradient (Z - Y) diag(v). (C, n) -> scalar, (C, n)"""
        R = Z - self.Y
        G = R * self.weights
        return (R * G).sum() / 2, G

    def curvature_at(self, Z: ArrayT) -> Callable[[ArrayT], ArrayT]:
        """The derivative of the gradient at Z as a map of directions. (C, n) -> (C, n)"""
        return lambda dZ: dZ * self.weights


@dataclass(frozen=True, eq=False)
class SmoothedCrossEntropy:
    """Cross-entropy to (1 - delta) Y + delta/C: that of Y plus delta sum_i v_i (Z_{y_i i} - mean_c Z_ci), as one linear term."""

    hard: CrossEntropy
    smoothing: float

    @cached_property
    def slope(self) -> Array:
        """delta diag(v) (Y - 1/C), the gradient of the linear term. (C, n)"""
        return self.smoothing * self.hard.weights * (self.hard.Y - 1 / len(self.hard.Y))

    def value_and_gradient(self, Z: ArrayT) -> tuple[ArrayT, ArrayT]:
        """The loss and its gradient. (C, n) -> scalar, (C, n)"""
        value, G = self.hard.value_and_gradient(Z)
        return value + (self.slope * Z).sum(), G + self.slope

    def curvature_at(self, Z: ArrayT) -> Callable[[ArrayT], ArrayT]:
        """That of cross-entropy. (C, n) -> (C, n)"""
        return self.hard.curvature_at(Z)


@dataclass(frozen=True, eq=False)
class Focal:
    """sum_i v_i u_i^gamma L_i, L_i the cross-entropy of a column, u_i = 1 - exp(-L_i) the probability of its wrong classes."""

    hard: CrossEntropy
    gamma: float

    def slopes(self, L: ArrayT) -> tuple[ArrayT, ArrayT, ArrayT]:
        """f(L) = (1 - exp(-L))^gamma L and its first two derivatives. (n,)"""
        xp, g = namespace(L), self.gamma
        u, p = -xp.expm1(-L), xp.exp(-L)
        first = u**g + g * u ** (g - 1) * p * L
        ratio = L / xp.clip(u, min=float(xp.finfo(L.dtype).tiny))  # near 1 where both are tiny; u^(gamma-2) overflows there
        return u**g * L, first, g * u ** (g - 1) * p * (2 - L + (g - 1) * p * ratio)

    def value_and_gradient(self, Z: ArrayT) -> tuple[ArrayT, ArrayT]:
        """The loss and its gradient, f'(L_i) times that of cross-entropy. (C, n) -> scalar, (C, n)"""
        L, p = self.hard.at(Z)
        f, first, _ = self.slopes(L)
        return f @ self.hard.weights, (p - self.hard.Y * p.sum(0)) * (self.hard.weights * first)

    def curvature_at(self, Z: ArrayT) -> Callable[[ArrayT], ArrayT]:
        """f'(L_i) times that of cross-entropy, plus f''(L_i) along its gradient. (C, n) -> (C, n)"""
        L, p = self.hard.at(Z)
        _, first, second = self.slopes(L)
        G, inner = p - self.hard.Y * p.sum(0), self.hard.curvature_at(Z)
        return lambda dZ: first * inner(dZ) + G * (second * self.hard.weights * (G * dZ).sum(0))


Loss = CrossEntropy | SquaredError | SmoothedCrossEntropy | Focal
