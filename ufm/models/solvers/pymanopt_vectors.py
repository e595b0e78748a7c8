"""A feasible set as a manifold of pymanopt whose points are plain vectors, which spares its products of arrays."""

from typing import Any

import numpy as np
from pymanopt.manifolds.manifold import RiemannianSubmanifold

from ufm.models.solvers.vectors import Vectors


class FeasibleVectors(RiemannianSubmanifold):
    """A product of spheres and flat spaces in the order of the tensors of a point, with the Euclidean inner product."""

    def __init__(self, vectors: Vectors) -> None:
        self.vectors, self.length, self.rng = vectors, vectors.slices[-1][1], np.random.default_rng(0)
        shapes = [shape for *_, shape in vectors.slices]
        super().__init__(
            "product of spheres and flat spaces", sum(s.freedom(shape) for s, shape in zip(vectors.feasible, shapes, strict=True))
        )

    @property
    def typical_dist(self) -> float:
        """The square root of the dimension."""
        return float(np.sqrt(self.dim))

    def inner_product(self, point: np.ndarray, tangent_vector_a: np.ndarray, tangent_vector_b: np.ndarray) -> Any:
        """Euclidean."""
        return tangent_vector_a @ tangent_vector_b

    def norm(self, point: np.ndarray, tangent_vector: np.ndarray) -> Any:
        """Euclidean."""
        return np.sqrt(tangent_vector @ tangent_vector)

    def projection(self, point: np.ndarray, vector: np.ndarray) -> Any:
        """Without the part along every unit vector."""
        return self.vectors.tangent(point, vector)

    to_tangent_space = projection  # type: ignore[bad-override]  # pymanopt declares a method

    def retraction(self, point: np.ndarray, tangent_vector: np.ndarray) -> Any:  # type: ignore[bad-override]  # as in pymanopt
        """The nearest feasible point to a straight step."""
        return self.vectors.onto(point + tangent_vector)

    def zero_vector(self, point: np.ndarray) -> Any:
        """No step."""
        return np.zeros_like(point)

    def random_point(self) -> Any:
        """Gaussian entries, moved onto the set."""
        return self.vectors.onto(self.rng.standard_normal(self.length))

    def random_tangent_vector(self, point: np.ndarray) -> Any:
        """A Gaussian direction of unit length."""
        tangent = self.projection(point, self.rng.standard_normal(self.length))
        return tangent / self.norm(point, tangent)
