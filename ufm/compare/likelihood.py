"""A predicted path beside measured runs: where on it each epoch lies, by the monotone clock of least weighted squares."""

from dataclasses import dataclass

import numpy as np

from manifolds.representation import short_repr
from ufm.compare.response import Response


@dataclass(frozen=True, eq=False, repr=False)
class Path:
    """A prediction on a grid: values (G, m), their response to errors of the start, and its parameter where it has one."""

    values: np.ndarray
    response: Response
    parameter: float | None = None
    __repr__ = short_repr


@dataclass(frozen=True, eq=False, repr=False)
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


def predicted_from(path: Path, start: np.ndarray) -> np.ndarray:
    """The path from starts that differ by start (B, k) from its own, as its response takes it. (B, G, m)"""
    Q = path.values[None]
    return Q + path.response.moved(start[:, : path.response.D.shape[-1]], Q.shape[1]) if start.any() else Q


def most_likely_clock(Q: np.ndarray, y: np.ndarray, weight: np.ndarray) -> Fitted:
    """The never decreasing clock, 0 at first, of the least weighted squares: dynamic programming, then one step between points.

    y (B, T, m); predictions Q (B or 1, G, m) of a path; weight (B, m).
    """
    G = Q.shape[1]
    w = weight[:, None]
    cost = (Q**2 @ weight[..., None]).mT - 2 * (w * y) @ Q.mT
    tau = _monotone(cost)
    runs = np.arange(len(y) if len(Q) > 1 else 1)[:, None]
    low, high = np.maximum(tau - 1, 0), np.minimum(tau + 1, G - 1)
    v = (Q[runs, high] - Q[runs, low]) / np.maximum(high - low, 1)[..., None]
    r = y - Q[runs, tau]
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
    total = np.full((T, B, G), np.inf)
    total[0, :, 0] = 0.0
    for k in range(1, T):
        np.minimum.accumulate(total[k - 1], axis=1, out=total[k])
        total[k] += cost[:, k]
    index = np.zeros((B, T), dtype=np.int64)
    index[:, -1] = total[-1].argmin(1)
    grid = np.arange(G)
    for k in range(T - 1, 0, -1):  # the last of equally good ones
        before = np.where(grid <= index[:, k, None], total[k - 1], np.inf)
        index[:, k - 1] = G - 1 - before[:, ::-1].argmin(1)
    return index
