"""Gains of affine operations, which only rounding can make: by what it hid before them, or by what it did in them.

The features after an affine operation are A z + e, e the rounding error. For a functional w of deviation 1 after it, the
deviation of A^T w before it is at most 1 + rho, rho^2 = w^T (Ave e e^T) w, and the signal |w^T M'| at most that of A^T w plus
c rho, c = sqrt(n / min n_c). By Courant and Fischer, with the largest rho of the combinations w of the first j readouts,

    omega_j(after) <= (1 + rho) omega_j(before) + c rho.

A part of e that is itself affine in z is harmless, and is not seen by the measurement of e (`GraphTrace.walk`).
"""

from collections.abc import Sequence

import numpy as np

from manifolds.linalg import Array
from ufm.arrays import as_numpy
from ufm.features.statistics import ClassStatistics
from ufm.ledger.discrimination import Discrimination


def unresolved_by_later_rows(
    omega: np.ndarray,
    affine: Sequence[bool | None],
    dropped: np.ndarray,
    unresolved: np.ndarray,
    tolerance: np.ndarray,
    complete: Sequence[bool],
) -> np.ndarray:
    """`unresolved` (L+1,) with the dropped directions that affine operations after them bring back: no omega can grow there.

    omega      (L+1, K); affine (L,); dropped and unresolved (L+1,) directions
    tolerance  (L+1,) relative excess that is none: what a row's dtype leaves of an affine operation
    complete   (L+1,) rows that the theorem holds between
    """
    told, later = unresolved.copy(), omega[-1]
    for k in range(len(affine) - 1, -1, -1):
        if affine[k] and complete[k] and complete[k + 1]:
            excess = np.isfinite(later) & (later > omega[k] * (1 + tolerance[k + 1]))
            told[k] = max(told[k], min(int(excess.sum()), int(dropped[k])))
            later = np.maximum(later, omega[k])
        else:
            later = omega[k]
    return told


def rounding_of_readouts(
    form: Discrimination, stats: ClassStatistics[Array], errors: np.ndarray | None, precision: float
) -> np.ndarray:
    """rho_j (C - 1,): the deviation that rounding has in combinations of the first j readouts; 0 where omega_j is inf or 0.

    errors   (P, P) Ave e e^T as measured, None where it was not; what the features lose as they are stored is added:
             at most precision / 2 of each
    """
    r = form.unbounded.shape[1]
    signal = form.signal @ (np.linalg.svd(form.unbounded)[0][:, r:] if r else np.eye(form.C))
    W = as_numpy(form.whitener) @ np.linalg.svd(signal)[0][:, : form.C - 1 - r]
    squares = as_numpy(stats.sigma_w.diagonal() + (stats.means**2) @ stats.priors)
    noise = (precision / 2) ** 2 * (W.T * squares) @ W + (0 if errors is None else W.T @ errors @ W)
    rho = [np.linalg.norm(noise[:j, :j], 2) ** 0.5 for j in range(1, len(noise) + 1)]
    return np.concatenate([np.zeros(r), rho, np.zeros(form.C - 1 - r - len(rho))])


def raised_by_rounding(
    before: np.ndarray, after: np.ndarray, rho: np.ndarray, counts: np.ndarray, tolerance: float
) -> np.ndarray:
    """Which omega (K,) of an affine operation rose by more than the tolerance, and no more than its rounding can make."""
    room = (1 + rho) * before + (counts.sum() / counts.min()) ** 0.5 * rho
    return np.isfinite(after) & (after > before * (1 + tolerance)) & (after <= room)
