"""How likely a measured run is under a predicted path: monotone clock profiled out, AR(1) noise of every value, a noisy start.

Of value i at epoch t the run has y_ti = mu_i(tau_t; start) + e_ti with stationary AR(1) noise, E e_si e_ti = sigma_i^2
rho^|s-t| over measured epochs, the first included; rho is one number for the values on the diagonal and one for those off it. As
the prediction starts from y_0, its residual is e_t - d_i(tau_t) e_0, with d the derivative of the prediction by its start; that
is the covariance used. sigma_i is marginal under an inverse-gamma prior of PRIOR_FREEDOMS degrees around the scale of its kind,
rho maximal over RHOS; `tolerance` adds in quadrature.
"""

from dataclasses import dataclass

import numpy as np

RHOS = np.array([0.0, 0.25, 0.5, 0.7, 0.85, 0.95, 0.98])
PRIOR_FREEDOMS = 10.0  # of the noise of one value around that of its kind: a spread of sizes by about 1.5
CHOSEN = 2.0  # freedoms that are taken up by choosing the likeliest model and its parameter
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
    """Runs (B, T, m) at their best clocks: grid positions tau (B, T), residuals r (B, T, m), derivatives there d (B, T, m),
    and the share of every value's noise that the clock takes up, (B, m).
    """

    tau: np.ndarray
    r: np.ndarray
    d: np.ndarray
    taken: np.ndarray


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
    taken = (w * v * v / np.where(norm > 0, norm, 1.0)[..., None])[:, 1:].mean(1)
    return Fitted(tau + delta, r - delta[..., None] * v, np.broadcast_to(d[tau], y.shape), taken)


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

    kinds (m,) numbers the values that share a scale and a correlation of noise: those on the diagonal and those off it.
    """

    def __init__(self, d: np.ndarray, kinds: np.ndarray, tolerance: float) -> None:
        T = len(d)
        self.T, self.kinds, self.tolerance = T, kinds, tolerance
        self.sets = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]
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

    def evaluate(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log likelihood (B,) and that with every value's own trends (B,). r (B, T, m)"""
        white, squares = self._whitened(r)
        plain = self._by_rho(squares).max(0).sum(-1)
        if self.trends is None:
            return plain, plain
        along = np.einsum("rmsq,rbms->rbmq", self.trends, white, optimize=True)
        free = self._by_rho(np.maximum(squares - (along**2).sum(-1), 0.0), self.trends.shape[-1])
        return plain, free.max(0).sum(-1)

    def _whitened(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        white = np.einsum("rmst,btm->rbms", self.white, r[:, 1:], optimize=True)
        return white, (white**2).sum(-1)

    def _by_rho(self, squares: np.ndarray, trends: int = 0) -> np.ndarray:
        """Log likelihood of every kind (rho, B, kinds) of sums of squares (rho, B, m)."""
        n = self.T - 1
        squares = squares + n * self.tolerance**2
        total = []
        for of in self.sets:
            scale = PRIOR_FREEDOMS * squares[..., of].mean(-1, keepdims=True) / n
            value = 0.5 * PRIOR_FREEDOMS * np.log(scale) - 0.5 * (PRIOR_FREEDOMS + n) * np.log(scale + squares[..., of])
            total.append((value - self.log_det[:, None, of]).sum(-1))
        return np.stack(total, axis=-1)

    def simulate(self, fitted: Fitted, count: int, rng: np.random.Generator) -> np.ndarray:
        """Stationary AR(1) noise (count, T, m) like that of a fitted run (B = 1): rho as likely as it is, sizes of every value
        shrunk to those of its kind, correlation across values as far as it stands out of what so few epochs make.
        """
        n = self.T - 1
        white, squares = self._whitened(fitted.r)
        likely = self._by_rho(squares)[:, 0]  # (rho, kinds)
        rho, sigma = np.empty((count, len(self.kinds))), np.empty(len(self.kinds))
        left = np.empty((n, len(self.kinds)))
        for kind, of in enumerate(self.sets):
            weight = np.exp(likely[:, kind] - likely[:, kind].max())
            rho[:, of] = RHOS[rng.choice(len(RHOS), count, p=weight / weight.sum())][:, None]
            best = int(likely[:, kind].argmax())
            own = squares[best, 0, of] + n * self.tolerance**2
            by_clock, by_choice = float(fitted.taken[0, of].mean()), min(CHOSEN / (n * len(of)), 0.5)
            kept = max(1 - by_clock, 1 / self.T) * (1 - by_choice)  # of the noise, in the residuals
            sigma[of] = np.sqrt((PRIOR_FREEDOMS * own.mean() / n + own) / (PRIOR_FREEDOMS + n) / kept)
            left[:, of] = white[best, 0, of].T
        share = correlated(left / sigma, fitted.taken[0])
        e = np.sqrt(1 - share) * sigma * rng.standard_normal((count, self.T, len(self.kinds)))
        e += np.sqrt(share / n) * rng.standard_normal((count, self.T, n)) @ left
        fresh = np.sqrt(1 - rho**2)
        for t in range(1, self.T):
            e[:, t] = rho * e[:, t - 1] + fresh * e[:, t]
        return e


def correlated(z: np.ndarray, taken: np.ndarray) -> float:
    """Share of the covariance of standardised residuals (n, m) that stands out: 1 - noise / squares (Schaefer & Strimmer 2005).

    What the clock takes up makes residuals depend on each other too, -sqrt(taken_i taken_j), and is no correlation of the noise.
    """
    n, m = z.shape
    if m < 3 or n < 3:
        return 0.0
    rows, columns = np.triu_indices(m, 1)
    products = z[:, rows] * z[:, columns]
    mean = products.mean(0)
    spread = ((products - mean) ** 2).sum(0) / (n * (n - 1))
    beside = mean + np.sqrt(taken[rows] * taken[columns])
    aside = np.minimum(mean**2, beside**2).sum()
    return float(np.clip(1 - spread.sum() / aside, 0.0, 1.0)) if aside > 0 else 0.0
