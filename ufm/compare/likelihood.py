"""How likely a measured run is under a predicted path: monotone clock profiled out, AR(1) noise of every value, a noisy start.

Of value i at epoch t the run has y_ti = mu_i(tau_t; start) + e_ti with stationary AR(1) noise, E e_si e_ti = sigma_i^2
rho_i^|s-t| over measured epochs, the first included. As the prediction starts from y_0, its residual is e_t - d_i(tau_t) e_0,
with d the derivative of the prediction by its start; that is the covariance used. sigma_i is marginal under an inverse-gamma
prior of PRIOR_FREEDOMS degrees whose scale the values of a kind share, rho_i maximal over RHOS; `tolerance` adds in quadrature.
"""

from dataclasses import dataclass

import numpy as np

RHOS = np.array([0.0, 0.25, 0.5, 0.7, 0.85, 0.95, 0.98])
PRIOR_FREEDOMS = 4.0
TRENDS = 3  # smooth functions of the epoch that the free rival adds to every value, fewer for fewer epochs
EPOCHS_A_TREND = 4


@dataclass(frozen=True, eq=False)
class Path:
    """A prediction on a grid: values (G, m), their derivative by their start d (G, m), and its parameter where it has one."""

    values: np.ndarray
    d: np.ndarray
    parameter: float | None = None


@dataclass(frozen=True, eq=False)
class Fitted:
    """Runs (B, T, m) at their best clocks: grid positions tau (B, T), residuals r (B, T, m), derivatives there d (B, T, m)."""

    tau: np.ndarray
    r: np.ndarray
    d: np.ndarray


def most_likely_clock(path: Path, y: np.ndarray, start: np.ndarray, weight: np.ndarray) -> Fitted:
    """The never decreasing clock, 0 at first, of the least weighted squares: dynamic programming, then one step between points.

    y (B, T, m); start (B, m) is what the measured start of each differs by from that of the path; weight (B, m).
    """
    P, d = path.values, path.d
    G = len(P)
    lean = weight * start
    fixed = (weight[:, None] * y) @ P.T
    shifted = (weight * start)[:, None] * y
    own = weight @ (P**2).T + 2 * lean @ (P * d).T + (lean * start) @ (d**2).T
    cost = own[:, None] - 2 * fixed - 2 * shifted @ d.T
    tau = _monotone(cost)
    low, high = np.maximum(tau - 1, 0), np.minimum(tau + 1, G - 1)
    span = np.maximum(high - low, 1)[..., None]
    v = (P[high] - P[low] + (d[high] - d[low]) * start[:, None]) / span
    r = y - P[tau] - d[tau] * start[:, None]
    w = weight[:, None]
    norm = (w * v * v).sum(-1)
    delta = np.clip((w * v * r).sum(-1) / np.where(norm > 0, norm, 1.0), -0.5, 0.5)
    delta[:, 0] = 0.0
    delta = np.clip(tau + delta, 0, G - 1) - tau
    return Fitted(tau + delta, r - delta[..., None] * v, np.broadcast_to(d[tau], y.shape))


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


class Noise:
    """The likelihood of residuals for derivatives d (T, m) of the start: whitening for every rho, with and without trends.

    kinds (m,) numbers the values that share a scale of noise: those on the diagonal and those off it.
    """

    def __init__(self, d: np.ndarray, kinds: np.ndarray, tolerance: float) -> None:
        T = len(d)
        self.T, self.kinds, self.tolerance = T, kinds, tolerance
        s = np.arange(T)
        R = RHOS[:, None, None] ** abs(s[:, None] - s)  # (rho, T, T)
        later = d[1:].T  # (m, T - 1)
        cov = (
            R[:, None, 1:, 1:]
            - later[None, :, :, None] * R[:, None, None, 0, 1:]
            - R[:, None, 1:, 0, None] * later[None, :, None, :]
            + (later[:, :, None] * later[:, None, :])[None]
        )
        scale = np.trace(cov, axis1=-2, axis2=-1)[..., None, None] / (T - 1)
        cov = cov + 1e-6 * scale * np.eye(T - 1)  # rho = 0.98 and d = 1 at once are singular but for this
        factor = np.linalg.cholesky(cov)
        self.log_det = np.log(np.diagonal(factor, axis1=-2, axis2=-1)).sum(-1)  # (rho, m), half the log determinant
        self.white = np.linalg.inv(factor)
        count = min(TRENDS, (T - 1) // EPOCHS_A_TREND)
        trends = (s[1:, None] / (T - 1)) ** np.arange(1, count + 1)
        self.trends = np.linalg.qr(self.white @ trends)[0] if count else None

    def evaluate(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Log likelihood (B,), that with every value's own trends (B,), and the best rho's index (B, m). r (B, T, m)"""
        white = np.einsum("rmst,btm->rbms", self.white, r[:, 1:], optimize=True)
        squares = (white**2).sum(-1)
        plain, best = self._total(squares)
        if self.trends is None:
            return plain, plain, best
        along = np.einsum("rmsq,rbms->rbmq", self.trends, white, optimize=True)
        free, _ = self._total(np.maximum(squares - (along**2).sum(-1), 0.0))
        return plain, free, best

    def _total(self, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n = self.T - 1
        squares = squares + n * self.tolerance**2
        profile = -0.5 * n * np.log(squares) - self.log_det[:, None]
        best = profile.argmax(0)  # (B, m)
        chosen = np.take_along_axis(squares, best[None], 0)[0]
        det = np.take_along_axis(np.broadcast_to(self.log_det[:, None], squares.shape), best[None], 0)[0]
        total = np.zeros(squares.shape[1])
        for kind in np.unique(self.kinds):
            of = self.kinds == kind
            scale = PRIOR_FREEDOMS * np.exp(np.log(chosen[:, of] / n).mean(1, keepdims=True))
            value = 0.5 * PRIOR_FREEDOMS * np.log(scale) - 0.5 * (PRIOR_FREEDOMS + n) * np.log(scale + chosen[:, of])
            total += (value - det[:, of]).sum(1)
        return total, best

    def innovations(self, r: np.ndarray, best: np.ndarray) -> np.ndarray:
        """The whitened residuals of one run at its best rhos, (T - 1, m), corrected for the clock fitted. r (T, m), best (m,)"""
        T, m = r.shape
        white = np.einsum("mst,tm->sm", self.white[best, np.arange(m)], r[1:])
        white = white * np.sqrt(m / max(m - 1, 1))  # the clock of every epoch takes up one of its m values
        spread = np.sqrt((white**2).sum(0))
        extra = np.sqrt(spread**2 + (T - 1) * self.tolerance**2) / np.where(spread > 0, spread, 1.0)
        rng = np.random.default_rng(0)
        filler = self.tolerance * rng.standard_normal(white.shape)
        return np.where(spread > 1e-3 * self.tolerance, white * extra, filler)


def simulate_noise(innovations: np.ndarray, best: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Stationary AR(1) noise (count, T, m) whose innovations have the covariance of these (T - 1, m), across values too.

    best (m,) are the fitted indices of rho; half of the runs take the next larger ones, as fits to few epochs fall short.
    """
    n, m = innovations.shape
    larger = np.minimum(best + 1, len(RHOS) - 1)
    rhos = RHOS[np.where(np.arange(count)[:, None] % 2 == 1, larger, best)]
    e = rng.standard_normal((count, n + 1, n)) @ innovations / np.sqrt(n)
    fresh = np.sqrt(1 - rhos**2)
    out = np.empty((count, n + 1, m))
    out[:, 0] = e[:, 0]
    for t in range(1, n + 1):
        out[:, t] = rhos * out[:, t - 1] + fresh * e[:, t]
    return out
