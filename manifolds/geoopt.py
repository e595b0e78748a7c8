"""The normalized features manifold for geoopt's optimizers and samplers, with either metric. Points are (..., P, n).

The class structure is a ClassLayout of Python integers: no buffers to move, nothing in a state_dict, equal by structure.
Choose a retraction by its name or by a function of manifolds.retractions. As geoopt asks, a parameter is checked for its shape
when it is made, copied or loaded, and for feasibility by `check_point_on_manifold`. Every map takes non-tangent vectors (geoopt's
momentum starts as one) and returns points of the manifold.
Half precision is computed in float32 inside; what is stored is then feasible to the rounding of its storage only.
"""

import torch
from geoopt.manifolds.base import ScalingInfo

from manifolds import steps
from manifolds.class_centering import ClassLayout
from manifolds.forms import SemidefiniteForm
from manifolds.generalized import GeneralizedStiefelMetric
from manifolds.geoopt_base import Exact, MetricManifold
from manifolds.metrics import BundleMetric, EmbeddedMetric
from manifolds.normalized_features import renormalize
from manifolds.quotient import QuotientMetric
from manifolds.retractions import Move, nearest_point
from manifolds.rng import RNG

__all__ = [
    "EmbeddedNormalizedFeatures",
    "EmbeddedNormalizedFeaturesExact",
    "GeneralizedStiefel",
    "GeneralizedStiefelExact",
    "NormalizedFeatures",
    "NormalizedFeaturesExact",
]


class _Features(MetricManifold):
    """Normalized features, with either metric."""

    __scaling__ = MetricManifold.__scaling__.copy()

    def __init__(self, metric: BundleMetric | EmbeddedMetric, retraction: Move[torch.Tensor] | str, seed: RNG) -> None:
        super().__init__(metric, retraction, seed)
        self.metric, self.layout = metric, metric.layout

    def extra_repr(self) -> str:
        """n and C."""
        return f"n={self.layout.n}, C={self.layout.C}"

    @__scaling__(ScalingInfo(lr=-1))
    def gradient_step(self, x: torch.Tensor, u: torch.Tensor, lr: float) -> torch.Tensor:
        """retr(x, -lr egrad2rgrad(x, u)), as one fused step where the retraction allows it: `manifolds.steps`."""
        return steps.gradient_step(x, u, lr, self.metric, self._retraction)

    @__scaling__(ScalingInfo(lr=-1))
    def projected_step(self, x: torch.Tensor, u: torch.Tensor, lr: float) -> torch.Tensor:
        """The nearest point to x - lr u, equal to `gradient_step` to first order in lr and cheaper: `manifolds.steps`."""
        return steps.projected_step(x, u, lr, self.metric)


class NormalizedFeatures(_Features):
    """Bundle metric: proju is Proposition 4's Pi, the gradient Pi Pi*, the retraction the paper's renormalisation."""

    __scaling__ = _Features.__scaling__.copy()
    name = "NormalizedFeatures(bundle)"

    def __init__(
        self,
        layout: ClassLayout,
        *,
        retraction: Move[torch.Tensor] | str = "renormalisation",
        seed: RNG = None,
        rng: RNG = None,
    ) -> None:
        super().__init__(BundleMetric(layout), retraction, seed if rng is None else rng)

    def projx(self, x: torch.Tensor) -> torch.Tensor:
        """Renormalisation, along the fibre."""
        return renormalize(x, self.layout)


class EmbeddedNormalizedFeatures(_Features):
    """Frobenius metric: proju and gradient are the orthogonal P, the retraction is polar (second order)."""

    __scaling__ = _Features.__scaling__.copy()
    name = "NormalizedFeatures(embedded)"

    def __init__(
        self,
        layout: ClassLayout,
        *,
        retraction: Move[torch.Tensor] | str = "polar",
        seed: RNG = None,
        rng: RNG = None,
    ) -> None:
        super().__init__(EmbeddedMetric(layout), retraction, seed if rng is None else rng)

    def projx(self, x: torch.Tensor) -> torch.Tensor:
        """The nearest point."""
        return nearest_point(x, self.layout)


class GeneralizedStiefel(MetricManifold):
    """{x : x B x^T = I} of a positive semidefinite form B with the metric of `manifolds.generalized`; polar retraction."""

    __scaling__ = MetricManifold.__scaling__.copy()
    name = "GeneralizedStiefel"
    _constraint, _tangency = "`||x B x^T - I||_F`", "`||x B u^T + u B x^T||_F`"

    def __init__(
        self, form: SemidefiniteForm, *, retraction: Move[torch.Tensor] | str = "polar", seed: RNG = None, rng: RNG = None
    ) -> None:
        metric = GeneralizedStiefelMetric(form)
        super().__init__(metric, retraction, seed if rng is None else rng)
        self.metric, self.form = metric, form

    def extra_repr(self) -> str:
        """n and the rank."""
        return f"n={self.form.columns}, rank={self.form.rank}"

    def projx(self, x: torch.Tensor) -> torch.Tensor:
        """The nearest point in the norm of the metric."""
        return self.metric.nearest_point(x)


class OrthogonalQuotient(MetricManifold):
    """The quotient by O(P) of one of the manifolds above, for losses with f(Q x) = f(x): `manifolds.quotient`.

    Raises ValueError for another manifold, and for a retraction that does not commute with rotations.
    """

    __scaling__ = MetricManifold.__scaling__.copy()
    name = "OrthogonalQuotient"
    _tangency = "`||x C_M u^T + u C_M x^T||_F + ||Omega||_F` of its part `Omega x` along the orbit"

    def __init__(self, manifold: MetricManifold) -> None:
        if not isinstance(manifold, MetricManifold) or isinstance(manifold, Exact):
            raise ValueError(
                f"{manifold} is not a manifold of this module with a retraction: only these have a quotient by O(P) here"
            )
        super().__init__(QuotientMetric(manifold.metric), manifold._retraction, manifold._rng)
        self.manifold = manifold

    def extra_repr(self) -> str:
        """Of what."""
        return f"{self.manifold.name}, {self.manifold.extra_repr()}"

    def projx(self, x: torch.Tensor) -> torch.Tensor:
        """Of the manifold."""
        return self.manifold.projx(x)


class NormalizedFeaturesExact(Exact, NormalizedFeatures):
    """NormalizedFeatures whose retraction is the bundle metric's exponential map."""

    name = "NormalizedFeatures(bundle)"


class EmbeddedNormalizedFeaturesExact(Exact, EmbeddedNormalizedFeatures):
    """EmbeddedNormalizedFeatures whose retraction is the exponential map: reversible, hence for geoopt's samplers."""

    name = "NormalizedFeatures(embedded)"


class GeneralizedStiefelExact(Exact, GeneralizedStiefel):
    """GeneralizedStiefel whose retraction is the exponential map: reversible, hence for geoopt's samplers."""

    name = "GeneralizedStiefel"
