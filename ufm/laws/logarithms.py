"""Logarithms less their leading terms, and of products that overflow, to a few units in the last place. numpy or torch."""

from collections.abc import Callable

from manifolds.linalg import ArrayT, namespace


def log1p_remainder(x: ArrayT) -> ArrayT:
    """g(x) = x - log(1 + x) to a few units in the last place, x > -1. Any shape."""
    xp = namespace(x)
    near = (x > -0.5) & (x < 1)
    small = xp.where(near, x, 0.0)
    y = small / (2 + small)  # log(1 + x) = 2 artanh y, and x - 2 y = x y
    square, series = y * y, y * 0
    for k in range(33, 1, -2):
        series = series * square + 1 / k
    far = xp.where(near, 1.0, x)
    return xp.where(near, small * y - 2 * y * square * series, far - xp.log1p(far))


def log1p_excess(x: ArrayT) -> ArrayT:
    """k(x) = log(1 + x) - x / (1 + x) to a few units in the last place, x > -1. Any shape."""
    xp = namespace(x)
    near = (x > -0.5) & (x < 1)
    small, far = xp.where(near, x, 0.0), xp.where(near, 1.0, x)
    return xp.where(near, small * (small / (1 + small)) - log1p_remainder(small), xp.log1p(far) - far / (1 + far))


def of_product(f: Callable[[ArrayT], ArrayT], x: ArrayT, y: ArrayT, limit: float = 0.0) -> ArrayT:
    """f(x y) of f(w) = log w - `limit` for large w, also where x y overflows; 0 <= x <= y of about one size. Any shape"""
    xp = namespace(x)
    far = x > 1e100
    near = f(xp.where(far, 0.0, x) * xp.where(far, 0.0, y))
    return xp.where(far, xp.log(xp.where(far, x, 1.0)) + xp.log(xp.where(far, y, 1.0)) - limit, near)


def relative_growth(omega: ArrayT, omega0: ArrayT, share: ArrayT) -> tuple[ArrayT, ArrayT]:
    """Two factors of share (u - u0) / u0, neither of which overflows, for omega >= omega0."""
    root = share**0.5
    return root * ((omega - omega0) / omega0), root * ((omega + omega0) / omega0)
