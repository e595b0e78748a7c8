"""The clock-free test: how far Phi(u_j) - Phi(u_k) drifts, against how far it would if another law held."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from manifolds.representation import short_repr
from ufm.laws.singular_value_dynamics import Law


@dataclass(frozen=True, eq=False, repr=False)
class Drift:
    """Of one law's invariants: the drift of every pair j < k, (T, pairs), measured and as each law would show it, by its name."""

    law: Law
    measured: np.ndarray
    expected: Mapping[str, np.ndarray]
    __repr__ = short_repr

    @property
    def rms(self) -> float:
        """Of the measured drift over pairs and epochs after the entry, in units of Phi."""
        return root_mean_square(self.measured)

    @property
    def share(self) -> float:
        """The measured drift over the least that another law would show: 0 where this law holds, 1 where it fails as they do."""
        others = [root_mean_square(values) for name, values in self.expected.items() if name != self.law.name]
        return self.rms / min(others) if others and min(others) > 0 else float("nan")


def drift_of(law: Law, log_omega: np.ndarray, C: int, expected: Mapping[str, np.ndarray]) -> Drift:
    """The drift of one law's invariants since the entry. log_omega (T, K) measured, and under each law at its best clock."""
    return Drift(law, _since_entry(law, log_omega, C), {name: _since_entry(law, path, C) for name, path in expected.items()})


def share_interval(drifts: list[Drift], resamples: list[np.ndarray], level: float) -> tuple[float, float]:
    """Bootstrap percentile interval of the share over resampled runs and singular values (`ufm.compare.exponent.resample`)."""
    law, names = drifts[0].law, list(drifts[0].expected)

    def mean_square(pick: str | None) -> np.ndarray:
        total: np.ndarray = np.zeros(len(resamples[0]))
        pairs = np.zeros(len(resamples[0]))
        for drift, taken in zip(drifts, resamples, strict=True):
            j, k = np.triu_indices(taken.shape[1], 1)
            weight = taken[:, j] * taken[:, k]
            values = drift.measured if pick is None else drift.expected[pick]
            total = total + weight @ (values[1:] ** 2).mean(0)
            pairs = pairs + weight.sum(1)
        return total[pairs > 0] / pairs[pairs > 0]

    measured = mean_square(None)
    others = np.min([mean_square(name) for name in names if name != law.name], axis=0)
    share = np.sqrt(measured[others > 0] / others[others > 0])
    if not len(share):
        return float("nan"), float("nan")
    low, high = np.quantile(share, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def root_mean_square(drift: np.ndarray) -> float:
    """Over all pairs, and all epochs but the entry, where the drift is 0. drift (T, pairs)"""
    return float(np.sqrt((drift[1:] ** 2).mean())) if drift.shape[1] else float("nan")


def _since_entry(law: Law, log_omega: np.ndarray, C: int) -> np.ndarray:
    """[Phi(u_j) - Phi(u_k)](t) - [Phi(u_j) - Phi(u_k)](entry), j < k. (T, K) -> (T, K (K - 1) / 2)"""
    phi = law.phi(np.exp(2 * log_omega) / C)
    first, second = np.triu_indices(phi.shape[1], 1)
    moved = phi - phi[0]
    return moved[:, first] - moved[:, second]
