"""Feasible sets that are manifolds: one object a tensor of the point, handing the same set to pymanopt and to geoopt."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Flat:
    """All of R^shape, stored as it is; `lower` bounds every entry from below."""

    lower: ClassVar[float] = -np.inf

    def onto(self, x: Tensor) -> Tensor:
        """The point itself."""
        return x

    def tangent(self, x: Tensor, z: Tensor) -> Tensor:
        """The orthogonal projection of z on the tangent space at x."""
        return z

    def lay(self, x: Tensor) -> Tensor:
        """The tensor as the libraries store it."""
        return x

    def unlay(self, laid: Tensor, shape: torch.Size) -> Tensor:
        """The inverse of `lay`."""
        return laid.reshape(shape)

    def pymanopt(self, shape: torch.Size) -> Any:
        """pymanopt's manifold of the laid tensors of a tensor of this shape."""
        from pymanopt.manifolds import Euclidean

        return Euclidean(*shape)

    def geoopt(self) -> Any:
        """geoopt's manifold of the laid tensors."""
        from geoopt import Euclidean

        return Euclidean(ndim=2)


@dataclass(frozen=True)
class NonNegative(Flat):
    """{A : A >= 0}."""

    lower: ClassVar[float] = 0.0

    def onto(self, x: Tensor) -> Tensor:
        """The nearest point: negative entries set to 0."""
        return x.clamp(min=0)


@dataclass(frozen=True)
class Spheres(Flat):
    """A product of unit spheres: every row (axis 1) or column (axis 0) of a matrix, or the whole matrix (axis None), has norm 1.

    Laid as unit rows (spheres, dimension), which is geoopt's sphere; pymanopt's oblique manifold is the transpose.
    """

    axis: int | None = None

    def onto(self, x: Tensor) -> Tensor:
        """The nearest point of the set: every row, column or the whole divided by its norm."""
        return x / (x.norm() if self.axis is None else x.norm(dim=self.axis, keepdim=True))

    def tangent(self, x: Tensor, z: Tensor) -> Tensor:
        """z without its part along every unit vector."""
        return z - x * ((x * z).sum() if self.axis is None else (x * z).sum(self.axis, keepdim=True))

    def lay(self, x: Tensor) -> Tensor:
        """The unit vectors as rows. (spheres, dimension)"""
        return x.reshape(1, -1) if self.axis is None else (x.mT if self.axis == 0 else x)

    def unlay(self, laid: Tensor, shape: torch.Size) -> Tensor:
        """The inverse of `lay`."""
        return laid.reshape(shape) if self.axis is None else (laid.mT if self.axis == 0 else laid)

    def pymanopt(self, shape: torch.Size) -> Any:
        """The oblique manifold, transposed by the solver."""
        from pymanopt.manifolds import Oblique

        spheres, dimension = self.lay(torch.empty(shape, device="meta")).shape
        return Oblique(dimension, spheres)

    def geoopt(self) -> Any:
        """The sphere over the last axis."""
        from geoopt import Sphere

        return Sphere()


Feasible = tuple[Flat, ...]
