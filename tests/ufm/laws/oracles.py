"""The whole tensor X under a class-block kernel and a ridge classifier, with every matrix written out."""

from collections.abc import Callable

import numpy as np
from scipy.integrate import solve_ivp

from manifolds.class_centering import ClassLayout
from tests import oracles


def class_kernel(layout: ClassLayout, r: float) -> np.ndarray:
    """Theta (n, n): r on class means, 1 on the deviations from them."""
    Y = oracles.one_hot(layout)
    averaging = Y.T @ np.diag(1 / np.asarray(layout.sizes)) @ Y
    return np.eye(layout.n) + (r - 1) * averaging


def ridge_classifier(H: np.ndarray, layout: ClassLayout, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """argmin of 1/2 Ave ||W h + b - y||^2 + ridge/2 ||W||^2 by numpy's least squares on the stacked problem."""
    P, n = H.shape
    stacked = np.vstack([np.hstack([H.T, np.ones((n, 1))]), np.hstack([np.sqrt(ridge * n) * np.eye(P), np.zeros((P, 1))])])
    targets = np.vstack([oracles.one_hot(layout).T, np.zeros((P, layout.C))])
    solution = np.linalg.lstsq(stacked, targets, rcond=None)[0].T
    return solution[:, :P], solution[:, P]


def ridge_loss(H: np.ndarray, layout: ClassLayout, ridge: float) -> float:
    """The smallest 1/2 Ave ||W h + b - y||^2 + ridge/2 ||W||^2."""
    W, b = ridge_classifier(H, layout, ridge)
    residual = W @ H + b[:, None] - oracles.one_hot(layout)
    return 0.5 * float((residual**2).sum()) / layout.n + 0.5 * ridge * float((W**2).sum())


def ridge_gradient(H: np.ndarray, layout: ClassLayout, ridge: float) -> np.ndarray:
    """Its gradient in H (P, n): W^T (W H + b 1^T - Y) / n by the envelope theorem."""
    W, b = ridge_classifier(H, layout, ridge)
    return W.T @ (W @ H + b[:, None] - oracles.one_hot(layout)) / layout.n


def proposition_4(X: np.ndarray, Z: np.ndarray, layout: ClassLayout) -> np.ndarray:
    """Pi(Z) = Z - 1/2 (X C_M Z^T + Z C_M X^T) X."""
    C_M = oracles.class_centering(layout)
    return Z - 0.5 * (X @ C_M @ Z.T + Z @ C_M @ X.T) @ X


def renormalized_velocity(X: np.ndarray, layout: ClassLayout, ridge: float, kernel: np.ndarray) -> np.ndarray:
    """-Pi(grad L Theta) at X (P, n)."""
    return -proposition_4(X, ridge_gradient(X, layout, ridge) @ kernel, layout)


def integrated(field: Callable[[np.ndarray], np.ndarray], X: np.ndarray, t: np.ndarray) -> np.ndarray:
    """X at times t (T,) of dX/dt = field(X), to 1e-12. (T, P, n)"""
    return solve_ivp(
        lambda t, x: field(x.reshape(X.shape)).ravel(),
        (0.0, float(t[-1])),
        X.ravel(),
        method="DOP853",
        t_eval=t,
        rtol=1e-12,
        atol=1e-13,
    ).y.T.reshape(len(t), *X.shape)


def snr_matrix(H: np.ndarray, layout: ClassLayout) -> np.ndarray:
    """Eq. 9's Sigma_W^{-1/2} (M - mu_G 1^T), mu_G the mean over examples. (P, C)"""
    return oracles.inverse_sqrt(H @ oracles.class_centering(layout) @ H.T) @ (layout.means(H) - H.mean(1, keepdims=True))


def singular_values(H: np.ndarray, layout: ClassLayout) -> np.ndarray:
    """Of Eq. 9's matrix, descending. (K,)"""
    return np.linalg.svd(snr_matrix(H, layout), compute_uv=False)[: min(layout.C - 1, len(H))]
