"""The SNR of the population from the examples at hand: in sample, bias-corrected, and held out, with intervals.

In sample G is too large: with nu = n - C degrees of freedom and P features, Gaussian within the classes,

    E G_hat = n / (nu - P - 1) (G + P Psi),    Psi = diag(1 / n_c) - 1 1^T / n,

the first factor from the inverse of a Wishart matrix, the second from the noise of the class means. `corrected` undoes both.
`held_out` puts every example against linear readouts made without it, and measures their signal and their noise on what was left
out; only the average error of fitting the direction is taken from the Wishart distribution. Heavy tails and rare features,
which the first formula ignores, are included in what is measured. Both need nu > P + 4: under it the variance of an inverse
Wishart matrix
is infinite, and no number is given.
Sources: Muirhead, Aspects of Multivariate Statistical Theory (1982), Theorem 3.2.11; Efron & Stein (1981) for the jackknife.
"""

from dataclasses import dataclass

import numpy as np

from manifolds.linalg import Array
from manifolds.representation import short_repr
from manifolds.rng import RNG
from ufm.features.statistics import ClassStatistics
from ufm.ledger.discrimination import Discrimination, discrimination, form_omega, signal_omega
from ufm.ledger.leave_one_out import ALONE, LeaveOneOutRows, left_out_forms, left_out_readout
from ufm.ledger.reductions import halved

LEVEL = 0.95
DRAWS = 400


@dataclass(frozen=True, eq=False, repr=False)
class Estimates:
    """omega (K,) in sample, bias-corrected and held out, K = C - 1; intervals (K, 2); NaN and a reason where data are too few.

    influence  (n, K) jackknife values of log omega_j, example by example in the order of the pass: two operations that saw the
               same examples have differences whose noise is that of the differences of these
    """

    omega: np.ndarray
    corrected: np.ndarray
    corrected_interval: np.ndarray
    held_out: np.ndarray
    held_out_interval: np.ndarray
    influence: np.ndarray
    reason: str
    __repr__ = short_repr


def degrees_of_freedom(discrimination: Discrimination) -> int:
    """nu = n - C, the rank that the scatter within classes can have."""
    return discrimination.n - discrimination.C


def too_few(discrimination: Discrimination) -> str:
    """Why no reliable number can be given, or an empty string."""
    nu, P = degrees_of_freedom(discrimination), discrimination.rank
    if discrimination.unbounded.shape[1] and nu <= P:
        return (
            f"{nu} degrees of freedom within classes are fewer than {P + discrimination.dropped} features: omega in sample is inf"
        )
    if nu <= P + 4:
        return f"n - C = {nu} for {P} features: above P + 4 = {P + 4} are needed; give more examples or fewer features"
    if discrimination.counts.min() < 2:
        return "a class has a single example: leaving it out leaves none"
    return ""


def estimates(discrimination: Discrimination, rows: LeaveOneOutRows, seed: int = 0, *, rng: RNG = None) -> Estimates:
    """All three, with intervals at 95 %. The bootstrap draws from `rng`, or from `seed` where it is None."""
    omega = signal_omega(rows.signal, discrimination.unbounded)
    K, reason = discrimination.C - 1, too_few(discrimination)
    if reason:
        return Estimates(omega, *_nothing(K), *_nothing(K), np.full((discrimination.n, K), np.nan), reason)
    nu, P, counts = degrees_of_freedom(discrimination), discrimination.rank, discrimination.counts
    form = corrected_form(rows.gram, nu, P, counts)
    corrected, interval = _bootstrap(form, rows.gram, nu, P, counts, np.random.default_rng(seed if rng is None else rng))
    if (counts[rows.labels] / (counts[rows.labels] - 1) * rows.leverages > 1 - ALONE).any():
        reason = "an example is alone in a direction of the features: without it the scatter loses rank"
        return Estimates(omega, corrected, interval, *_nothing(K), np.full((discrimination.n, K), np.nan), reason)
    held = np.sqrt(np.clip(_held_out(rows, nu, P, counts), 0, None))
    influence, deviation = _influence(form, rows, nu, P, counts)
    half = _quantile() * deviation
    held_interval = np.sqrt(np.clip(np.stack([held**2 - half, held**2 + half], 1), 0, None))
    for values in (corrected, interval, held, held_interval):
        values[P:] = 0  # fewer features than contrasts
        values[: discrimination.unbounded.shape[1]] = np.inf
    return Estimates(omega, corrected, interval, held, held_interval, influence, "")


def _nothing(K: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full(K, np.nan), np.full((K, 2), np.nan)


def corrected_form(gram: np.ndarray, nu: int, P: int, counts: np.ndarray) -> np.ndarray:
    """(nu - P - 1) / n G_hat - P Psi, unbiased for G under Gaussian deviations. (C, C), or (..., C, C)"""
    return (nu - P - 1) / counts.sum() * gram - P * mean_noise(counts)


def mean_noise(counts: np.ndarray) -> np.ndarray:
    """Psi = diag(1 / n_c) - 1 1^T / n: the covariance of centred class means, in units of Sigma. (C, C)"""
    return np.diag(1 / counts) - 1 / counts.sum()


def _held_out(rows: LeaveOneOutRows, nu: int, P: int, counts: np.ndarray) -> np.ndarray:
    """omega_j^2 (K,), descending, by what linear readouts do on the examples they were made without.

    Along an eigenvector v of T, T_v = a G_v and Q_v = a^2 c (G_v + P Psi_v): a, how much larger the fitted inverse is in the
    direction of the signal, is solved for; c = (nu' - 1) (nu' - P - 1) / ((nu' - P) (nu' - P - 3)), nu' = nu - 1, is what fitting
    the direction costs (moments of the inverse Wishart matrix).
    """
    T, Q = (_centred(form, counts) for form in left_out_readout(rows, counts))
    signal, V = _kernel_free(T, counts)
    noise = np.einsum("ab,ak,bk->k", Q, V, V)
    of_means = P * np.einsum("ab,ak,bk->k", mean_noise(counts), V, V)
    m = nu - 1
    cost = (m - 1) * (m - P - 1) / ((m - P) * (m - P - 3))
    share = noise / cost
    a = 2 * share / (signal + np.sqrt(signal**2 + 4 * of_means * share))
    values = np.where((signal > 0) & (share > 0), signal / np.where(share > 0, a, 1), 0)
    return np.sort(values)[::-1]


def _quantile() -> float:
    from scipy.special import ndtri

    return float(ndtri((1 + LEVEL) / 2))


def _centred(T: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(I - 1 pi^T) T (I - pi 1^T), symmetric."""
    pi = counts / counts.sum()
    T = T - pi @ T
    T = T - (T @ pi)[..., None]
    return (T + T.swapaxes(-1, -2)) / 2


def _influence(form: np.ndarray, rows: LeaveOneOutRows, nu: int, P: int, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log omega_j of the corrected form with example i left out, less that with all, (n, K), and the jackknife's standard
    deviation of omega_j^2 (K,); both to first order in the change of the form."""
    values, V = _kernel_free(form, counts)
    n = counts.sum()
    forms = left_out_forms(rows, counts, V)
    full = np.einsum("ab,ak,bk->k", rows.gram / n, V, V)
    size = counts[rows.labels]
    # Psi without example i, along V: only 1 / n_c and 1 / n change
    noise = (1 / (size - 1) - 1 / size)[:, None] * V[rows.labels] ** 2 - (1 / (n - 1) - 1 / n) * V.sum(0) ** 2
    changes = (nu - P - 2) * forms - (nu - P - 1) * full - P * noise
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(values > 0, changes / (2 * values), np.nan)
    return logs, changes.std(0) * (n - 1) / n**0.5


def _kernel_free(form: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (K,) descending and vectors (C, K) of a form whose kernel holds pi, found on its complement."""
    basis = np.linalg.svd((counts / counts.sum())[None, :])[2][1:].T
    values, E = np.linalg.eigh(basis.T @ form @ basis)
    return values[::-1], (basis @ E)[:, ::-1]


def _bootstrap(
    form: np.ndarray, gram: np.ndarray, nu: int, P: int, counts: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """omega (K,) without the bias of sorted eigenvalues, and intervals (K, 2), by drawing G_hat from the fitted population.

    The pivot is an eigenvalue in sample over what it is expected to be, positive whatever the signal. Where nothing is left
    once the noise of the means is subtracted, that ratio would make signal of noise: there the difference of the two counts.
    Among similar omega_j the smallest in sample is too small, and what is given for it may be above it.
    """
    values, V = _kernel_free(form, counts)
    only_noise, values = values <= 0, np.clip(values, 0, None)
    noise = P * np.einsum("ab,ak,bk->k", mean_noise(counts), V, V)
    draws = draw_forms((V * values) @ V.T, nu, P, counts, DRAWS, rng)
    basis = np.linalg.svd((counts / counts.sum())[None, :])[2][1:].T
    drawn = np.linalg.eigvalsh(basis.T @ draws @ basis)[:, ::-1] * (nu - P - 1) / counts.sum()
    seen = np.linalg.eigvalsh(basis.T @ gram @ basis)[::-1] * (nu - P - 1) / counts.sum()
    ratio = drawn[:, :P] / (values + noise)[:P]
    low, high = np.quantile(ratio, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    replicates = np.zeros((3, len(values)))
    replicates[:, :P] = seen[:P] / np.stack([ratio.mean(0), high, low]) - noise[:P]
    difference = np.clip(seen - drawn.mean(0) + values, replicates[1], replicates[2])
    replicates[0] = np.where(only_noise, difference, replicates[0])
    unbiased, *interval = np.sqrt(np.clip(replicates, 0, None))
    return unbiased, np.stack(interval, 1)


def draw_forms(form: np.ndarray, nu: int, P: int, counts: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """G_hat (draws, C, C) of Gaussian samples of a population with form G, at the cost of K x K matrices, K = C - 1.

    In coordinates of unit noise B^T B is a non-central Wishart matrix, and (B^T A^{-1} B)^{-1} given it a Wishart matrix with
    nu - P + K degrees of freedom.
    """
    from scipy.stats import wishart

    n, C = counts.sum(), len(counts)
    values, E = np.linalg.eigh(mean_noise(counts))
    L = E[:, 1:] * np.sqrt(values[1:])  # mean_noise = L L^T; its kernel is pi's
    K = C - 1
    inverse = E[:, 1:] / np.sqrt(values[1:])
    omega2, U = np.linalg.eigh(inverse.T @ form @ inverse)
    mean = np.zeros((max(P, K), K))
    mean[:K] = np.sqrt(np.clip(omega2, 0, None))[:, None] * U.T
    rows = P if P < 3 * K else 2 * K  # the rest is a central Wishart matrix, which needs K degrees of freedom
    B = mean[:rows] + rng.standard_normal((draws, rows, K))
    if rows < P:
        rest = wishart.rvs(P - rows, np.eye(K), size=draws, random_state=rng).reshape(draws, K, K)
        B = np.concatenate([B, np.linalg.cholesky(rest).mT], 1)
    if P < K:
        A = wishart.rvs(nu, np.eye(P), size=draws, random_state=rng).reshape(draws, P, P)
        inner = B.swapaxes(-1, -2) @ np.linalg.solve(A, B)
    else:
        R = np.asarray(np.linalg.qr(B, mode="r"))  # B^T B would have lost small values beside large ones
        Q = (R * np.sign(np.diagonal(R, axis1=1, axis2=2))[..., None]).mT
        inner = Q @ np.linalg.solve(wishart.rvs(nu - P + K, np.eye(K), size=draws, random_state=rng).reshape(draws, K, K), Q.mT)
    return n * (L @ inner @ L.T)


def shortfall(stats: ClassStatistics[Array], whole: Discrimination, precision: float) -> float:
    """Mean log of corrected omega of a sketch over that of one half as wide; NaN where either has too few data.

    stats, whole   of the sketch; precision: the machine epsilon of the features
    """
    half = discrimination(halved(stats), precision)
    logs = []
    for form in (whole, half):
        nu = degrees_of_freedom(form)
        omega = form_omega(corrected_form(form.gram, nu, form.rank, form.counts)) if nu > form.rank + 3 else np.zeros(form.C - 1)
        with np.errstate(divide="ignore"):
            logs.append(float(np.log(omega).mean()))
    return logs[0] - logs[1] if np.isfinite(logs).all() else float("nan")
