"""What large class means and an ill-conditioned Sigma_W cost in digits: `python benchmarks/manifold_accuracy.py`.

Class sizes 9, 14, 11, P = 5. The same file measures an older tree, from 4bf27e6 on, the last one before the remedies:

    PYTHONPATH=path/to/the/older/tree python benchmarks/manifold_accuracy.py

Every distance is formed in 50 digits. The trace ratio tr(Sigma_W) / tr(Sigma_T), which sends the class
means to infinity, is descended by pymanopt's SteepestDescent.
"""

import math
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import mpmath
import numpy as np
import pymanopt
import torch
from pymanopt.optimizers import SteepestDescent

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from manifolds import pymanopt as pymanopt_manifolds
    from manifolds.class_centering import ClassLayout
    from manifolds.metrics import BundleMetric

OLDER = find_spec("manifolds.normalized_features") is None  # where it was called geometry
MAPS: Any = import_module("manifolds.geometry" if OLDER else "manifolds.normalized_features")
RETRACTIONS: Any = import_module("manifolds.retractions")
NEAREST: Any = getattr(RETRACTIONS, "nearest_point", None) or MAPS.nearest_point

LAYOUT, P = ClassLayout((9, 14, 11)), 5
mpmath.mp.dps = 50


def exact_deviations(X: np.ndarray) -> Any:
    """X less its class means, in 50 digits."""
    D = mpmath.matrix(np.asarray(X, np.float64).tolist())
    start = 0
    for size in LAYOUT.sizes:
        for p in range(len(X)):
            mean = mpmath.fsum(D[p, i] for i in range(start, start + size)) / size
            for i in range(start, start + size):
                D[p, i] -= mean
        start += size
    return D


def residual(X: np.ndarray) -> float:
    """||X C_M X^T - I||_F."""
    D = exact_deviations(X)
    return float(mpmath.mnorm(D * D.T / LAYOUT.n - mpmath.eye(len(X)), "f"))


def tangency(X: np.ndarray, Z: np.ndarray) -> float:
    """||X C_M Z^T + Z C_M X^T||_F."""
    A = exact_deviations(X) * exact_deviations(Z).T / LAYOUT.n
    return float(mpmath.mnorm(A + A.T, "f"))


def ill_conditioned(condition: float, dtype: type) -> np.ndarray:
    """Features whose deviations have singular values from 1 to 1 / condition."""
    rng = np.random.default_rng(0)
    D = MAPS.renormalize(LAYOUT.deviations(rng.standard_normal((P, LAYOUT.n))), LAYOUT)
    Q = np.linalg.qr(rng.standard_normal((P, P)))[0]
    D = (Q * np.geomspace(1, 1 / condition, P)) @ (Q.T @ D)
    return (D + LAYOUT.spread(rng.standard_normal((P, LAYOUT.C)) / condition)).astype(dtype)


def far_point(means: float) -> np.ndarray:
    """A point whose class means are of that size."""
    rng = np.random.default_rng(1)
    D = MAPS.renormalize(LAYOUT.deviations(rng.standard_normal((P, LAYOUT.n))), LAYOUT)
    return D + LAYOUT.spread(means * rng.standard_normal((P, LAYOUT.C)))


def projected(means: float, dtype: type) -> float:
    """Tangency of P(Z), relative to the size of Z."""
    X, Z = far_point(means).astype(dtype), np.random.default_rng(2).standard_normal((P, LAYOUT.n)).astype(dtype)
    Z = Z + LAYOUT.spread(means * np.random.default_rng(3).standard_normal((P, LAYOUT.C))).astype(dtype)
    return tangency(X, MAPS.orthogonal_projection(X, Z, LAYOUT))


def squared_gradient(means: float) -> float:
    """|g(r, r) / <G, r> - 1| of the bundle gradient r of an ambient G."""
    metric, X = BundleMetric(LAYOUT), far_point(means)
    G = np.random.default_rng(4).standard_normal(X.shape)
    r = metric.gradient(X, G)
    return abs(float(metric.inner(X, r, r)) / float(np.sum(G * r)) - 1)


def trace_ratio_descents() -> str:
    """How many of five descents of a trace ratio end with an error, and the first one."""
    errors = []
    for seed in range(5):
        manifold = pymanopt_manifolds.NormalizedFeatures(LAYOUT, P, seed=seed)

        @pymanopt.function.pytorch(manifold)
        def ratio(X: torch.Tensor) -> torch.Tensor:
            total, M = X - X.mean(-1, keepdim=True), LAYOUT.means(X)
            within = X - LAYOUT.spread(M)
            return (within**2).sum() / (total**2).sum()

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                SteepestDescent(verbosity=0, max_iterations=3000, min_gradient_norm=1e-9).run(
                    pymanopt.Problem(manifold, ratio), initial_point=manifold.random_point()
                )
        except (ValueError, ArithmeticError) as error:
            errors.append(str(error).splitlines()[0])
    return f"{len(errors)} of 5" + (f" ({errors[0]})" if errors else "")


def attempted(measure: Callable[[], float | str]) -> str:
    """The number, or the error in its place."""
    try:
        value = measure()
    except (ValueError, ArithmeticError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return value if isinstance(value, str) else f"{value:.1e}"


def main() -> None:
    """Measure and print."""
    rows: dict[str, Callable[[], float | str]] = {
        f"residual, {dtype.__name__}, cond(D) = {condition:g}, {name}": (
            lambda c=condition, d=dtype, f=function: residual(f(ill_conditioned(c, d), LAYOUT))
        )
        for dtype, conditions in ((np.float64, (1e3, 1e6)), (np.float32, (300.0, 1e3)))
        for condition in conditions
        for name, function in (("renormalize", MAPS.renormalize), ("nearest_point", NEAREST))
    }
    for means, dtype in ((1e6, np.float64), (1e7, np.float64), (1e3, np.float32)):
        rows[f"tangency of P(Z), {dtype.__name__}, means {means:g}"] = lambda m=means, d=dtype: projected(m, d)
    for means in (1e3, 1e5, 1e7):
        rows[f"g(r, r) against <G, r>, means {means:g}"] = lambda m=means: squared_gradient(m)
    rows["descents of a trace ratio that end with an error"] = trace_ratio_descents
    width = max(map(len, rows))
    print(
        f"50 eps sqrt(P): {50 * math.sqrt(P) * np.finfo(np.float64).eps:.1e}, {50 * math.sqrt(P) * np.finfo(np.float32).eps:.1e}"
    )
    for name, measure in rows.items():
        print(f"{name:{width}}  {attempted(measure)}", flush=True)


if __name__ == "__main__":
    main()
