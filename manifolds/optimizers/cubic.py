"""The cubic model in a Krylov space of the Hessian: an orthonormal basis by Lanczos, and the minimum over its coordinates."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import brentq

from manifolds.array import Vector

INVARIANT = 64 * float(np.finfo(np.float64).eps)  # of ||T||: what orthogonalisation leaves of a vector that lies in the space


class KrylovSpace:
    """span(q, Hq, H^2 q, ...) in a tangent space, with an orthonormal basis and the matrix T = Q* H Q, tridiagonal.

    `inner` (u, v) is the inner product there, `hessian` (v) the Hessian along v, `tangent` (v) takes out what rounding left of v
    across the tangent space, where the Hessian means nothing. Every vector is orthogonalised against all others, twice, so that
    the basis is orthonormal to rounding.
    """

    def __init__(
        self,
        start: Vector,
        inner: Callable[[Vector, Vector], float],
        hessian: Callable[[Vector], Vector],
        tangent: Callable[[Vector], Vector],
    ) -> None:
        self.inner, self.hessian, self.tangent = inner, hessian, tangent
        self.basis: list[Vector] = []
        self.diagonal: list[float] = []
        self.couplings: list[float] = []  # below the diagonal; the last one leads out of the space, 0 where H maps it to itself
        self._next: Vector = self._normalised(tangent(start))

    @property
    def is_invariant(self) -> bool:
        """Whether H maps the space to itself: then it cannot grow."""
        return self._next is None

    def grow(self) -> None:
        """One dimension more, for one product with H."""
        vector, self._next = self._next, None
        self.basis.append(vector)
        image = self.hessian(vector)
        self.diagonal.append(self.inner(vector, image))
        for _ in range(2):
            for other in self.basis:
                image = image - self.inner(other, image) * other
        length = max(self.inner(image, image), 0.0) ** 0.5
        if length > INVARIANT * max(map(abs, self.diagonal + self.couplings)):
            self._next = self._normalised(self.tangent((1 / length) * image))
        self.couplings.append(length if self._next is not None else 0.0)

    def _normalised(self, vector: Vector) -> Vector:
        return (1 / self.inner(vector, vector) ** 0.5) * vector

    @property
    def matrix(self) -> np.ndarray:
        """T. (k, k)"""
        inside = self.couplings[:-1]
        return np.diag(self.diagonal) + np.diag(inside, 1) + np.diag(inside, -1)

    def vector(self, coordinates: np.ndarray) -> Vector:
        """Q z. (k,) -> a tangent vector"""
        total = float(coordinates[0]) * self.basis[0]
        for coordinate, vector in zip(coordinates[1:], self.basis[1:], strict=True):
            total = total + float(coordinate) * vector
        return total

    def coordinates(self, vector: Vector) -> np.ndarray:
        """Q* v. (k,)"""
        return np.array([self.inner(basis, vector) for basis in self.basis])


def minimise_cubic(T: np.ndarray, c: np.ndarray, sigma: float) -> np.ndarray:
    """The global minimum z of <c, z> + <z, T z> / 2 + sigma |z|^3 / 3 for a symmetric T (k, k), c (k,) and sigma > 0. (k,)

    (T + mu I) z = -c with mu = sigma |z| >= -lambda_min, found by the secular equation; where c has no part along the lowest
    eigenvector and |z| falls short of mu / sigma, that eigenvector makes it up.
    [Nesterov and Polyak 2006; Cartis, Gould and Toint 2011]
    """
    eigenvalues, E = np.linalg.eigh(T)
    b = E.T @ c
    least = max(0.0, -float(eigenvalues[0]))  # of mu
    gaps = eigenvalues + least  # >= 0
    size = float(np.linalg.norm(c))

    def rotated(excess: Any) -> np.ndarray:
        """E^T z for mu = least + excess; infinite where T + mu I is singular along a part of c."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(b == 0, 0.0, -b / (gaps + excess))

    def mismatch(excess: Any) -> float:
        """mu / |z| - sigma, which rises with mu."""
        length = float(np.linalg.norm(rotated(excess)))
        return (least + excess) / length - sigma if length > 0 else np.inf

    # at mu (mu + lambda_min) = sigma |c| the bound |z| <= |c| / (mu + lambda_min) makes the mismatch positive
    lowest = float(eigenvalues[0])
    most = 2 * sigma * size / (np.hypot(lowest, 2 * (sigma * size) ** 0.5) + abs(lowest))
    if lowest > 0 or mismatch(0.0) < 0:
        if size == 0:
            return 0 * c
        excess: Any = brentq(mismatch, 0.0, 2 * most, xtol=np.finfo(float).tiny, rtol=8.9e-16, maxiter=500)
        return E @ rotated(excess)
    z = rotated(0.0)
    z[0] = max((least / sigma) ** 2 - float(z @ z), 0.0) ** 0.5
    return E @ z
