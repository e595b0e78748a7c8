"""What the checks can judge: real manifolds whose tangent vectors are ambient vectors. Others are refused, not failed."""

from typing import Any

import numpy as np

from manifolds.array import ManifoldPoint
from manifolds.checks.views import ManifoldView, entries

QUOTIENTS = ("Elliptope", "PSDFixedRank", "PSDFixedRankComplex")  # pymanopt's; a quotient does not say of itself that it is one


def require_view(view: ManifoldView) -> None:
    """Raise ValueError for a manifold that is given without its view."""
    if not isinstance(view, ManifoldView):
        raise ValueError(f"{type(view).__name__} is no view: give PymanoptView(manifold) or GeooptView(manifold, shape)")


def require_support(view: ManifoldView, x: ManifoldPoint) -> None:
    """Raise ValueError where the laws checked are not those of the manifold of x, with the reason."""
    for part, point in _factors(view.manifold, x):
        reason = _reason(part, point)
        if reason is not None:
            raise ValueError(f"{part}: {reason}. The checks are for real submanifolds; nothing was checked")


def _factors(manifold: Any, x: ManifoldPoint) -> list[tuple[Any, ManifoldPoint]]:
    """A manifold with its point, or the factors of a product with theirs."""
    factors = getattr(manifold, "manifolds", None)
    if factors is None:
        return [(manifold, x)]
    if hasattr(manifold, "take_submanifold_value"):  # geoopt packs the points of all factors into one tensor
        x = [manifold.take_submanifold_value(x, i) for i in range(len(factors))]
    return [pair for factor, point in zip(factors, x, strict=True) for pair in _factors(factor, point)]


def _reason(manifold: Any, x: ManifoldPoint) -> str | None:
    """Why the checks do not hold for it, or None."""
    if any(np.iscomplexobj(array) for array in entries(x)):
        return "its points are complex, and inner products, gradients and dimensions of complex vectors follow other rules"
    quotient = next((cls.__name__ for cls in type(manifold).__mro__ if cls.__name__ in QUOTIENTS), None)
    if quotient is not None:
        return (
            f"a quotient ({quotient}): its gradient is one only for costs that are constant on the equivalence classes, and "
            "the check's random costs are not"
        )
    if hasattr(manifold, "base") and float(manifold.scale) != 1:
        return f"scaled by {float(manifold.scale):g}: geoopt's Scaled takes u for a step of u / scale; check its base instead"
    if not hasattr(manifold, "embedding"):
        return None
    zero = manifold.zero_vector(x)
    if [array.shape for array in entries(zero)] != [array.shape for array in entries(x)]:
        return "its tangent vectors have other shapes than its points"
    u = manifold.random_tangent_vector(x)
    if not np.array_equal(manifold.embedding(x, u), u):
        return "its tangent vectors are coordinates (of a Lie algebra), not ambient vectors: x + u is undefined"
    return None
