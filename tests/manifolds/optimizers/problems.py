"""Costs with known minima on manifolds of pymanopt and of this package."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pymanopt
from pymanopt.manifolds import Euclidean, Product, Sphere, Stiefel

from manifolds.class_centering import ClassLayout
from manifolds.pymanopt import EmbeddedNormalizedFeatures, NormalizedFeatures, OrthogonalQuotient

LAYOUT = ClassLayout((5, 7, 6))


@dataclass(frozen=True)
class Case:
    """A problem, a point to start at, and the least cost."""

    problem: Any
    start: Any
    least: float


def numpy_problem(manifold: Any, cost: Any, gradient: Any, hessian: Any) -> Any:
    """A pymanopt problem of plain numpy functions."""
    wrap = pymanopt.function.numpy(manifold)
    return pymanopt.Problem(manifold, wrap(cost), euclidean_gradient=wrap(gradient), euclidean_hessian=wrap(hessian))


def global_state() -> tuple:
    """Of numpy's global generator, from which pymanopt's manifolds draw."""
    return np.random.get_state()  # type: ignore[return-value]  # noqa: NPY002


def symmetric(rng: np.random.Generator, size: int) -> np.ndarray:
    """A symmetric matrix with eigenvalues 1 .. size, in a random basis."""
    Q = np.linalg.qr(rng.standard_normal((size, size)))[0]
    return (Q * np.arange(1.0, size + 1)) @ Q.T


def rayleigh_quotient(seed: int = 0, n: int = 9) -> Case:
    """x^T A x on the sphere: the least eigenvalue."""
    rng = np.random.default_rng(seed)
    A, x = symmetric(rng, n), rng.standard_normal(n)
    problem = numpy_problem(Sphere(n), lambda x: x @ A @ x, lambda x: 2 * A @ x, lambda x, u: 2 * A @ u)
    return Case(problem, x / np.linalg.norm(x), float(np.linalg.eigvalsh(A)[0]))


def weighted_pca(seed: int = 0, n: int = 8, p: int = 3) -> Case:
    """tr(X^T A X N), N = diag(3, 2, 1), on Stiefel: the eigenvectors themselves, an isolated minimum."""
    rng = np.random.default_rng(seed)
    A, N = symmetric(rng, n), np.arange(float(p), 0, -1)
    problem = numpy_problem(
        Stiefel(n, p, retraction="polar"),
        lambda X: np.sum(X * (A @ X * N)),
        lambda X: 2 * A @ X * N,
        lambda X, U: 2 * A @ U * N,
    )
    least = float(np.linalg.eigvalsh(A)[:p] @ N)
    return Case(problem, np.linalg.qr(rng.standard_normal((n, p)))[0], least)


def eigenvector_and_line(seed: int = 0, n: int = 7, k: int = 4) -> Case:
    """x^T A x + |v - b|^2 on Sphere x R^k."""
    rng = np.random.default_rng(seed)
    A, b, x = symmetric(rng, n), rng.standard_normal(k), rng.standard_normal(n)
    problem = numpy_problem(
        Product([Sphere(n), Euclidean(k)]),
        lambda x, v: x @ A @ x + (v - b) @ (v - b),
        lambda x, v: [2 * A @ x, 2 * (v - b)],
        lambda x, v, u, w: [2 * A @ u, 2 * w],
    )
    return Case(problem, [x / np.linalg.norm(x), rng.standard_normal(k)], float(np.linalg.eigvalsh(A)[0]))


def nearest_features(seed: int = 0, P: int = 4, metric: str = "embedded") -> Case:
    """|X - Z|^2 / 2 on the normalized features: the least is |D - polar factor of D|^2 / 2 of the deviations D of Z."""
    rng = np.random.default_rng(seed)
    cls = EmbeddedNormalizedFeatures if metric == "embedded" else NormalizedFeatures
    manifold = cls(LAYOUT, P, seed=seed)
    Z = rng.standard_normal((P, LAYOUT.n)) + LAYOUT.spread(rng.standard_normal((P, LAYOUT.C)))
    values = np.linalg.svd(Z - LAYOUT.spread(LAYOUT.means(Z)), compute_uv=False)
    problem = numpy_problem(manifold, lambda X: np.sum((X - Z) ** 2) / 2, lambda X: X - Z, lambda X, U: U)
    return Case(problem, manifold.random_point(), float(np.sum((values - LAYOUT.n**0.5) ** 2) / 2))


def row_space_on_quotient(seed: int = 0, P: int = 3) -> Case:
    """<X, X S> / 2 on the embedded metric's quotient by O(P): no rotation is seen.

    S is positive on the class means and does not couple them to the deviations: they go to zero; the deviations take the lowest
    eigenvectors of S among them.
    """
    rng = np.random.default_rng(seed)
    manifold = OrthogonalQuotient(EmbeddedNormalizedFeatures(LAYOUT, P, seed=seed))
    n = LAYOUT.n
    center = np.eye(n) - LAYOUT.spread(LAYOUT.means(np.eye(n)))
    B = center @ symmetric(rng, n) @ center
    S = B + (np.eye(n) - center)
    problem = numpy_problem(manifold, lambda X: np.sum(X * (X @ S)) / 2, lambda X: X @ S, lambda X, U: U @ S)
    values, vectors = np.linalg.eigh(center)
    basis = vectors[:, values > 0.5]
    return Case(problem, manifold.random_point(), float(np.linalg.eigvalsh(basis.T @ S @ basis)[:P].sum() * n / 2))


CASES = {
    "sphere": rayleigh_quotient,
    "stiefel": weighted_pca,
    "product": eigenvector_and_line,
    "embedded": nearest_features,
    "bundle": lambda seed=0: nearest_features(seed, metric="bundle"),
    "quotient": row_space_on_quotient,
}
