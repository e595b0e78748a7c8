"""The normalized features manifold for geoopt's optimizers and samplers, with either metric. Points are (..., P, n).

The class structure is a ClassLayout of Python integers: no buffers to move, nothing in a state_dict, equal by structure.
Choose a retraction by its name or by a function of manifolds.retractions. As geoopt asks, a parameter is checked for its shape
when it is made, copied or loaded, and for feasibility by `check_point_on_manifold`. Every map takes non-tangent vectors (geoopt's
momentum starts as one) and returns points of the manifold.
Half precision is computed in float32 inside; what is stored is then feasible to the rounding of its storage only.
"""

from typing import Any

import geoopt
import numpy as np
import torch
from geoopt.manifolds.base import ScalingInfo
from geoopt.utils import size2shape

from manifolds import sampling, steps
from manifolds.geometry import constraint_residual, renormalize, tangency_residual
from manifolds.layout import ClassLayout
from manifolds.metrics import BundleMetric, EmbeddedMetric, Metric
from manifolds.retractions import Move, as_retraction, nearest_point
from manifolds.rng import RNG

Check = tuple[bool, str | None]

_Manifold: Any = geoopt.Manifold  # untyped


class _Features(_Manifold):
    """What both metrics share.

    `rng`, or `seed` for geoopt's word, is a whole number, a numpy Generator, or None for fresh entropy; the global generators are
    never touched.
    """

    __scaling__ = geoopt.Manifold.__scaling__.copy()

    ndim = 2
    reversible = False

    def __init__(self, metric: Metric, retraction: Move | str, seed: RNG) -> None:
        super().__init__()
        self.metric, self.layout, self._retraction = metric, metric.layout, as_retraction(retraction)
        self._rng = np.random.default_rng(seed)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._structure() == other._structure()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self), *self._structure()))

    def _structure(self) -> tuple[ClassLayout, Move]:
        return self.layout, self._retraction

    def extra_repr(self) -> str:
        """n and C."""
        return f"n={self.layout.n}, C={self.layout.C}"

    def _check_shape(self, shape: tuple[int, ...], name: str) -> Check:
        ok, reason = super()._check_shape(shape, name)
        if not ok:
            return False, reason
        if shape[-1] != self.layout.n:
            return False, f"`{name}` has {shape[-1]} columns but the class sizes sum to {self.layout.n}"
        try:
            self.layout.check_rank(shape[-2])
        except ValueError as empty:
            return False, str(empty)
        return True, None

    def _check_point_on_manifold(self, x: torch.Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> Check:
        residual = float(constraint_residual(x.detach(), self.layout).max()) if x.numel() else 0.0
        allowed = _storage_rounding(x, atol + rtol)
        return (
            (True, None)
            if residual <= allowed
            else (False, f"`||x C_M x^T - I||_F` = {residual:.3e} > {allowed:.1e}; project it first: manifold.projx(x)")
        )

    def _check_vector_on_tangent(self, x: torch.Tensor, u: torch.Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> Check:
        residual = float(tangency_residual(x.detach(), u.detach(), self.layout).max()) if x.numel() else 0.0
        allowed = _storage_rounding(x, atol + rtol) * max(1.0, float(u.detach().abs().max()))
        return (True, None) if residual <= allowed else (False, f"`||x C_M u^T + u C_M x^T||_F` = {residual:.3e} > {allowed:.1e}")

    def inner(self, x: torch.Tensor, u: torch.Tensor, v: torch.Tensor | None = None, *, keepdim: bool = False) -> torch.Tensor:
        """g_x(u, v). (...) or (..., 1, 1)"""
        value = self.metric.inner(x, u, u if v is None else v)
        return value[..., None, None] if keepdim else value

    def norm(self, x: torch.Tensor, u: torch.Tensor, *, keepdim: bool = False) -> torch.Tensor:
        """sqrt(g_x(u, u)). (...) or (..., 1, 1)"""
        value = self.metric.norm(x, u)
        return value[..., None, None] if keepdim else value

    def proju(self, x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """The metric's own projection: Pi or P."""
        return self.metric.project(x, u)

    def egrad2rgrad(self, x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """The metric's gradient: Pi Pi* u or P u."""
        return self.metric.gradient(x, u)

    def retr(self, x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """The retraction given to the constructor. Raises ValueError where the step loses rank."""
        return self._retraction(x, u, self.layout)

    @__scaling__(ScalingInfo(lr=-1))
    def gradient_step(self, x: torch.Tensor, u: torch.Tensor, lr: float) -> torch.Tensor:
        """retr(x, -lr egrad2rgrad(x, u)), in one go where the retraction allows it: `manifolds.steps`."""
        return steps.gradient_step(x, u, lr, self.metric, self._retraction)

    @__scaling__(ScalingInfo(lr=-1))
    def projected_step(self, x: torch.Tensor, u: torch.Tensor, lr: float) -> torch.Tensor:
        """The nearest point to x - lr u, equal to `gradient_step` to first order in lr and cheaper: `manifolds.steps`."""
        return steps.projected_step(x, u, lr, self.metric)

    def expmap(self, x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """The metric's exponential map, of the projected u."""
        return self.metric.exp(x, u)

    def logmap(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Inverse of expmap, by shooting. Raises ValueError where it did not converge, and in a backward pass."""
        return self.metric.log(x, y)

    def dist(self, x: torch.Tensor, y: torch.Tensor, *, keepdim: bool = False) -> torch.Tensor:
        """Norm of the logmap, differentiable once. (...) or (..., 1, 1)"""
        value = self.metric.dist(x, y)
        return value[..., None, None] if keepdim else value

    def transp(self, x: torch.Tensor, y: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Vector transport by projection at y."""
        return self.metric.transport(x, y, v)

    def random(
        self,
        *size: int,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        generator: np.random.Generator | None = None,
        rng: RNG = None,
    ) -> torch.Tensor:
        """A random point of that size from `rng` or `generator`, or from the manifold's own; never from the global one."""
        shape: tuple[int, ...] = tuple(size2shape(*size))  # type: ignore[assignment]
        self._assert_check_shape(shape, "x")
        drawn = generator if rng is None else rng
        point = sampling.random_point(self.layout, shape[-2], self._rng if drawn is None else drawn, shape[:-2])
        dtype = torch.get_default_dtype() if dtype is None else dtype
        tensor: Any = geoopt.ManifoldTensor
        return tensor(torch.as_tensor(point, dtype=dtype, device=device), manifold=self)

    def origin(
        self, *size: int, dtype: torch.dtype | None = None, device: torch.device | None = None, seed: int | None = 42
    ) -> torch.Tensor:
        """The random point of that seed: the same one at every call."""
        return self.random(*size, dtype=dtype, device=device, generator=np.random.default_rng(seed))


class NormalizedFeatures(_Features):
    """Bundle metric: proju is Proposition 4's Pi, the gradient Pi Pi*, the retraction the paper's renormalisation."""

    __scaling__ = _Features.__scaling__.copy()
    name = "NormalizedFeatures(bundle)"

    def __init__(
        self,
        layout: ClassLayout,
        *,
        retraction: Move | str = "renormalisation",
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
        retraction: Move | str = "polar",
        seed: RNG = None,
        rng: RNG = None,
    ) -> None:
        super().__init__(EmbeddedMetric(layout), retraction, seed if rng is None else rng)

    def projx(self, x: torch.Tensor) -> torch.Tensor:
        """The nearest point."""
        return nearest_point(x, self.layout)


class _Exact:
    """Retraction by the exponential map with parallel transport: reversible."""

    reversible = True
    metric: Metric

    def retr(self, x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """The exponential map, of the projected u."""
        return self.metric.exp(x, u)

    def gradient_step(self, x: torch.Tensor, u: torch.Tensor, lr: float) -> torch.Tensor:
        """Along the geodesic of -lr egrad2rgrad(x, u)."""
        return self.metric.exp(x, -lr * self.metric.gradient(x, u))

    def transp(self, x: torch.Tensor, y: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Parallel transport along the geodesic from x to y. Raises ValueError where no geodesic is found."""
        return self.metric.parallel_transport(x, y, v)

    def retr_transp(self, x: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The end of the geodesic, and v carried parallel along it."""
        return self.metric.geodesic_transport(x, u, v)

    def expmap_transp(self, x: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same: the retraction is the exponential map."""
        return self.metric.geodesic_transport(x, u, v)

    def transp_follow_retr(self, x: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """v carried parallel along the geodesic of u."""
        return self.metric.geodesic_transport(x, u, v)[1]

    def transp_follow_expmap(self, x: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """v carried parallel along the geodesic of u."""
        return self.metric.geodesic_transport(x, u, v)[1]

    def extra_repr(self) -> str:
        """With geoopt's word for a retraction that is the exponential map."""
        return "exact, " + super().extra_repr()  # type: ignore[misc]


class NormalizedFeaturesExact(_Exact, NormalizedFeatures):
    """NormalizedFeatures whose retraction is the bundle metric's exponential map."""

    name = "NormalizedFeatures(bundle)"


class EmbeddedNormalizedFeaturesExact(_Exact, EmbeddedNormalizedFeatures):
    """EmbeddedNormalizedFeatures whose retraction is the exponential map: reversible, hence for geoopt's samplers."""

    name = "NormalizedFeatures(embedded)"


def _storage_rounding(x: torch.Tensor, tolerance: float) -> float:
    """`tolerance` times P, or what rounding x to its storage does to the constraint, whichever is larger."""
    size: Any = float(x.detach().abs().max()) if x.numel() else 1.0
    return x.shape[-2] * max(tolerance, 4 * torch.finfo(x.dtype).eps * max(size, 1.0))
