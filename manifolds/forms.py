"""Positive semidefinite forms B = G G^T on the columns of X (..., P, n), given by what they do: B itself is never formed.

The manifold {X : X B X^T = I} is, in the coordinates F = X G and K (those of X's part in the kernel of B), a Stiefel manifold
times a flat space. A form knows the way to these coordinates and back; `manifolds.generalized` does the geometry.

    ClassLayout((5, 7, 6))        C_M of the classes: the normalized features manifold
    WeightedCentering(weights)    diag(w) - w w^T: the covariance of one class with weights
    MatrixForm.of_factor(G)       any G (n, k), or `of_matrix` (B): scatter matrices of LDA and CCA, the identity of PCA
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from manifolds.array import ArrayT, Columns, KernelCoordinates, RangeCoordinates
from manifolds.linalg import array_like


class SemidefiniteForm(Protocol):
    """B = G G^T of rank `rank` on `columns` columns, and the weight `scale` of its part in the metric.

    G (columns, k) is any factor; the coordinates of the kernel are isometric. Frozen and compared by structure.
    """

    @property
    def columns(self) -> int:
        """n."""
        ...

    @property
    def rank(self) -> int:
        """rank(B)."""
        ...

    @property
    def factors(self) -> int:
        """k, the columns of G."""
        ...

    @property
    def scale(self) -> float:
        """s of the metric s <U B, V> + <U_ker, V_ker>."""
        ...

    def apply(self, X: Columns[ArrayT]) -> Columns[ArrayT]:
        """X B. (..., P, n)"""
        ...

    def range_coordinates(self, X: Columns[ArrayT]) -> RangeCoordinates[ArrayT]:
        """F = X G. (..., P, n) -> (..., P, k)"""
        ...

    def kernel_coordinates(self, X: Columns[ArrayT]) -> KernelCoordinates[ArrayT]:
        """K, the part of X in the kernel of B in orthonormal coordinates. (..., P, n) -> (..., P, m)"""
        ...

    def combine(self, F: RangeCoordinates[ArrayT], K: KernelCoordinates[ArrayT]) -> Columns[ArrayT]:
        """The X of these coordinates: F G^+ and the kernel's part. (..., P, k), (..., P, m) -> (..., P, n)"""
        ...

    def range_gradient(self, E: Columns[ArrayT]) -> RangeCoordinates[ArrayT]:
        """E (G^+)^T, the gradient by F from the gradient E by X. (..., P, n) -> (..., P, k)"""
        ...


@dataclass(frozen=True)
class WeightedCentering:
    """B = diag(w) - w w^T, w = weights / sum(weights): X B X^T is the weighted covariance, its kernel the weighted mean.

    One class (C = 1) where the weights are equal. Right to eps times the root of the largest over the smallest weight.
    Raises ValueError for fewer than 2 weights, and for one that is not positive or negligible compared with the largest.
    """

    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        weights = np.array(self.weights, dtype=np.float64)
        if weights.ndim != 1 or len(weights) < 2:
            raise ValueError(f"weights of shape {weights.shape}: at least two, in one row, are needed")
        if not (np.isfinite(weights).all() and weights.min() > 0):
            bad = int(np.argmin(np.where(np.isfinite(weights), weights, -np.inf)))
            raise ValueError(f"weight {bad} is {weights[bad]}: weights are positive; leave out the columns of weight 0")
        weights /= weights.max()  # the sum of what is near the largest number would be infinite
        if weights.min() ** 0.5 <= len(weights) * np.finfo(np.float64).eps:
            bad = int(np.argmin(weights))
            raise ValueError(
                f"weight {bad} is {weights[bad]:.1e} of the largest, below the precision of float64: leave its column out"
            )
        weights /= weights.sum()
        object.__setattr__(self, "weights", tuple(weights.tolist()))

    @property
    def columns(self) -> int:
        """n."""
        return len(self.weights)

    @property
    def rank(self) -> int:
        """n - 1."""
        return len(self.weights) - 1

    @property
    def factors(self) -> int:
        """n."""
        return len(self.weights)

    @property
    def scale(self) -> float:
        """1."""
        return 1.0

    def apply(self, X: Columns[ArrayT]) -> Columns[ArrayT]:
        """(X - X w 1^T) diag(w). (..., P, n)"""
        return self.range_coordinates(X) * self._root(X)

    def range_coordinates(self, X: Columns[ArrayT]) -> RangeCoordinates[ArrayT]:
        """(X - X w 1^T) diag(sqrt(w)). (..., P, n)"""
        w = array_like(np.asarray(self.weights), X)
        centred = X - X.mean(-1)[..., None]  # the weighted mean of what is centred already leaves no rounding of a large mean
        return (centred - (centred @ w)[..., None]) * self._root(X)

    def kernel_coordinates(self, X: Columns[ArrayT]) -> KernelCoordinates[ArrayT]:
        """X 1 / sqrt(n). (..., P, 1)"""
        return X.mean(-1)[..., None] * self.columns**0.5

    def combine(self, F: RangeCoordinates[ArrayT], K: KernelCoordinates[ArrayT]) -> Columns[ArrayT]:
        """F / sqrt(w), its mean moved to that of K. (..., P, n)"""
        X = F / self._root(F)
        return X - X.mean(-1)[..., None] + K / self.columns**0.5

    def range_gradient(self, E: Columns[ArrayT]) -> RangeCoordinates[ArrayT]:
        """(E - mean) / sqrt(w), less its part along sqrt(w). (..., P, n)"""
        root = self._root(E)
        scaled = (E - E.mean(-1)[..., None]) / root
        return scaled - (scaled @ root)[..., None] * root

    def _root(self, X: ArrayT) -> ArrayT:
        """sqrt(w) with the dtype and device of X. (n,)"""
        return array_like(np.sqrt(self.weights), X)
