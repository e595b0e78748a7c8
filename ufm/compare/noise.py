"""The likelihood of what a path leaves of a run: AR(1) noise of every value, the start included.

Of value i at epoch t the run has y_ti = mu_i(tau_t; start) + e_ti with stationary AR(1) noise, E e_si e_ti = sigma_i^2
rho^|s-t| over measured epochs, the first included. As the prediction starts from y_0, its residual is e_t - D_t e_0, D the
response of the path to its start. Given e_0, the steps r_t - rho r_{t-1} = (rho D_{t-1} - D_t) e_0 + sqrt(1 - rho^2) sigma eps
(D_0 = I, r_0 = 0) are independent: e_0 is marginalised out as the coefficients of a ridge regression. sigma_i is marginal under
an inverse-gamma prior of PRIOR_FREEDOMS degrees around the scale of its kind (on the diagonal and off it), rho maximal over RHOS;
`tolerance` adds in quadrature. Of the T - 1 epochs after the first a value has the freedoms that the clock leaves it: what it
follows leaves residuals that are a small part of the noise, which the start has in full.
"""

import numpy as np

from ufm.compare.likelihood import Fitted, Path

RHOS = np.array([0.0, 0.25, 0.5, 0.7, 0.85, 0.95, 0.98])
PRIOR_FREEDOMS = 10.0  # of the noise of one value around that of its kind: a spread of sizes by about 1.5
CHOSEN = 2.0  # freedoms that are taken up by choosing the likeliest model and its parameter
TRENDS = 3  # smooth functions of the epoch that the free rival adds to every value, fewer for fewer epochs
EPOCHS_A_TREND = 4


class Noise:
    """The likelihood of residuals beside a path near the clock and the sizes of noise of one fitted run (B = 1).

    kinds (m,) numbers the values that share a scale of noise: those on the diagonal and those off it.
    """

    def __init__(self, path: Path, fitted: Fitted, kinds: np.ndarray, tolerance: float) -> None:
        T, m = fitted.r.shape[1:]
        self.T, self.kinds, self.tolerance = T, kinds, tolerance
        self.sets = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]
        self.sigma = 1 / np.sqrt(fitted.weight[0])
        self.freedoms = fitted.freedoms[0]
        D = path.response.at(fitted.tau[0])
        k = D.shape[-1]
        D = D * (np.tile(self.sigma, k // m) / self.sigma[:, None])
        v = fitted.v[0, 1:] / self.sigma
        norm = np.sqrt((v**2).sum(-1, keepdims=True))
        v = v / np.where(norm > 0, norm, 1.0)
        D[1:] -= v[..., None] * (v[:, None] @ D[1:])  # along the path, an error of the start is one of the clock
        D[0] = np.eye(m, k)
        self.rows, self.columns = D.reshape(-1, k), np.hstack(list(D.mT))  # (T m, k), (k, T m)
        now, before = self.rows[m:], self.rows[:-m]
        squares, mixed, older = now.T @ now, now.T @ before, before.T @ before
        fresh = 1 - RHOS[:, None, None] ** 2
        both = RHOS[:, None, None] * (mixed + mixed.T)
        factor = np.eye(k) + (squares - both + RHOS[:, None, None] ** 2 * older) / fresh
        self.inverse = np.linalg.inv(factor)
        self.log_det = 0.5 * self.freedoms.sum() * np.log(fresh[:, 0, 0]) + 0.5 * np.linalg.slogdet(factor)[1]
        s = np.arange(T) / (T - 1)
        count = min(TRENDS, (T - 1) // EPOCHS_A_TREND)
        trends = s[:, None] ** np.arange(1, count + 1)
        self.trends = np.linalg.qr(trends[1:] - RHOS[:, None, None] * trends[:-1])[0] if count else None

    def within(self, r: np.ndarray, accuracy: float) -> float:
        """Log likelihood of residuals r (1, T, m) of predictions that are trusted to `accuracy` in place of the tolerance."""
        return float(self._by_rho(self._whitened(r)[1], accuracy).max())

    def evaluate(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log likelihood (B,) and that with every value's own trends (B,). r (B, T, m)"""
        steps, squares = self._whitened(r)
        plain = self._by_rho(squares).max(0)
        if self.trends is None:
            return plain, plain
        along = self.trends.mT[:, None] @ steps  # (rho, B, q, m)
        free = self._by_rho(np.maximum(squares - (along**2).sum(-2) * self.sigma**2, 0.0))
        return plain, free.max(0)

    def _whitened(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Independent steps in units of sigma (rho, B, T - 1, m), and the squares of all noise of a value (rho, B, m)."""
        B, T, m = r.shape
        z = r / self.sigma
        z[:, 0] = 0.0
        now, before = z[:, 1:].reshape(B, -1), z[:, :-1].reshape(B, -1)
        D_now, D_before = self.columns[:, m:], self.columns[:, :-m]
        rho = RHOS[:, None, None]
        projected = rho * ((now @ D_before.T) + (before @ D_now.T)) - now @ D_now.T - rho**2 * (before @ D_before.T)
        fresh = np.sqrt(1 - RHOS**2)
        start = projected @ self.inverse / fresh[:, None, None] ** 2  # (rho, B, k)
        moved = (start.reshape(-1, start.shape[-1]) @ self.rows.T).reshape(len(RHOS), B, T, m)
        rho = rho[..., None]
        steps = z[:, 1:] - rho * z[:, :-1] - rho * moved[:, :, :-1] + moved[:, :, 1:]
        steps /= fresh[:, None, None, None]
        of_start = (start**2).reshape(len(RHOS), B, -1, m).sum(-2)
        return steps, ((steps**2).sum(-2) + of_start) * self.sigma**2

    def _by_rho(self, squares: np.ndarray, tolerance: float | None = None) -> np.ndarray:
        """Log likelihood (rho, B) of sums of squares (rho, B, m), to which the tolerance adds."""
        squares = squares + (self.T - 1) * (self.tolerance if tolerance is None else tolerance) ** 2
        total = -self.log_det[:, None]
        for of in self.sets:
            n = self.freedoms[of]
            scale = PRIOR_FREEDOMS * squares[..., of].sum(-1, keepdims=True) / n.sum()
            value = 0.5 * PRIOR_FREEDOMS * np.log(scale) - 0.5 * (PRIOR_FREEDOMS + n) * np.log(scale + squares[..., of])
            total = total + value.sum(-1)
        return total

    def simulate(self, fitted: Fitted, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Stationary AR(1) noise (count, T, m) and the errors of its start (count, 2 m), like that of a fitted run (B = 1).

        rho as likely as it is, sizes of every value shrunk to those of its kind, whose scale is as uncertain as its residuals are
        few, correlation across values as far as it stands out of what so few epochs make.
        """
        n, m = self.T - 1, len(self.kinds)
        steps, squares = self._whitened(fitted.r)
        likely = self._by_rho(squares)[:, 0]
        weight = np.exp(likely - likely.max())
        rho = RHOS[rng.choice(len(RHOS), count, p=weight / weight.sum())][:, None]
        best, taken = int(likely.argmax()), fitted.taken[0]
        sigma, scale = np.empty(m), np.empty((count, m))
        for of in self.sets:
            freedoms = self.freedoms[of]
            left_over = max(float(freedoms.sum()) - CHOSEN, 1.0)
            own = squares[best, 0, of] + n * self.tolerance**2
            sigma[of] = np.sqrt(shrunk(own, freedoms) * freedoms.sum() / left_over)
            scale[:, of] = np.sqrt(left_over / rng.chisquare(left_over, (count, 1)))
        left = steps[best, 0] * self.sigma
        share = correlated(left / sigma, taken)
        e = np.sqrt(1 - share) * sigma * rng.standard_normal((count, self.T, m))
        e += np.sqrt(share / n) * rng.standard_normal((count, self.T, n)) @ left
        e *= (scale * sigma / np.sqrt((1 - share) * sigma**2 + share * (left**2).mean(0)))[:, None]
        fresh = np.sqrt(1 - rho**2)
        for t in range(1, self.T):
            e[:, t] = rho * e[:, t - 1] + fresh * e[:, t]
        return e, np.hstack([e[:, 0], scale * sigma * rng.standard_normal((count, m))])


def shrunk(squares: np.ndarray, freedoms: np.ndarray) -> np.ndarray:
    """Variances of values of one kind from sums of squares (..., m) with their freedoms, shrunk to the variance of the kind."""
    common = squares.sum(-1, keepdims=True) / freedoms.sum(-1, keepdims=True)
    return (PRIOR_FREEDOMS * common + squares) / (PRIOR_FREEDOMS + freedoms)


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
