"""What geoopt's optimizers ask of a manifold, answered by any `manifolds.metric.Metric`. Points are (..., P, n)."""

from collections.abc import Callable
from typing import Any

import geoopt
import numpy as np
import torch
from geoopt.utils import size2shape

from manifolds.linalg import ArrayT
from manifolds.metric import Metric
from manifolds.retractions import Move, Retraction
from manifolds.rng import RNG, generator_of
from manifolds.tracking import are_untracked

Check = tuple[bool, str | None]

_Manifold: Any = geoopt.Manifold  # untyped


NUMPY_TYPES = frozenset((torch.float32, torch.float64))
NUMPY_ENTRIES = 1 << 14  # entries up to which numpy's calls, which cost half of torch's, decide


class MetricManifold(_Manifold):
    """What every metric shares.

    `rng`, or `seed` for geoopt's word, is a whole number, a numpy Generator, or None for fresh entropy; the global generators are
    never touched.
    """

    __scaling__ = geoopt.Manifold.__scaling__.copy()

    ndim = 2
    reversible = False
    _constraint, _tangency = "`||x C_M x^T - I||_F`", "`||x C_M u^T + u C_M x^T||_F`"

    metric: Any

    def __init__(self, metric: Metric, retraction: Move[torch.Tensor] | str, seed: RNG) -> None:
        super().__init__()
        self.metric, self._retraction = metric, metric.as_retraction(retraction)
        self._rng = generator_of(seed)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._structure() == other._structure()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self), *self._structure()))

    def _structure(self) -> tuple[Metric, Move[torch.Tensor]]:
        return self.metric, self._retraction

    def _check_shape(self, shape: tuple[int, ...], name: str) -> Check:
        ok, reason = super()._check_shape(shape, name)
        if not ok:
            return False, reason
        try:
            self.metric.check_shape(shape[-2], shape[-1])
        except ValueError as wrong:
            return False, f"`{name}`: {wrong}"
        return True, None

    def _check_point_on_manifold(self, x: torch.Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> Check:
        residual = float(self.metric.constraint_residual(x.detach()).max()) if x.numel() else 0.0
        allowed = _storage_rounding(x, atol + rtol)
        return (
            (True, None)
            if residual <= allowed
            else (False, f"{self._constraint} = {residual:.3e} > {allowed:.1e}; project it first: manifold.projx(x)")
        )

    def _check_vector_on_tangent(self, x: torch.Tensor, u: torch.Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> Check:
        residual = float(self.metric.tangency_residual(x.detach(), u.detach()).max()) if x.numel() else 0.0
        allowed = _storage_rounding(x, atol + rtol) * max(1.0, float(u.detach().abs().max()))
        return (
            (True, None)
            if residual <= allowed
            else (False, f"{self._tangency} = {residual:.3e} > {allowed:.1e}; project it first: manifold.proju(x, u)")
        )

    def inner(self, x: torch.Tensor, u: torch.Tensor, v: torch.Tensor | None = None, *, keepdim: bool = False) -> torch.Tensor:
        """g_x(u, v). (...) or (..., 1, 1)"""
        inner = self._inner_kept if keepdim else self.metric.inner
        return _quickly(inner, x, u, u if v is None else v)

    def _inner_kept(self, x: ArrayT, u: ArrayT, v: ArrayT) -> ArrayT:
        return self.metric.inner(x, u, v)[..., None, None]

    def norm(self, x: torch.Tensor, u: torch.Tensor, *, keepdim: bool = False) -> torch.Tensor:
        """sqrt(g_x(u, u)). (...) or (..., 1, 1)"""
        value = _quickly(self.metric.norm, x, u)
        return value[..., None, None] if keepdim else value

    def proju(self, x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """The metric's own projection."""
        return _quickly(self.metric.project, x, u)

    def egrad2rgrad(self, x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """The metric's gradient from the ambient gradient u."""
        return _quickly(self.metric.gradient, x, u)

    def retr(self, x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """The retraction given to the constructor. Raises ValueError where the step loses rank."""
        if not isinstance(self._retraction, Retraction):  # a function of the caller's own, for tensors
            return self.metric.retract(x, u, self._retraction)
        return _quickly(self._retract, x, u)

    def retr_transp(self, x: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """retr(x, u), and v transported there. Raises as `retr`."""
        arrays = _small_arrays((x, u, v)) if isinstance(self._retraction, Retraction) else None
        if arrays is None:
            y = self.retr(x, u)
            return y, self.transp(x, y, v)
        moved = self._retract(arrays[0], arrays[1])
        return torch.from_numpy(moved), torch.from_numpy(self.metric.transport(arrays[0], moved, arrays[2]))

    def _retract(self, x: ArrayT, u: ArrayT) -> ArrayT:
        return self.metric.retract(x, u, self._retraction)

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
        return _quickly(self.metric.transport, x, y, v)

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
        point = self.metric.random_point(shape[-2], self._rng if drawn is None else generator_of(drawn), shape[:-2])
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if not getattr(dtype, "is_floating_point", False):
            raise ValueError(f"dtype = {dtype!r}: a point of the manifold needs a real floating-point one, as torch.float64")
        tensor: Any = geoopt.ManifoldTensor
        return tensor(torch.as_tensor(point, dtype=dtype, device=device), manifold=self)

    def origin(
        self, *size: int, dtype: torch.dtype | None = None, device: torch.device | None = None, seed: int | None = 42
    ) -> torch.Tensor:
        """The random point of that seed: the same one at every call."""
        return self.random(*size, dtype=dtype, device=device, generator=generator_of(seed))


class Exact:
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


def _storage_rounding(x: torch.Tensor, tolerance: float) -> float:
    """`tolerance` times P, or what rounding x to its storage does to the constraint, whichever is larger."""
    size: Any = float(x.detach().abs().max()) if x.numel() else 1.0
    return x.shape[-2] * max(tolerance, 4 * torch.finfo(x.dtype).eps * max(size, 1.0))


def _quickly(function: Callable[..., Any], *tensors: torch.Tensor) -> torch.Tensor:
    """`function` of the tensors, through numpy where they are small, on the CPU, and torch records, traces and maps nothing."""
    arrays = _small_arrays(tensors)
    return function(*tensors) if arrays is None else torch.from_numpy(np.asarray(function(*arrays)))


def _small_arrays(tensors: tuple[torch.Tensor, ...]) -> list[np.ndarray] | None:
    """The tensors' memory as numpy arrays, or None where that would be large, elsewhere, or lose what torch wants to know."""
    try:
        first = tensors[0].dtype
        if first not in NUMPY_TYPES or not are_untracked(tensors):
            return None
    except AttributeError:  # of what is no tensor, which the metric's map refuses by name
        return None
    arrays: list[np.ndarray] = []
    for tensor in tensors:
        if tensor.dtype is not first or tensor.numel() > NUMPY_ENTRIES or not tensor.is_cpu:
            return None
        # the same tensor twice is the same array twice, and is told by that
        arrays.append(arrays[-1] if arrays and tensor is tensors[len(arrays) - 1] else tensor.numpy(force=True))
    return arrays
