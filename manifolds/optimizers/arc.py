"""Adaptive regularization by cubics for any manifold of pymanopt: an optimizer of pymanopt.

A step minimises the model

    m(s) = f(x) + g(grad f, s) + g(s, Hess f[s]) / 2 + sigma |s|^3 / 3

over a Krylov space of the Hessian, grown until |grad m(s)| <= theta |s|^2 or a tenth of min_gradient_norm. With rho the decrease
of f over that of the quadratic part of m: the step is taken where rho >= 0.1, sigma falls tenfold where rho > 0.9 and rises where
the step is refused.
[Agarwal, Boumal, Bullins and Cartis 2021; Cartis, Gould and Toint 2011]
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from manifolds.array import ManifoldPoint, Vector
from manifolds.class_centering import whole_number
from manifolds.optimizers.cubic import KrylovSpace, minimise_cubic
from manifolds.optimizers.iterates import Iterate, IteratingOptimizer

LEAST_RHO, GOOD_RHO = 0.1, 0.9  # rho from which a step is taken, and sigma falls
FALL, RISE, FAST_RISE = 0.1, 2.0, 10.0  # of sigma; the last one where the cost rose
LEAST_SIGMA = 1e-10  # of the first sigma
DECREASE_ROUNDING = 1e3 * float(np.finfo(np.float64).eps)  # of max(1, |cost|), added to both decreases: rounding refuses no step


@dataclass(frozen=True)
class _Step:
    vector: Vector
    length: float
    decrease: float  # of the quadratic part of the model


class AdaptiveCubicRegularization(IteratingOptimizer):
    """ARC with a Lanczos subproblem; with `second_order` its result has lambda_min(Hess f) >= -sqrt(min_gradient_norm) as well.

    `theta`: accuracy of the subproblem. `max_inner_iterations`: Hessian products of one step at most, and tangent vectors held.
    `sigma`: the first one; else |grad f| / (typical_dist / 8)^2, the step of the trust region that pymanopt starts with.
    `second_order`: where the gradient is small, a Krylov space of a random direction, drawn with this `seed`, looks for a lower
    eigenvalue, and a step leaves along it; the random state of the caller and of the manifold is put back.
    Other options are those of pymanopt's optimizers, by keyword. Needs retraction, inner_product, norm, to_tangent_space,
    random_tangent_vector and the Hessian. Raises ValueError for theta or sigma that are not positive and for
    max_inner_iterations below 1.
    """

    def __init__(
        self,
        *,
        theta: float = 0.5,
        sigma: float | None = None,
        max_inner_iterations: int = 50,
        second_order: bool = True,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.max_inner_iterations = whole_number(max_inner_iterations, "max_inner_iterations")
        if self.max_inner_iterations < 1:
            raise ValueError(f"max_inner_iterations = {max_inner_iterations}: at least one Hessian product is needed")
        if not theta > 0:
            raise ValueError(f"theta = {theta}: the accuracy of the subproblem must be positive")
        if sigma is not None and not sigma > 0:
            raise ValueError(f"sigma = {sigma}: the weight of the cubic must be positive; None chooses one")
        self.theta, self.sigma, self.second_order, self.seed = theta, sigma, second_order, seed
        self._parameters = {
            "theta": theta,
            "sigma": sigma,
            "max_inner_iterations": self.max_inner_iterations,
            "second_order": second_order,
        }

    def _iterates(self, problem: Any, point: ManifoldPoint) -> Iterator[Iterate]:
        manifold, gradient = problem.manifold, problem.riemannian_gradient(point)
        at = Iterate(point, float(problem.cost(point)), gradient, float(manifold.norm(point, gradient)), float("inf"), 1)
        sigma, least, space = self.sigma, 0.0, None
        while True:
            if space is None:  # after a refused step it serves again
                escape = self._escape(problem, at)
                space = escape or (_space(problem, at.point, at.gradient) if at.gradient_norm > 0 else None)
                at = replace(at, saddle=escape is not None)
            yield at
            if space is None:
                yield replace(at, step_size=0.0)
                return
            sigma = sigma or _first_sigma(manifold, at, space)
            least = least or LEAST_SIGMA * sigma
            step = self._step(at, space, sigma)
            end = manifold.retraction(at.point, step.vector)
            cost = float(problem.cost(end))
            rounding = DECREASE_ROUNDING * max(1.0, abs(at.cost))
            rho = (at.cost - cost + rounding) / (step.decrease + rounding)
            at = replace(at, step_size=step.length, cost_evaluations=at.cost_evaluations + 1)
            if rho >= LEAST_RHO:  # and not where the cost is NaN
                gradient, space = problem.riemannian_gradient(end), None
                at = replace(at, point=end, cost=cost, gradient=gradient, gradient_norm=float(manifold.norm(end, gradient)))
            sigma = max(least, sigma * _change(rho))

    def _step(self, at: Iterate, space: KrylovSpace, sigma: float) -> _Step:
        """The minimum of the model over the space of the gradient, which grows, or over that of a lower eigenvalue."""
        while True:
            if not space.basis:
                space.grow()
            c = space.coordinates(at.gradient) if at.saddle else at.gradient_norm * np.eye(len(space.basis))[0]
            z = minimise_cubic(space.matrix, c, sigma)
            left = space.couplings[-1] * abs(z[-1])  # |grad m(Q z)|: inside the space it is zero
            enough = max(self.theta * float(z @ z), self._min_gradient_norm / 10)
            if at.saddle or left <= enough or self._is_full(space):
                return _Step(space.vector(z), float(np.linalg.norm(z)), -float(c @ z + z @ space.matrix @ z / 2))
            space.grow()

    def _is_full(self, space: KrylovSpace) -> bool:
        return space.is_invariant or len(space.basis) >= self.max_inner_iterations

    def _escape(self, problem: Any, at: Iterate) -> KrylovSpace | None:
        """A space with an eigenvalue of the Hessian below -sqrt(min_gradient_norm), where the gradient is small; else None."""
        if not self.second_order or not at.gradient_norm < self._min_gradient_norm:
            return None
        allowed = self._min_gradient_norm**0.5
        space = _space(problem, at.point, self._random_direction(problem.manifold, at.point))
        while True:
            space.grow()
            eigenvalues, E = np.linalg.eigh(space.matrix)
            if eigenvalues[0] < -allowed:  # and the lowest one of the whole Hessian is below this
                return space
            if space.couplings[-1] * abs(E[-1, 0]) <= allowed / 10 or self._is_full(space):
                return None

    def _random_direction(self, manifold: Any, point: ManifoldPoint) -> Vector:
        """A random tangent vector: of a copy of the manifold, numpy's global state put back after it."""
        state = np.random.get_state()  # noqa: NPY002 - pymanopt's manifolds draw from it
        try:
            np.random.seed(self.seed)  # noqa: NPY002
            return copy.deepcopy(manifold).random_tangent_vector(point)
        finally:
            np.random.set_state(state)  # noqa: NPY002


def _space(problem: Any, point: ManifoldPoint, start: Vector) -> KrylovSpace:
    manifold = problem.manifold
    return KrylovSpace(
        start,
        lambda u, v: float(manifold.inner_product(point, u, v)),
        lambda v: problem.riemannian_hessian(point, v),
        lambda v: manifold.to_tangent_space(point, v),
    )


def _first_sigma(manifold: Any, at: Iterate, space: KrylovSpace) -> float:
    """That of a first step of typical_dist / 8 where the cubic is alone with the gradient, or with a negative eigenvalue."""
    try:
        distance = float(manifold.typical_dist)
    except NotImplementedError:
        distance = manifold.dim**0.5
    distance /= 8
    lowest = -float(np.linalg.eigvalsh(space.matrix)[0]) if at.saddle else 0.0
    return max(at.gradient_norm / distance**2, lowest / distance)


def _change(rho: float) -> float:
    """The factor on sigma."""
    if rho > GOOD_RHO:
        return FALL
    if rho >= LEAST_RHO:
        return 1.0
    return RISE if rho >= 0 else FAST_RISE
