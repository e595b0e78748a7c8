"""Dense, slow and obviously right: every formula of the paper with its n x n matrices written out."""

from collections.abc import Callable

import numpy as np

from manifolds.class_centering import ClassLayout


def one_hot(layout: ClassLayout) -> np.ndarray:
    """Y, the one-hot labels in class blocks. (C, n)"""
    return np.eye(layout.C)[layout.labels].T


def class_centering(layout: ClassLayout) -> np.ndarray:
    """C_M = (I - Y^T diag(1/n_c) Y) / n, Eq. 22 with true class sizes. (n, n)"""
    Y = one_hot(layout)
    return (np.eye(layout.n) - Y.T @ np.diag(1 / np.asarray(layout.sizes)) @ Y) / layout.n


def inverse_sqrt(S: np.ndarray) -> np.ndarray:
    """S^{-1/2} by scipy's dense square root."""
    from scipy.linalg import sqrtm

    return np.linalg.inv(np.real(sqrtm(S)))


def directional_derivative(f: Callable[[np.ndarray], np.ndarray | float], X: np.ndarray, Z: np.ndarray) -> np.ndarray | float:
    """d/ds f(X + s Z) at s = 0 by Richardson's extrapolation of central differences (error about 1e-10)."""
    h = float(2e-3 * np.linalg.norm(X) / max(np.linalg.norm(Z), 1e-300))

    def central(step: float) -> np.ndarray | float:
        return (f(X + step * Z) - f(X - step * Z)) / (2 * step)

    a, b, c = central(h), central(h / 2), central(h / 4)
    ab, bc = (4 * b - a) / 3, (4 * c - b) / 3
    return (16 * bc - ab) / 15


def slope(errors: Callable[[float], float], steps: np.ndarray) -> float:
    """Least-squares slope of log(errors) against log(steps)."""
    return float(np.polyfit(np.log(steps), np.log([errors(s) for s in steps]), 1)[0])


def covariant_hessian(
    metric: Callable[[np.ndarray, np.ndarray, np.ndarray], float],
    chart: Callable[[np.ndarray], np.ndarray],
    f: Callable[[np.ndarray], float],
    dim: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The Hessian of f at chart(0) in coordinates, d_i d_j f - Gamma^k_ij d_k f, and the coordinate vectors; differences only.

    Christoffel symbols from differences of the metric's matrix: no formula of the manifold enters but its metric and a chart.
    """
    axes = np.eye(dim)

    def difference(g: Callable[[np.ndarray], np.ndarray | float], c: np.ndarray, h: float) -> np.ndarray:
        return np.array([(8 * (g(c + h * e) - g(c - h * e)) - (g(c + 2 * h * e) - g(c - 2 * h * e))) / (12 * h) for e in axes])

    def matrix(c: np.ndarray) -> np.ndarray:
        X, J = chart(c), difference(chart, c, 1e-4)
        return np.array([[metric(X, a, b) for b in J] for a in J])

    origin = np.zeros(dim)
    slopes = difference(matrix, origin, 1e-3)  # [k, i, j] = d_k g_ij
    lowered = (np.einsum("ijl->lij", slopes) + np.einsum("jil->lij", slopes) - slopes) / 2
    christoffel = np.einsum("kl,lij->kij", np.linalg.inv(matrix(origin)), lowered)

    def slope_of_f(c: np.ndarray) -> np.ndarray:
        return difference(lambda c: f(chart(c)), c, 2e-3)

    hessian = difference(slope_of_f, origin, 2e-3) - np.einsum("kij,k->ij", christoffel, slope_of_f(origin))
    return hessian, difference(chart, origin, 1e-4)


def embedded_motion(X: np.ndarray, U: np.ndarray, W: np.ndarray, layout: ClassLayout) -> tuple[np.ndarray, np.ndarray]:
    """Geodesic and parallel transport of the embedded metric by integrating their equations with dense matrices (error 1e-10)."""
    from scipy.integrate import solve_ivp

    C_M, n = class_centering(layout), layout.n

    def normal(X: np.ndarray, U: np.ndarray, W: np.ndarray) -> np.ndarray:
        S = U @ C_M @ W.T
        return -(n / 2) * (S + S.T) @ X @ C_M

    def field(t: float, state: np.ndarray) -> np.ndarray:
        X_t, U_t, W_t = state.reshape(3, *X.shape)
        return np.stack([U_t, normal(X_t, U_t, U_t), normal(X_t, U_t, W_t)]).ravel()

    end = solve_ivp(field, (0, 1), np.stack([X, U, W]).ravel(), method="DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
    return tuple(end.reshape(3, *X.shape)[[0, 2]])  # type: ignore[return-value]


def mse(features: np.ndarray, labels: np.ndarray, W: np.ndarray, b: np.ndarray, lam: float) -> float:
    """Eq. 2 example by example. features (n, P), labels (n,)"""
    total = sum(np.sum((W @ h + b - np.eye(len(b))[y]) ** 2) for h, y in zip(features, labels, strict=True))
    return 0.5 * total / len(labels) + 0.5 * lam * (np.sum(W**2) + np.sum(b**2))


def extended_moments(features: np.ndarray, labels: np.ndarray, C: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """M~ (P+1, C), mu~ (P+1,), Sigma~_T and Sigma~_W (P+1, P+1) of h~ = [h; 1], example by example."""
    H = np.hstack([features, np.ones((len(features), 1))])
    M = np.stack([H[labels == c].mean(0) for c in range(C)], axis=1)
    mu = H.mean(0)
    sigma_t = np.sum([np.outer(h - mu, h - mu) for h in H], axis=0) / len(H)
    sigma_w = np.sum([np.outer(h - M[:, y], h - M[:, y]) for h, y in zip(H, labels, strict=True)], axis=0) / len(H)
    return M, mu, sigma_t, sigma_w


def least_squares(features: np.ndarray, labels: np.ndarray, C: int, lam: float) -> np.ndarray:
    """[W, b] (C, P+1) by numpy's least squares on the stacked problem with sqrt(lambda n) I appended."""
    H = np.hstack([features, np.ones((len(features), 1))])
    n, width = H.shape
    stacked = np.vstack([H, np.sqrt(lam * n) * np.eye(width)])
    targets = np.vstack([np.eye(C)[labels], np.zeros((width, C))])
    return np.linalg.lstsq(stacked, targets, rcond=None)[0].T
