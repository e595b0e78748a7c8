"""An orthonormal basis Q (C, C-1) of the complement of one unit vector, applied and never written out."""

from dataclasses import dataclass

from manifolds.linalg import Array, ArrayT, namespace
from manifolds.representation import short_repr


@dataclass(frozen=True, eq=False, repr=False)
class ComplementBasis:
    """Columns 2..C of the Householder reflection I - beta w w^T that takes q to -e_1. w (C,)"""

    w: Array
    beta: float
    __repr__ = short_repr

    @classmethod
    def of(cls, q: Array) -> "ComplementBasis":
        """The basis orthogonal to q (C,), a unit vector with q_1 >= 0."""
        w = q + 0.0
        w[0] += 1.0
        return cls(w, 2.0 / float((w * w).sum()))

    def reduce(self, X: ArrayT) -> ArrayT:
        """X Q. (..., C) -> (..., C-1)"""
        return X[..., 1:] - (self.beta * (X @ self.w))[..., None] * self.w[1:]

    def expand(self, Z: ArrayT) -> ArrayT:
        """Z Q^T. (..., C-1) -> (..., C)"""
        xp = namespace(Z)
        along = (self.beta * (Z @ self.w[1:]))[..., None]
        first, rest = -along * self.w[:1], Z - along * self.w[1:]
        return xp.concatenate([first, rest], -1) if xp.__name__ == "numpy" else xp.cat([first, rest], -1)

    def weighted(self, Z: ArrayT, weights: ArrayT) -> ArrayT:
        """Z Q^T diag(weights) Q, without the columns in between. (..., C-1), (C,) -> (..., C-1)"""
        xp, w, rest = namespace(Z), self.w[1:], weights[1:]
        rows = xp.stack([w * rest, w])  # the two of rank one by which this differs from Z diag(rest), in one product
        along = self.beta * (Z @ w)
        first = along * (self.w[0] * weights[0] * self.w[0])
        across = self.beta * (Z @ rows[0] - along * (rows[0] @ w) - first)
        Y = Z * rest
        Y -= xp.stack([along, across], -1) @ rows
        return Y
