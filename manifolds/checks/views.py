"""One interface to the manifolds of pymanopt and of geoopt, so that one list of checks serves both libraries and their users.

A view never imports either library. What a manifold does not implement raises NotImplementedError, as the libraries do.
Points and tangent vectors stay the library's own: arrays, tensors, or pymanopt's lists for product manifolds.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from manifolds.array import ManifoldPoint, Vector
from manifolds.linalg import as_numpy

POINT_SIZE = 0.3  # of the normal numbers that are projected to a point: well inside the models of hyperbolic space


def entries(value: ManifoldPoint | Vector) -> list[np.ndarray]:
    """The arrays that a point or vector consists of, as numpy."""
    if isinstance(value, (list, tuple)):
        return [array for part in value for array in entries(part)]
    return [as_numpy(value) if hasattr(value, "detach") else np.asarray(value)]


def flat(value: ManifoldPoint | Vector) -> np.ndarray:
    """All entries of a point or vector, one after the other, as float64 numpy."""
    return np.concatenate([array.astype(np.float64).ravel() for array in entries(value)])


class ManifoldView(ABC):
    """What the checks ask of a manifold."""

    def __init__(self, manifold: Any, seed: int = 0) -> None:
        self.manifold, self.rng = manifold, np.random.default_rng(seed)

    @abstractmethod
    def random_point(self) -> ManifoldPoint:
        """A point."""

    @abstractmethod
    def random_ambient(self, x: ManifoldPoint) -> Vector:
        """A standard normal ambient vector at x."""

    @abstractmethod
    def inner(self, x: ManifoldPoint, u: Vector, v: Vector) -> float:
        """g(u, v), summed over batch axes."""

    @abstractmethod
    def project(self, x: ManifoldPoint, z: Vector) -> Vector:
        """On the tangent space."""

    @abstractmethod
    def gradient(self, x: ManifoldPoint, g: Vector) -> Vector:
        """Riemannian from ambient gradient."""

    @abstractmethod
    def retract(self, x: ManifoldPoint, u: Vector) -> ManifoldPoint:
        """The retraction."""

    @abstractmethod
    def exp(self, x: ManifoldPoint, u: Vector) -> ManifoldPoint:
        """The exponential map."""

    @abstractmethod
    def log(self, x: ManifoldPoint, y: ManifoldPoint) -> Vector:
        """Its inverse."""

    @abstractmethod
    def dist(self, x: ManifoldPoint, y: ManifoldPoint) -> float:
        """The distance."""

    @abstractmethod
    def transport(self, x: ManifoldPoint, y: ManifoldPoint, u: Vector) -> Vector:
        """The vector transport that optimizers use."""

    @abstractmethod
    def parallel_transport(self, x: ManifoldPoint, y: ManifoldPoint, u: Vector) -> Vector:
        """Parallel transport along the geodesic from x to y."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """The dimension that the manifold claims."""

    def random_tangent(self, x: ManifoldPoint) -> Vector:
        """A random tangent vector of norm 1."""
        u = self.project(x, self.random_ambient(x))
        norm = self.norm(x, u)
        if not norm > 0:
            raise ValueError(f"{self.manifold}: a random tangent vector has norm {norm}: the point is not on the manifold")
        return u * (1 / norm)

    def norm(self, x: ManifoldPoint, u: Vector) -> float:
        """sqrt(g(u, u))."""
        return max(self.inner(x, u, u), 0.0) ** 0.5


class PymanoptView(ManifoldView):
    """A pymanopt manifold, single or product. Its random points come from the manifold, not from the view."""

    def random_point(self) -> ManifoldPoint:
        return self.manifold.random_point()

    def random_ambient(self, x: ManifoldPoint) -> Vector:
        if isinstance(x, (list, tuple)):
            zero = self.manifold.zero_vector(x)
            return type(zero)([self.rng.standard_normal(np.shape(part)) for part in x])
        return self.rng.standard_normal(x.shape)

    def inner(self, x: ManifoldPoint, u: Vector, v: Vector) -> float:
        return float(self.manifold.inner_product(x, u, v))

    def project(self, x: ManifoldPoint, z: Vector) -> Vector:
        return self.manifold.projection(x, z)

    def gradient(self, x: ManifoldPoint, g: Vector) -> Vector:
        return self.manifold.euclidean_to_riemannian_gradient(x, g)

    def retract(self, x: ManifoldPoint, u: Vector) -> ManifoldPoint:
        return self.manifold.retraction(x, u)

    def exp(self, x: ManifoldPoint, u: Vector) -> ManifoldPoint:
        return self.manifold.exp(x, u)

    def log(self, x: ManifoldPoint, y: ManifoldPoint) -> Vector:
        return self.manifold.log(x, y)

    def dist(self, x: ManifoldPoint, y: ManifoldPoint) -> float:
        return float(self.manifold.dist(x, y))

    def transport(self, x: ManifoldPoint, y: ManifoldPoint, u: Vector) -> Vector:
        return self.manifold.transport(x, y, u)

    def parallel_transport(self, x: ManifoldPoint, y: ManifoldPoint, u: Vector) -> Vector:
        return _optional_method(self.manifold, "parallel_transport")(x, y, u)

    @property
    def dimension(self) -> int:
        return int(self.manifold.dim)


class GeooptView(ManifoldView):
    """A geoopt manifold and the `shape` of a point on it.

    Random points are projections of the view's own normal numbers, or the manifold's own where its projection takes none.
    """

    def __init__(self, manifold: Any, shape: tuple[int, ...], seed: int = 0) -> None:
        super().__init__(manifold, seed)
        self.shape = shape

    def random_point(self) -> ManifoldPoint:
        try:
            x = self.manifold.projx(POINT_SIZE * self._normal())
        except RuntimeError:  # a complex manifold's projection takes no real numbers
            return self._own_point()
        return x if self.manifold.check_point_on_manifold(x) else self.manifold.projx(self._own_point().double())

    def random_ambient(self, x: ManifoldPoint) -> Vector:
        return self._normal()

    def inner(self, x: ManifoldPoint, u: Vector, v: Vector) -> float:
        return float(self.manifold.inner(x, u, v).sum())

    def project(self, x: ManifoldPoint, z: Vector) -> Vector:
        return self.manifold.proju(x, z)

    def gradient(self, x: ManifoldPoint, g: Vector) -> Vector:
        return self.manifold.egrad2rgrad(x, g)

    def retract(self, x: ManifoldPoint, u: Vector) -> ManifoldPoint:
        return self.manifold.retr(x, u)

    def exp(self, x: ManifoldPoint, u: Vector) -> ManifoldPoint:
        return self.manifold.expmap(x, u)

    def log(self, x: ManifoldPoint, y: ManifoldPoint) -> Vector:
        return self.manifold.logmap(x, y)

    def dist(self, x: ManifoldPoint, y: ManifoldPoint) -> float:
        return float((self.manifold.dist(x, y) ** 2).sum()) ** 0.5

    def transport(self, x: ManifoldPoint, y: ManifoldPoint, u: Vector) -> Vector:
        return self.manifold.transp(x, y, u)

    def parallel_transport(self, x: ManifoldPoint, y: ManifoldPoint, u: Vector) -> Vector:
        if not self.manifold.reversible:
            raise NotImplementedError("geoopt has parallel transport only where a manifold is reversible")
        return self.manifold.transp_follow_expmap(x, self.manifold.logmap(x, y), u)

    @property
    def dimension(self) -> int:
        raise NotImplementedError("geoopt's manifolds do not state a dimension")

    def _own_point(self) -> Any:
        """A random point by the manifold itself; torch's global generator is left as it was."""
        import torch

        with torch.random.fork_rng(devices=()):
            torch.manual_seed(int(self.rng.integers(2**31)))
            return self.manifold.random(*self.shape).detach().as_subclass(torch.Tensor)

    def _normal(self) -> Any:
        import torch

        return torch.from_numpy(self.rng.standard_normal(self.shape))


def _optional_method(manifold: Any, name: str) -> Any:
    method = getattr(manifold, name, None)
    if method is None:
        raise NotImplementedError(f"{type(manifold).__name__} has no {name}")
    return method
