"""Class statistics of every epoch that the runs of the controls are seen with, where the true model determines them."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.integrate import solve_ivp

from manifolds.linalg import root_of_spectrum
from manifolds.representation import short_repr
from ufm.compare.coordinates import Entry
from ufm.compare.implied import SeenStatistics, seen_statistics
from ufm.compare.models import KERNEL, PLAIN
from ufm.laws.singular_value_dynamics import EMBEDDED, RENORMALIZED

RELATIVE_ERROR = 1e-9  # of the class means that are followed, in relation to themselves


class NoisyCase(Protocol):
    """What the features of a case depend on beside its start."""

    @property
    def model(self) -> str:
        """The name of the model that moves the features."""
        ...

    @property
    def noise(self) -> float:
        """Relative error of every log omega."""
        ...

    @property
    def rho(self) -> float:
        """Correlation of the errors of one epoch and the next."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class TrueRun:
    """How a run of a case really moves and is seen: its start, the parameter of its model, the flow time (T,) of every epoch, and
    Y as it is seen (T, K, K) in its frame (C, K).
    """

    entry: Entry
    parameter: float | None
    times: np.ndarray
    Y: np.ndarray
    frame: np.ndarray
    __repr__ = short_repr


def features_seen(case: NoisyCase, run: TrueRun, rng: np.random.Generator) -> SeenStatistics | None:
    """What a name is held against, None for a model that says nothing of it (`joint`, `layer`).

    Sigma_W of every epoch has errors R exp(2 noise E) R^T, Sigma_W = R R^T, with E of `symmetric_noise` as that of omega; the
    class means, of the true directions, are those with the SNR seen.
    """
    entries = entries_seen(case, run, rng)
    return None if entries is None else seen_statistics(entries)


def entries_seen(case: NoisyCase, run: TrueRun, rng: np.random.Generator) -> list[Entry] | None:
    """The class statistics of every epoch, None for `joint` and `layer`."""
    true = true_statistics(case.model, run)
    if true is None:
        return None
    q, entries = np.sqrt(run.entry.priors), list[Entry]()
    errors = exponential(2 * case.noise * symmetric_noise(len(run.times), len(run.entry.M), case.rho, rng))
    for (S, sigma), error, Y in zip(true, errors, run.Y, strict=True):
        root = root_of_spectrum(*np.linalg.eigh(sigma))
        sigma = np.linalg.inv(root) @ error @ np.linalg.inv(root)
        values, E = np.linalg.eigh((sigma + sigma.T) / 2)
        U, _, Vt = np.linalg.svd(root_of_spectrum(values, E) @ S @ run.frame, full_matrices=False)
        seen = (E * np.sqrt(values)) @ E.T @ (U @ Vt) @ exponential(Y) @ run.frame.T
        entries.append(Entry(run.entry.counts, seen / q, (E * values) @ E.T))
    return entries


def true_statistics(model: str, run: TrueRun) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """S = M diag(q) up to a symmetric factor on its right, and Sigma_W, at every epoch, without errors.

    Sigma_W stands still under `renormalized` and `embedded`, whose class means keep the directions of the start; under
    `unnormalized` and `kernel` it is A - S S^T / r, dS/dt = r A^{-1} S X as in `ufm.compare.unnormalized_motion`.
    """
    entry, q = run.entry, np.sqrt(run.entry.priors)
    S0 = entry.M * q
    if model in (RENORMALIZED.name, EMBEDDED.name):
        return [(S0, entry.sigma_w)] * len(run.times)
    if model not in (PLAIN, KERNEL):
        return None
    r = 1.0 if run.parameter is None else run.parameter
    A, one = entry.sigma_w + S0 @ S0.T / r, np.eye(len(q))
    inverse, J = np.linalg.inv(A), one - np.outer(q, q)

    def velocity(_: float, flat: np.ndarray) -> np.ndarray:
        S = flat.reshape(S0.shape)
        N = S.T @ inverse @ S
        Q = np.linalg.inv(one + (1 - 1 / r) * N)
        return (r * inverse @ S @ J @ Q @ (q[:, None] ** 2 * J) @ (one - N / r) @ Q).ravel()

    solved = solve_ivp(
        velocity, (0, run.times[-1]), S0.ravel(), "DOP853", run.times, rtol=RELATIVE_ERROR, atol=RELATIVE_ERROR * abs(S0).max()
    )
    assert solved.success, solved.message
    return [(S, A - S @ S.T / r) for S in solved.y.T.reshape(-1, *S0.shape)]


def symmetric_noise(T: int, K: int, rho: float, rng: np.random.Generator) -> np.ndarray:
    """AR(1) symmetric matrices with a standard deviation of 1 on the diagonal and sqrt(1 / K) off it. (T, K, K)"""
    E = rng.standard_normal((T, K, K))
    E = (E + E.swapaxes(1, 2)) / 2 * np.where(np.eye(K) > 0, 1, np.sqrt(2 / K))
    for t in range(1, T):
        E[t] = rho * E[t - 1] + np.sqrt(1 - rho**2) * E[t]
    return E


def exponential(Y: np.ndarray) -> np.ndarray:
    """exp of symmetric matrices (..., K, K)."""
    values, vectors = np.linalg.eigh(Y)
    return (vectors * np.exp(values)[..., None, :]) @ vectors.swapaxes(-1, -2)
