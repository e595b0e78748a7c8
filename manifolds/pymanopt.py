"""The normalized features manifold for pymanopt's optimizers, with either metric. Points are (P, n), or (copies, P, n).

Choose a retraction by its name or by one of the functions of manifolds.retractions (or any (X, U, layout) -> point).
Random points come from the manifold's own `rng` (or `seed`): a whole number, a numpy Generator, or None for fresh entropy.
pymanopt computes in numpy float64; costs may be numpy or torch.
"""

from typing import Any

import numpy as np
from pymanopt.manifolds.manifold import Manifold

from manifolds import steps
from manifolds.class_centering import ClassLayout, whole_number
from manifolds.embedded import curvature
from manifolds.forms import SemidefiniteForm
from manifolds.generalized import GeneralizedStiefelMetric
from manifolds.metric import Metric
from manifolds.metrics import BundleMetric, EmbeddedMetric
from manifolds.quotient import QuotientMetric
from manifolds.retractions import Move
from manifolds.rng import RNG, generator_of

__all__ = ["EmbeddedNormalizedFeatures", "GeneralizedStiefel", "NormalizedFeatures"]

_Manifold: Any = Manifold  # untyped


class _MetricManifold(_Manifold):
    """What every metric shares. Raises ValueError for an empty manifold (n - C < P) and for fewer than one copy."""

    metric: Any

    def __init__(self, metric: Metric, P: int, copies: int, retraction: Move[np.ndarray] | str, seed: RNG, name: str):
        P, copies = whole_number(P, "P"), whole_number(copies, "copies")
        if copies < 1:
            raise ValueError(f"copies = {copies}: at least one is needed")
        self.metric, self.P, self.copies = metric, P, copies
        self._retraction, self._rng = metric.as_retraction(retraction), generator_of(seed)
        super().__init__(f"{name}, P={P}, copies={copies}", copies * metric.dimension(P))

    @property
    def _batch(self) -> tuple[int, ...]:
        return () if self.copies == 1 else (self.copies,)

    @property
    def typical_dist(self) -> float:
        """sqrt(copies) times the size of the constrained part of a point."""
        return np.sqrt(self.copies) * self.metric.typical_distance(self.P)

    def inner_product(self, point: np.ndarray, tangent_vector_a: np.ndarray, tangent_vector_b: np.ndarray) -> float:
        """g(a, b), summed over copies."""
        return float(np.sum(self.metric.inner(point, tangent_vector_a, tangent_vector_b)))

    def norm(self, point: np.ndarray, tangent_vector: np.ndarray) -> float:
        """sqrt(g(a, a))."""
        return float(np.sqrt(max(self.inner_product(point, tangent_vector, tangent_vector), 0.0)))

    def projection(self, point: np.ndarray, vector: np.ndarray) -> np.ndarray:
        """The metric's own projection on the tangent space; the gradient is another map for the bundle metric."""
        return self.metric.project(point, vector)

    to_tangent_space = projection

    def euclidean_to_riemannian_gradient(self, point: np.ndarray, euclidean_gradient: np.ndarray) -> np.ndarray:
        """The metric's gradient: P G, Pi Pi* G."""
        return self.metric.gradient(point, euclidean_gradient)

    def euclidean_to_riemannian_hessian(
        self, point: np.ndarray, euclidean_gradient: np.ndarray, euclidean_hessian: np.ndarray, tangent_vector: np.ndarray
    ) -> np.ndarray:
        """The Hessian of the metric's Levi-Civita connection."""
        return self.metric.hessian(point, euclidean_gradient, euclidean_hessian, tangent_vector)

    def retraction(self, point: np.ndarray, tangent_vector: np.ndarray) -> np.ndarray:
        """The retraction given to the constructor. Raises ValueError where a step loses rank."""
        return self.metric.retract(point, tangent_vector, self._retraction)

    def exp(self, point: np.ndarray, tangent_vector: np.ndarray) -> np.ndarray:
        """The metric's exponential map."""
        return self.metric.exp(point, tangent_vector)

    def log(self, point_a: np.ndarray, point_b: np.ndarray) -> np.ndarray:
        """Inverse of exp, by shooting. Raises ValueError where it did not converge."""
        return self.metric.log(point_a, point_b)

    def dist(self, point_a: np.ndarray, point_b: np.ndarray) -> float:
        """Norm of the log."""
        return self.norm(point_a, self.log(point_a, point_b))

    def pair_mean(self, point_a: np.ndarray, point_b: np.ndarray) -> np.ndarray:
        """Half way along the geodesic."""
        return self.metric.midpoint(point_a, point_b)

    def transport(self, point_a: np.ndarray, point_b: np.ndarray, tangent_vector_a: np.ndarray) -> np.ndarray:
        """Vector transport by projection."""
        return self.metric.transport(point_a, point_b, tangent_vector_a)

    def parallel_transport(self, point_a: np.ndarray, point_b: np.ndarray, tangent_vector_a: np.ndarray) -> np.ndarray:
        """Parallel transport along the geodesic from a to b, an isometry; pymanopt's optimizers do not ask for it."""
        return self.metric.parallel_transport(point_a, point_b, tangent_vector_a)

    def random_point(self) -> np.ndarray:
        """A point from the manifold's own generator."""
        return self.metric.random_point(self.P, self._rng, self._batch)

    def random_tangent_vector(self, point: np.ndarray) -> np.ndarray:
        """A random direction of norm 1."""
        vector = self.projection(point, self._rng.standard_normal(point.shape))
        return vector / self.norm(point, vector)

    def zero_vector(self, point: np.ndarray) -> np.ndarray:
        """Zero."""
        return np.zeros_like(point)


class _Features(_MetricManifold):
    """Normalized features, with either metric."""

    def __init__(self, metric: BundleMetric | EmbeddedMetric, P: int, copies: int, retraction: Move[np.ndarray] | str, seed: RNG):
        self.layout = metric.layout
        name = f"Normalized features manifold n={self.layout.n}, C={self.layout.C}, {type(metric).__name__}"
        super().__init__(metric, P, copies, retraction, seed, name)

    def gradient_step(self, point: np.ndarray, euclidean_gradient: np.ndarray, step: float) -> np.ndarray:
        """retraction(point, -step euclidean_to_riemannian_gradient(...)) as one fused step of `manifolds.steps`."""
        return steps.gradient_step(point, euclidean_gradient, step, self.metric, self._retraction)


class NormalizedFeatures(_Features):
    """Bundle metric: projection Pi (Proposition 4), gradient Pi Pi*, retraction by renormalisation."""

    def __init__(
        self,
        layout: ClassLayout,
        P: int,
        *,
        copies: int = 1,
        retraction: Move[np.ndarray] | str = "renormalisation",
        seed: RNG = None,
        rng: RNG = None,
    ) -> None:
        super().__init__(BundleMetric(layout), P, copies, retraction, seed if rng is None else rng)


class EmbeddedNormalizedFeatures(_Features):
    """Frobenius metric: orthogonal projection P, which is the gradient too; second-order polar retraction."""

    def __init__(
        self,
        layout: ClassLayout,
        P: int,
        *,
        copies: int = 1,
        retraction: Move[np.ndarray] | str = "polar",
        seed: RNG = None,
        rng: RNG = None,
    ) -> None:
        super().__init__(EmbeddedMetric(layout), P, copies, retraction, seed if rng is None else rng)

    def weingarten(self, point: np.ndarray, tangent_vector: np.ndarray, normal_vector: np.ndarray) -> np.ndarray:
        """Shape operator, by which pymanopt's RiemannianSubmanifold makes the same Hessian with two projections more.

        The tangent part of an ambient vector in place of the normal one is dropped.
        """
        return curvature.weingarten(point, tangent_vector, normal_vector, self.layout)


class GeneralizedStiefel(_MetricManifold):
    """{X : X B X^T = I_P} of a positive semidefinite form B, with the metric of `manifolds.generalized`; polar retraction.

    Raises ValueError where rank(B) < P.
    """

    def __init__(
        self,
        form: SemidefiniteForm,
        P: int,
        *,
        copies: int = 1,
        retraction: Move[np.ndarray] | str = "polar",
        seed: RNG = None,
        rng: RNG = None,
    ) -> None:
        metric = GeneralizedStiefelMetric(form)
        super().__init__(
            metric,
            P,
            copies,
            retraction,
            seed if rng is None else rng,
            f"Generalized Stiefel manifold n={form.columns}, rank={form.rank}",
        )
        self.form = form


class OrthogonalQuotient(_MetricManifold):
    """The quotient by O(P) of one of the manifolds above, for losses with f(Q X) = f(X): `manifolds.quotient`.

    Points are points of that manifold, retraction and generator its own. Raises ValueError for another manifold, and for a
    retraction that does not go with rotations.
    """

    def __init__(self, manifold: _MetricManifold) -> None:
        if not isinstance(manifold, _MetricManifold):
            raise ValueError(f"{manifold} is not a manifold of this module: only these have a quotient by O(P) here")
        metric = QuotientMetric(manifold.metric)
        super().__init__(
            metric, manifold.P, manifold.copies, manifold._retraction, manifold._rng, f"{manifold} / O({manifold.P})"
        )
