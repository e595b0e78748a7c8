"""Dense, slow and obviously right: every formula of the paper with its n x n matrices written out."""

from collections.abc import Callable

import numpy as np

from manifolds.classes import ClassLayout


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
    h = 2e-3 * np.linalg.norm(X) / max(np.linalg.norm(Z), 1e-300)

    def central(step: float) -> np.ndarray | float:
        return (f(X + step * Z) - f(X - step * Z)) / (2 * step)

    a, b, c = central(h), central(h / 2), central(h / 4)
    ab, bc = (4 * b - a) / 3, (4 * c - b) / 3
    return (16 * bc - ab) / 15


def slope(errors: Callable[[float], float], steps: np.ndarray) -> float:
    """Least-squares slope of log(errors) against log(steps)."""
    return float(np.polyfit(np.log(steps), np.log([errors(s) for s in steps]), 1)[0])


def mse(features: np.ndarray, labels: np.ndarray, W: np.ndarray, b: np.ndarray, lam: float) -> float:
    """Eq. 2 example by example. features (n, P), labels (n,)"""
    total = sum(np.sum((W @ h + b - np.eye(len(b))[y]) ** 2) for h, y in zip(features, labels, strict=True))
    return 0.5 * total / len(labels) + 0.5 * lam * (np.sum(W**2) + np.sum(b**2))


def extended_moments(features: np.ndarray, labels: np.ndarray, C: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """M~ (P+1, C), mu~ (P+1,), Sigma~_T and Sigma~_W (P+1, P+1) of h~ = [h; 1], example by example."""
    H = np.hstack([features, np.ones((len(features), 1))])
    M = np.stack([H[labels == c].mean(0) for c in range(C)], axis=1)
    mu = H.mean(0)
    sigma_t = sum(np.outer(h - mu, h - mu) for h in H) / len(H)
    sigma_w = sum(np.outer(h - M[:, y], h - M[:, y]) for h, y in zip(H, labels, strict=True)) / len(H)
    return M, mu, sigma_t, sigma_w


def least_squares(features: np.ndarray, labels: np.ndarray, C: int, lam: float) -> np.ndarray:
    """[W, b] (C, P+1) by numpy's least squares on the stacked problem with sqrt(lambda n) I appended."""
    H = np.hstack([features, np.ones((len(features), 1))])
    n, width = H.shape
    stacked = np.vstack([H, np.sqrt(lam * n) * np.eye(width)])
    targets = np.vstack([np.eye(C)[labels], np.zeros((width, C))])
    return np.linalg.lstsq(stacked, targets, rcond=None)[0].T
