"""Plain gradient descent on the whole tensor, the oracle of every prediction: no closed system, no central-path formula."""

import numpy as np

from ufm.compare.coordinates import Entry
from ufm.compare.outcome import Measured


def labelled(sizes: list[int]) -> np.ndarray:
    """Labels of classes of these sizes, in blocks. (n,)"""
    return np.repeat(np.arange(len(sizes)), sizes)


def entry_of(
    H: np.ndarray,
    y: np.ndarray,
    W: np.ndarray | None = None,
    b: np.ndarray | None = None,
    decay_w: float = 0.0,
    decay_h: float = 0.0,
) -> Entry:
    """Class statistics of features H (P, n)."""
    C = int(y.max()) + 1
    means = np.stack([H[:, y == c].mean(1) for c in range(C)], axis=1)
    D, mean = H - means[:, y], H.mean(1)
    sigma_w = D @ D.T / H.shape[1]
    return Entry(np.bincount(y), means - mean[:, None], sigma_w, W, b, mean, decay_w, decay_h)


def white_start(rng: np.random.Generator, sizes: list[int], P: int, u: float, spread: float = 0.4) -> np.ndarray:
    """Features (P, n) with Sigma_W = I, zero mean and eigenvalues of G around u."""
    y = labelled(sizes)
    q = np.sqrt(np.array(sizes) / sum(sizes))
    C = len(sizes)
    D = rng.standard_normal((P, len(y)))
    for c in range(C):
        D[:, y == c] -= D[:, y == c].mean(1, keepdims=True)
    values, E = np.linalg.eigh(D @ D.T / len(y))
    D = (E / np.sqrt(values)) @ E.T @ D
    B = np.linalg.qr(np.eye(C) - np.outer(q, q))[0][:, : C - 1] @ np.linalg.qr(rng.standard_normal((C - 1, C - 1)))[0]
    K = min(C - 1, P)
    S = np.linalg.qr(rng.standard_normal((P, K)))[0] * np.sqrt(u) * np.exp(rng.uniform(-spread, spread, K)) @ B[:, :K].T
    return D + (S / q)[:, y]


def descend(H: np.ndarray, y: np.ndarray, rate: float, steps: int, every: int, r: float = 1.0) -> list[np.ndarray]:
    """Features at every `every`-th step of gradient descent on 1/2 Ave ||W h + b - y||^2 with W, b at least squares each time;
    class means r times as fast as deviations.
    """
    n = len(y)
    Y = np.eye(int(y.max()) + 1)[:, y]
    share = Y.T / Y.sum(1)  # X @ share: the class means of X
    rows, H = [], H.copy()
    for k in range(steps + 1):
        if k % every == 0:
            rows.append(H.copy())
        wide = np.vstack([H, np.ones(n)])
        W = np.linalg.solve(wide @ wide.T, wide @ Y.T).T
        gradient = W[:, :-1].T @ (W @ wide - Y) / n
        means = (gradient @ share)[:, y]
        H = H - rate * (gradient - means + r * means)
    return rows


def descend_jointly(
    H: np.ndarray,
    y: np.ndarray,
    W: np.ndarray,
    b: np.ndarray,
    kappa: float,
    decay_w: float,
    decay_h: float,
    rate: float,
    steps: int,
) -> list[np.ndarray]:
    """Features at 30 moments of gradient descent of H, W and b together, W and b with kappa / n times the rate."""
    n = len(y)
    Y = np.eye(int(y.max()) + 1)[:, y]
    rows = []
    for k in range(steps + 1):
        if k % (steps // 30) == 0:
            rows.append(H.copy())
        R = W @ H + b[:, None] - Y
        of_H, of_W, of_b = (W.T @ R + decay_h * H) / n, R @ H.T / n + decay_w * W, R.mean(1)
        H, W, b = H - rate * of_H, W - rate * kappa / n * of_W, b - rate * kappa / n * of_b
    return rows


def descend_layer(
    Z: np.ndarray, y: np.ndarray, A: np.ndarray, rate: float, steps: int, every: int, decay: float = 0.0
) -> list[np.ndarray]:
    """A (P, d) at every `every`-th step of gradient descent of A on 1/2 Ave ||W A z + b - y||^2 + decay/2 ||A||^2, W and b at
    least squares without it.
    """
    n, maps = len(y), []
    Y = np.eye(int(y.max()) + 1)[:, y]
    for k in range(steps + 1):
        if k % every == 0:
            maps.append(A)
        wide = np.vstack([A @ Z, np.ones(n)])
        W = np.linalg.solve(wide @ wide.T, wide @ Y.T).T
        A = A - rate * (W[:, :-1].T @ (W @ wide - Y) @ Z.T / n + decay * A)
    return maps


def measured(features: list[np.ndarray], y: np.ndarray, noise: float = 0.0, rng: np.random.Generator | None = None) -> Measured:
    """The run as it is judged, every omega with white relative noise where there is some (the entry has the start's)."""
    q = np.sqrt(np.bincount(y) / len(y))
    omegas, vectors, entry = [], [], None
    for H in features:
        start = entry_of(H, y)
        values, E = np.linalg.eigh(start.sigma_w)
        U, omega, Vt = np.linalg.svd((E / np.sqrt(values)) @ E.T @ start.M, full_matrices=False)
        K = min(len(q) - 1, len(H))
        if rng is not None:
            omega = omega * np.exp(noise * rng.standard_normal(len(omega)))
        if entry is None:
            M = (E * np.sqrt(values)) @ E.T @ (U * omega) @ Vt
            entry = Entry(start.counts, M - (M @ q**2)[:, None], start.sigma_w)
        order = np.argsort(-omega[:K])
        omegas.append(omega[:K][order])
        vectors.append(Vt[:K][order].T)
    return Measured(np.arange(len(features)) + 1.0, np.array(omegas), np.array(vectors), np.bincount(y), entry)
