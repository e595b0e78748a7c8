"""A predicted path beside measured runs: where on it each epoch lies, by the monotone clock of least weighted squares."""

from dataclasses import dataclass

import numpy as np

from manifolds.representation import short_repr
from ufm.compare.response import Response


@dataclass(frozen=True, eq=False)
class Path:
    """A prediction on a grid: values (G, m), their response to errors of the start, and its parameter where it has one."""

    values: np.ndarray
    response: Response
    parameter: float | None = None
    __repr__ = short_repr


@dataclass(frozen=True, eq=False)
class Fitted:
    """Runs (B, T, m) at their best clocks: grid positions tau (B, T), residuals r (B, T, m), velocities of the path there
    v (B, T, m), and the weights (B, m) of the values.
    """

    tau: np.ndarray
    r: np.ndarray
    v: np.ndarray
    weight: np.ndarray
    __repr__ = short_repr

    @property
    def taken(self) -> np.ndarray:
        """The share of every value's noise that the clock takes up. (B, m)"""
        own = self.weight[:, None] * self.v**2
        norm = own.sum(-1, keepdims=True)
        return (own / np.where(norm > 0, norm, 1.0))[:, 1:].mean(1)

    @property
    def freedoms(self) -> np.ndarray:
        """What every value's residuals have, of T - 1 epochs after the first, beside the clock, at least (T - 1) / T. (B, m)"""
        T = self.r.shape[1]
        return (T - 1) * np.maximum(1 - self.taken, 1 / T)


def most_likely_clock(path: Path, y: np.ndarray, start: np.ndarray, weight: np.ndarray) -> Fitted:
    """The never decreasing clock, 0 at first, of the least weighted squares: dynamic programming, then one step between points.

    y (B, T, m); start (B, k) is what the measured start of each differs by from that of the path, as its response takes it;
    weight (B, m).
    """
    G, k = len(path.values), path.response.D.shape[-1]
    Q = np.broadcast_to(path.values, (len(y), *path.values.shape))
    if start.any():
        Q = path.values + path.response.moved(start[:, :k], G)
    weighted = weight[:, None] * Q
    cost = (weighted * Q).sum(-1)[:, None] - 2 * y @ weighted.mT
    tau = _monotone(cost)
    rows = np.arange(len(y))[:, None]
    low, high = np.maximum(tau - 1, 0), np.minimum(tau + 1, G - 1)
    v = (Q[rows, high] - Q[rows, low]) / np.maximum(high - low, 1)[..., None]
    r = y - Q[rows, tau]
    w = weight[:, None]
    norm = (w * v * v).sum(-1)
    delta = np.clip((w * v * r).sum(-1) / np.where(norm > 0, norm, 1.0), -0.5, 0.5)
    delta[:, 0] = 0.0
    delta = np.clip(tau + delta, 0, G - 1) - tau
    return Fitted(tau + delta, r - delta[..., None] * v, v, weight)


def at(path: Path, tau: np.ndarray) -> np.ndarray:
    """The prediction at grid positions tau (T,), interpolated. (T, m)"""
    low = np.clip(np.floor(tau).astype(int), 0, max(len(path.values) - 2, 0))
    share = (tau - low)[:, None]
    return (1 - share) * path.values[low] + share * path.values[np.minimum(low + 1, len(path.values) - 1)]


def _monotone(cost: np.ndarray) -> np.ndarray:
    """Indices (B, T), 0 at first and never decreasing, of least total cost (B, T, G)."""
    B, T, G = cost.shape
    total = np.full((B, G), np.inf)
    total[:, 0] = 0.0
    came = np.zeros((T, B, G), dtype=np.int32)
    grid = np.arange(G, dtype=np.int32)
    for k in range(1, T):
        least = np.minimum.accumulate(total, axis=1)
        came[k] = np.maximum.accumulate(np.where(total == least, grid, 0), axis=1)
        total = least + cost[:, k]
    index = np.zeros((B, T), dtype=np.int64)
    index[:, -1] = total.argmin(1)
    rows = np.arange(B)
    for k in range(T - 1, 0, -1):
        index[:, k - 1] = came[k, rows, index[:, k]]
    return index
