"""Limited-memory BFGS for any manifold of pymanopt: an optimizer of pymanopt.

With grad f, inner products and norms of the manifold, T the vector transport from x to y = R_x(t d):

    s = T(t d),   y = grad f(y) - T grad f(x),   rho = 1 / g(s, y)
    H v = (I - rho s y*) H' (I - rho y s*) v + rho s g(s, v)

where H' is the same of the pair before, and of the oldest one gamma times the preconditioner (or the identity). Every pair is
carried along by T, its rho is kept: so H is positive definite whatever T does to lengths.
[Huang, Gallivan and Absil 2015; Huang, Absil and Gallivan 2018 for the cautious update]
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from manifolds.array import ManifoldPoint, Vector
from manifolds.class_centering import whole_number
from manifolds.optimizers.iterates import Iterate, IteratingOptimizer
from manifolds.optimizers.wolfe import wolfe_step


@dataclass(frozen=True)
class CurvaturePair:
    """A step s and what it did to the gradient, y, both tangent at the present point; rho = 1 / g(s, y) at their first one."""

    s: Vector
    y: Vector
    rho: float


def inverse_hessian_product(
    pairs: list[CurvaturePair],
    vector: Vector,
    inner: Callable[[Vector, Vector], float],
    initial: Callable[[Vector], Vector],
) -> Vector:
    """H v by the two loops over the pairs, oldest first; `initial` (v) -> H_0 v.  [Nocedal 1980]"""
    weights = []
    for pair in reversed(pairs):
        weights.append(pair.rho * inner(pair.s, vector))
        vector = vector - weights[-1] * pair.y
    vector = initial(vector)
    for pair, weight in zip(pairs, reversed(weights), strict=True):
        vector = vector + (weight - pair.rho * inner(pair.y, vector)) * pair.s
    return vector


class _Curve:
    """The cost along t -> R_x(t d), with everything that is computed at a t kept for the next iterate."""

    def __init__(self, problem: Any, at: Iterate, direction: Vector) -> None:
        self.problem, self.at, self.direction, self.evaluations = problem, at, direction, 0

    def __call__(self, step: float) -> "_Tried":
        self.evaluations += 1
        point = self.problem.manifold.retraction(self.at.point, step * self.direction)
        return _Tried(self, step, point, float(self.problem.cost(point)))


@dataclass(frozen=True)
class _Tried:
    curve: _Curve
    step: float
    point: ManifoldPoint
    cost: float

    @cached_property
    def gradient(self) -> Vector:
        return self.curve.problem.riemannian_gradient(self.point)

    @cached_property
    def direction(self) -> Vector:
        """T d."""
        curve = self.curve
        return curve.problem.manifold.transport(curve.at.point, self.point, curve.direction)

    @cached_property
    def slope(self) -> float:
        """g(grad f, T d): that of the cost where T d is the velocity of the curve; what makes g(s, y) positive in any case."""
        return float(self.curve.problem.manifold.inner_product(self.point, self.gradient, self.direction))


class RiemannianLBFGS(IteratingOptimizer):
    """Limited-memory BFGS with a Wolfe line search and the cautious update. Costs of a step: 2 `memory` vector transports.

    A pair is taken where g(s, y) >= `caution` |grad f| g(s, s). `memory` is the number of pairs held. Other options are those of
    pymanopt's optimizers, by keyword. A preconditioner of the problem is the initial H, times g(s, y) / g(y, P y).
    Needs retraction, transport, inner_product and norm of the manifold. Raises ValueError for a memory below 1 and for Wolfe
    constants that are not 0 < sufficient_decrease < curvature < 1.
    """

    def __init__(
        self,
        *,
        memory: int = 4,
        caution: float = 1e-4,
        sufficient_decrease: float = 1e-4,
        curvature: float = 0.9,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.memory = whole_number(memory, "memory")
        if self.memory < 1:
            raise ValueError(f"memory = {memory}: at least one pair is needed")
        if not caution >= 0:
            raise ValueError(f"caution = {caution}: it must not be negative")
        if not 0 < sufficient_decrease < curvature < 1:
            raise ValueError(
                f"sufficient_decrease = {sufficient_decrease}, curvature = {curvature}: 0 < sufficient_decrease < curvature < 1 "
                "is needed, else no step may satisfy both"
            )
        self.caution, self.sufficient_decrease, self.curvature = caution, sufficient_decrease, curvature
        self._parameters = {
            "memory": self.memory,
            "caution": caution,
            "sufficient_decrease": sufficient_decrease,
            "curvature": curvature,
        }

    def _iterates(self, problem: Any, point: ManifoldPoint) -> Iterator[Iterate]:
        manifold, gradient = problem.manifold, problem.riemannian_gradient(point)
        at = Iterate(point, float(problem.cost(point)), gradient, float(manifold.norm(point, gradient)), float("inf"), 1)
        pairs: deque[CurvaturePair] = deque(maxlen=self.memory)
        step: tuple[Iterate, _Tried] | None = None
        while True:
            yield at
            if step is not None:
                self._remember(problem, *step, pairs)
            tried, evaluations = self._search(problem, at, pairs)
            if tried is None and pairs:  # the pairs may be what is wrong: once more along the gradient
                pairs.clear()
                at = replace(at, cost_evaluations=at.cost_evaluations + evaluations)
                tried, evaluations = self._search(problem, at, pairs)
            if tried is None:
                yield replace(at, step_size=0.0, cost_evaluations=at.cost_evaluations + evaluations)
                return
            step = at, tried
            at = Iterate(
                tried.point,
                tried.cost,
                tried.gradient,
                float(manifold.norm(tried.point, tried.gradient)),
                tried.step * float(manifold.norm(at.point, tried.curve.direction)),
                at.cost_evaluations + evaluations,
            )

    def _search(self, problem: Any, at: Iterate, pairs: deque[CurvaturePair]) -> tuple[_Tried | None, int]:
        """A step along -H grad f that satisfies the Wolfe conditions, or None, and the costs evaluated for it."""
        manifold, point = problem.manifold, at.point

        def inner(u: Vector, v: Vector) -> float:
            return float(manifold.inner_product(point, u, v))

        def initial(vector: Vector) -> Vector:
            prepared = problem.preconditioner(point, vector)
            if not pairs:
                return prepared
            newest = pairs[-1]
            return 1 / (newest.rho * inner(newest.y, problem.preconditioner(point, newest.y))) * prepared

        direction = -1 * inverse_hessian_product(list(pairs), at.gradient, inner, initial)
        slope, length = inner(at.gradient, direction), float(manifold.norm(point, direction))
        if not (slope < 0 and length > 0):
            return None, 0
        curve = _Curve(problem, at, direction)
        first = 1.0 if pairs else 1 / length
        accepted = wolfe_step(
            curve, at.cost, slope, first, sufficient_decrease=self.sufficient_decrease, curvature=self.curvature
        )
        return accepted, curve.evaluations

    def _remember(self, problem: Any, at: Iterate, tried: _Tried, pairs: deque[CurvaturePair]) -> None:
        """Carry the pairs to the new point, and take the new one where its curvature is positive enough."""
        manifold, start, end = problem.manifold, at.point, tried.point
        s = tried.step * tried.direction
        y = tried.gradient - manifold.transport(start, end, at.gradient)
        product, square = float(manifold.inner_product(end, s, y)), float(manifold.inner_product(end, s, s))
        takes = product > 0 and product >= self.caution * at.gradient_norm * square
        if takes and len(pairs) == self.memory:
            pairs.popleft()  # not carried any more
        carried = [
            replace(pair, s=manifold.transport(start, end, pair.s), y=manifold.transport(start, end, pair.y)) for pair in pairs
        ]
        pairs.clear()
        pairs.extend(carried)
        if takes:
            pairs.append(CurvaturePair(s, y, 1 / product))
