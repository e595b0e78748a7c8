"""Points, tangent vectors and costs that the manifold tests share."""

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from manifolds import normalized_features, retractions
from manifolds.class_centering import ClassLayout
from tests.strategies import features

LAYOUT = ClassLayout((5, 7, 6))
P = 4
METRIC_PROJECTIONS = (normalized_features.oblique_projection, normalized_features.orthogonal_projection)


def point(layout: ClassLayout = LAYOUT, size: int = P, seed: int = 0) -> np.ndarray:
    """A point whose class means are of the size of its deviations. (P, n)"""
    return retractions.nearest_point(features(layout, size, np.random.default_rng(seed)), layout)


def tangent(X: np.ndarray, layout: ClassLayout, rng: np.random.Generator, length: float = 1.0) -> np.ndarray:
    """A random tangent vector of that Frobenius norm. (P, n)"""
    U = normalized_features.orthogonal_projection(X, rng.standard_normal(X.shape), layout)
    return U * (length / np.linalg.norm(U))


def cost(size: int, n: int, seed: int = 0) -> tuple[Callable, Callable, Callable]:
    """A smooth f that is constant on no fibre, its ambient gradient and its Hessian along U, in numpy."""
    rng = np.random.default_rng(seed)
    Q, q = rng.standard_normal((size * n, size * n)) / (size * n) ** 0.5, rng.standard_normal((size, n))
    Q = Q + Q.T

    def f(X: np.ndarray) -> float:
        return float(0.5 * X.ravel() @ Q @ X.ravel() + np.sum(q * X) + np.sum(np.sin(X)))

    def gradient(X: np.ndarray) -> np.ndarray:
        return (Q @ X.ravel()).reshape(X.shape) + q + np.cos(X)

    def hessian(X: np.ndarray, U: np.ndarray) -> np.ndarray:
        return (Q @ U.ravel()).reshape(X.shape) - np.sin(X) * U

    return f, gradient, hessian


@st.composite
def seeds(draw: st.DrawFn) -> np.random.Generator:
    """An own generator."""
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
