"""Feasible sets: one object a tensor of the point, numpy or torch, and geoopt's manifold of the same set."""

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from manifolds.linalg import ArrayT, namespace

if TYPE_CHECKING:
    from geoopt import Manifold


@dataclass(frozen=True)
class Flat:
    """All of R^shape, stored as it is; `lower` bounds every entry from below."""

    lower: ClassVar[float] = -np.inf

    def onto(self, x: ArrayT) -> ArrayT:
        """The point itself."""
        return x

    def tangent(self, x: ArrayT, z: ArrayT) -> ArrayT:
        """The orthogonal projection of z on the tangent space at x."""
        return z

    def along(self, x: ArrayT, z: ArrayT) -> ArrayT | float:
        """0 on flat space, <x, z> on spheres, whose Riemannian Hessian is the tangent part of H d - <x, grad> d."""
        return 0.0

    def freedom(self, shape: tuple[int, ...]) -> int:
        """The dimension of the set for a tensor of this shape."""
        return prod(shape)

    def to_rows(self, x: Tensor) -> Tensor:
        """The tensor as geoopt stores it."""
        return x

    def from_rows(self, rows: Tensor, shape: torch.Size) -> Tensor:
        """The inverse of `to_rows`."""
        return rows.reshape(shape)

    def geoopt(self) -> "Manifold":
        """geoopt's manifold of the stored tensors."""
        from geoopt import Euclidean

        return Euclidean(ndim=2)


@dataclass(frozen=True)
class NonNegative(Flat):
    """{A : A >= 0}."""

    lower: ClassVar[float] = 0.0

    def onto(self, x: ArrayT) -> ArrayT:
        """The nearest point: negative entries set to 0."""
        return namespace(x).clip(x, min=0)


@dataclass(frozen=True)
class Spheres(Flat):
    """A product of unit spheres: every row (axis 1) or column (axis 0) of a matrix, or the whole matrix (axis None), has norm 1.

    Stored as unit rows (spheres, dimension), which is geoopt's sphere.
    """

    axis: int | None = None

    def onto(self, x: ArrayT) -> ArrayT:
        """The nearest point of the set: every row, column or the whole divided by its norm."""
        return x / self.along(x, x) ** 0.5

    def tangent(self, x: ArrayT, z: ArrayT) -> ArrayT:
        """z without its part along every unit vector."""
        return z - x * self.along(x, z)

    def along(self, x: ArrayT, z: ArrayT) -> ArrayT:
        """The inner product of every vector of x with that of z, ready to broadcast."""
        return (x * z).sum() if self.axis is None else (x * z).sum(self.axis, keepdims=True)

    def freedom(self, shape: tuple[int, ...]) -> int:
        """One less for every sphere."""
        return prod(shape) - (1 if self.axis is None else prod(shape) // shape[self.axis])

    def to_rows(self, x: Tensor) -> Tensor:
        """The unit vectors as rows. (spheres, dimension)"""
        return x.reshape(1, -1) if self.axis is None else (x.mT if self.axis == 0 else x)

    def from_rows(self, rows: Tensor, shape: torch.Size) -> Tensor:
        """The inverse of `to_rows`."""
        return rows.reshape(shape) if self.axis is None else (rows.mT if self.axis == 0 else rows)

    def geoopt(self) -> "Manifold":
        """The sphere over the last axis."""
        from geoopt import Sphere

        return Sphere()


Feasible = tuple[Flat, ...]
