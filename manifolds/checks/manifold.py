"""Numerical checks of a manifold, as numbers and verdicts: the lists of Manopt's checkmanifold and of ManifoldsBase in one.

Every check takes a view (manifolds.checks.views) of a manifold of pymanopt or geoopt, draws its own points, and returns verdicts;
none prints, none draws. `check_manifold` runs all that the manifold implements and names what it does not.
Residuals are relative to the size of what is compared, so that one bound serves every manifold.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from manifolds.array import ManifoldPoint, Vector
from manifolds.checks.residuals import ROUNDING, gap_norm, geodesic_velocity, map_rounding, relative_gap
from manifolds.checks.slopes import Bound, CheckResult, Report, measure_slope
from manifolds.checks.support import require_support, require_view
from manifolds.checks.views import ManifoldView, flat

GEODESIC_LENGTH = 0.5  # length of the geodesics that are drawn, within any sensible injectivity radius


def check_inner(view: ManifoldView) -> list[CheckResult]:
    """The inner product is symmetric, bilinear and positive."""
    x, (u, v, w) = _draw(view, 3)
    a, b = view.rng.standard_normal(2)
    scale = view.norm(x, u) * view.norm(x, v)
    linear = view.inner(x, u * a + w * b, v) - a * view.inner(x, u, v) - b * view.inner(x, w, v)
    return [
        Bound("inner product is symmetric", abs(view.inner(x, u, v) - view.inner(x, v, u)) / scale, ROUNDING),
        Bound("inner product is bilinear", abs(linear) / (scale * (abs(a) + abs(b) + 1)), ROUNDING),
        Bound("inner product is positive", -view.inner(x, u, u), -1e-12),
    ]


def check_projection(view: ManifoldView) -> list[CheckResult]:
    """Projecting twice is projecting once; combinations of tangent vectors are tangent."""
    x, (u, v) = _draw(view, 2)
    z = view.project(x, view.random_ambient(x))
    combination = u * 0.7 + v * (-1.3)
    return [
        Bound("projection is idempotent", relative_gap(view.project(x, z), z), ROUNDING),
        Bound("tangent vectors form a linear space", relative_gap(view.project(x, combination), combination), ROUNDING),
    ]


def check_gradient_map(view: ManifoldView) -> list[CheckResult]:
    """g(gradient(G), u) = <G, u> for tangent u, and the gradient is tangent: true of one map per metric only."""
    x, (u,) = _draw(view, 1)
    G = view.random_ambient(x)
    rgrad = view.gradient(x, G)
    euclidean = float(flat(G) @ flat(u))
    defect = abs(view.inner(x, rgrad, u) - euclidean) / float(np.linalg.norm(flat(G)) * np.linalg.norm(flat(u)))
    return [
        Bound("gradient represents the differential", defect, ROUNDING),
        Bound("gradient is tangent", relative_gap(view.project(x, rgrad), rgrad), ROUNDING),
    ]


def check_dimension(view: ManifoldView) -> list[CheckResult]:
    """The claimed dimension is the rank of the tangent projection, and an orthonormal basis has that many vectors."""
    claimed, x = view.dimension, view.random_point()
    samples = np.stack([flat(view.project(x, view.random_ambient(x))) for _ in range(claimed + 3)])
    values = np.linalg.svd(samples, compute_uv=False)
    rank = int((values > 1e-9 * values[0]).sum())
    return [Bound("dimension is the rank of the projection", abs(rank - claimed), 0)]


def check_retraction(view: ManifoldView, order: int = 1) -> list[CheckResult]:
    """R(x, 0) = x; R(x, t u) agrees with x + t u to slope 2; with exp to slope 2 (order 1) or 3 (order 2)."""
    x, (u,) = _draw(view, 1)
    rounding = map_rounding(x)

    def bend(t: float) -> float:
        return gap_norm(flat(view.retract(x, u * t)), flat(x) + t * flat(u))

    straight = measure_slope("retraction is x + t u to first order", bend, 2, rounding)
    laws: list[CheckResult] = [
        Bound("retraction of zero is the point", relative_gap(view.retract(x, u * 0.0), x), ROUNDING),
        straight,
    ]
    return laws + _if_implemented(
        lambda: measure_slope(
            f"retraction of order {order} against exp",
            lambda t: gap_norm(flat(view.retract(x, u * t)), flat(view.exp(x, u * t))),
            order + 1,
            rounding,
        )
    )


def check_inverse_retraction(
    view: ManifoldView,
    inverse: Callable[[ManifoldPoint, ManifoldPoint], Vector],
    retraction: Callable[[ManifoldPoint, Vector], ManifoldPoint],
    order: int = 1,
) -> list[CheckResult]:
    """inverse(x, R(x, u)) = u, and inverse agrees with log along a geodesic to slope 2 (order 1) or 3 (order 2)."""
    x, (u,) = _draw(view, 1)
    return [
        Bound("inverse retraction inverts", relative_gap(inverse(x, retraction(x, u * 0.1)), u * 0.1), ROUNDING),
        measure_slope(
            f"inverse retraction of order {order} against log",
            lambda t: gap_norm(flat(inverse(x, view.exp(x, u * t))), t * flat(u)),
            order + 1,
            map_rounding(x) * 100,
        ),
    ]


def check_exp_log(view: ManifoldView) -> list[CheckResult]:
    """exp and log invert each other; dist(x, exp(x, u)) = |u|; dist is a distance."""
    x, (u, v) = _draw(view, 2)
    u, v = u * GEODESIC_LENGTH, v * GEODESIC_LENGTH
    y, z = view.exp(x, u), view.exp(x, v)
    back = view.log(x, y)
    xy, yx, xz, yz = view.dist(x, y), view.dist(y, x), view.dist(x, z), view.dist(y, z)
    return [
        Bound("log inverts exp", relative_gap(back, u), 1e-7),
        Bound("exp inverts log", relative_gap(view.exp(x, view.log(x, z)), z), 1e-7),
        Bound("log is tangent", relative_gap(view.project(x, back), back), 1e-7),
        Bound("dist(x, exp(x, u)) = |u|", abs(xy - view.norm(x, u)) / xy, 1e-7),
        Bound("dist is symmetric", abs(xy - yx) / xy, 1e-7),
        Bound("dist(x, x) = 0", view.dist(x, x), 1e-6),
        Bound("triangle inequality", yz - xy - xz, 1e-9),
    ]


def check_geodesic(view: ManifoldView) -> list[CheckResult]:
    """Geodesics leave along u, have constant speed, add up in length, and carry their own velocity parallel."""
    x, (u,) = _draw(view, 1)
    u = u * GEODESIC_LENGTH
    speed = view.norm(x, u)
    curve = [view.exp(x, u * t) for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
    lengths = np.array([view.dist(a, b) for a, b in pairwise(curve)])
    whole = view.dist(curve[0], curve[-1])
    laws: list[CheckResult] = [
        Bound("geodesic has constant speed", float(np.abs(4 * lengths / speed - 1).max()), 1e-6),
        Bound("geodesic is shortest", abs(lengths.sum() - whole) / speed, 1e-6),
        measure_slope(
            "geodesic leaves along u",
            lambda t: gap_norm(flat(view.exp(x, u * t)), flat(x) + t * flat(u)),
            2,
            map_rounding(x),
        ),
    ]
    return laws + _if_implemented(
        lambda: Bound(
            "geodesic carries its velocity parallel",
            gap_norm(geodesic_velocity(view, x, u), flat(view.parallel_transport(x, curve[-1], u)))
            / float(np.linalg.norm(flat(u))),
            1e-6,
        )
    )


def check_transport(view: ManifoldView, order: int = 1) -> list[CheckResult]:
    """Vector transport is linear, tangent, the identity at x, and parallel transport up to slope `order`."""
    x, (u, v, w) = _draw(view, 3)
    u = u * GEODESIC_LENGTH
    y = view.retract(x, u)
    moved = view.transport(x, y, v)
    combination = view.transport(x, y, v * 0.7 + w * (-1.3))
    laws: list[CheckResult] = [
        Bound("transport is tangent", relative_gap(view.project(y, moved), moved), ROUNDING),
        Bound("transport is linear", relative_gap(combination, moved * 0.7 + view.transport(x, y, w) * (-1.3)), 1e-7),
        Bound("transport to the same point is the identity", relative_gap(view.transport(x, x, v), v), 1e-7),
    ]

    def defect(t: float) -> float:
        z = view.exp(x, u * t)
        return gap_norm(flat(view.transport(x, z, v)), flat(view.parallel_transport(x, z, v)))

    steps = np.geomspace(1e-3, 1, 25)
    name = "transport against parallel transport"
    return laws + _if_implemented(lambda: measure_slope(name, defect, order, 100 * map_rounding(x), steps=steps))


def check_parallel_transport(view: ManifoldView) -> list[CheckResult]:
    """Parallel transport is an isometry, is inverted by the way back, and composes at the midpoint."""
    x, (u, v, w) = _draw(view, 3)
    y, middle = view.exp(x, u * GEODESIC_LENGTH), view.exp(x, u * (GEODESIC_LENGTH / 2))
    V, W = view.parallel_transport(x, y, v), view.parallel_transport(x, y, w)
    halfway = view.parallel_transport(middle, y, view.parallel_transport(x, middle, v))
    return [
        Bound("parallel transport is an isometry", abs(view.inner(y, V, W) - view.inner(x, v, w)), 1e-7),
        Bound("parallel transport is tangent", relative_gap(view.project(y, V), V), 1e-7),
        Bound("parallel transport back is the inverse", relative_gap(view.parallel_transport(y, x, V), v), 1e-7),
        Bound("parallel transport composes at the midpoint", relative_gap(halfway, V), 1e-7),
    ]


def check_manifold(view: ManifoldView, retraction_order: int = 1, transport_order: int = 1) -> Report:
    """Every check above on one manifold; what it does not implement is listed as missing, never as passed.

    Raises ValueError for what the laws are not those of: complex manifolds, quotients, tangent vectors in coordinates;
    and for a manifold without its view.
    """
    require_view(view)
    require_support(view, view.random_point())
    checks: dict[str, Callable[[], list[CheckResult]]] = {
        "inner product": lambda: check_inner(view),
        "projection": lambda: check_projection(view),
        "gradient map": lambda: check_gradient_map(view),
        "dimension": lambda: check_dimension(view),
        "retraction": lambda: check_retraction(view, retraction_order),
        "exp and log": lambda: check_exp_log(view),
        "geodesic": lambda: check_geodesic(view),
        "transport": lambda: check_transport(view, transport_order),
        "parallel transport": lambda: check_parallel_transport(view),
    }
    verdicts: list[CheckResult] = []
    missing: list[str] = []
    for name, check in checks.items():
        try:
            verdicts += check()
        except NotImplementedError:
            missing.append(name)
    return Report(tuple(verdicts), tuple(missing))


def _draw(view: ManifoldView, count: int) -> tuple[ManifoldPoint, list[Vector]]:
    """A point and `count` random unit tangent vectors at it."""
    x = view.random_point()
    return x, [view.random_tangent(x) for _ in range(count)]


def _if_implemented(law: Callable[[], CheckResult]) -> list[CheckResult]:
    """The verdict of a law that needs a map beyond its check's own; nothing where the manifold lacks it."""
    try:
        return [law()]
    except NotImplementedError:
        return []
