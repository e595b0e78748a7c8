"""Class statistics of features that lie in many files or processes: exact sums, merged; no feature is kept.

Two passes: class sums about an example of each class, then the deviations about the merged means. A third, by QR, where Sigma_W
is so ill-conditioned that P x P sums would lose its small eigenvalues. What is communicated does not grow with the examples.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from manifolds.class_centering import ClassLayout
from manifolds.representation import short_repr
from manifolds.whitening import (
    degenerate_deviation,
    infinity_norm,
    principal_deviations,
    symmetric_root,
    triangular_root,
    whiten,
    whiten_once,
)
from ufm.arrays import check_scale
from ufm.distributed import OneProcess, Processes, raised_in_all
from ufm.features.labels import check_counts
from ufm.features.snr import Snr, snr_of_whitened

Blocks = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]  # a fresh pass over features (b, P) and labels (b,)


@dataclass(frozen=True, eq=False, repr=False)
class FactoredStatistics:
    """What every law starts from: class layout, M - mu_G 1^T (P, C), and a root R (P, k) with R R^T = Sigma_W.

    Through R, not through Sigma_W, small eigenvalues keep their digits. `mean_square` is Ave ||h||^2, `mean` is mu_G (P,) and
    `precision` the eps of the dtype that the features came in.
    """

    layout: ClassLayout
    centred_means: np.ndarray
    mean: np.ndarray
    root: np.ndarray
    mean_square: float
    precision: float
    __repr__ = short_repr

    @property
    def P(self) -> int:
        """Number of features."""
        return len(self.root)

    @property
    def degenerate(self) -> float:
        """The within-class standard deviation at and below which a direction counts as empty."""
        return degenerate_deviation(self.mean_square, self.P, self.precision)

    @property
    def deviations(self) -> np.ndarray:
        """sqrt(k) R (P, k): k columns with the same Sigma_W."""
        return self.root * self.root.shape[1] ** 0.5

    def inside(self, basis: np.ndarray) -> "FactoredStatistics":
        """The statistics of basis^T h. basis (P, r)"""
        means, mean = basis.T @ self.centred_means, basis.T @ self.mean
        return FactoredStatistics(self.layout, means, mean, basis.T @ self.root, self.mean_square, self.precision)


def counts_of(labels: Iterable[np.ndarray], group: Processes | None = None, n: int | None = None) -> np.ndarray:
    """Examples of every class, over all processes. (C,) `n` is how many there are in all, where that is known.

    Raises ValueError, in every process, for negative labels, those not below n or that skip a class, fewer than two classes, and
    labels that one of them cannot read.
    """
    group = group or OneProcess()
    counts, lowest, highest = np.zeros(0, dtype=np.int64), 0, -1
    with raised_in_all(group):
        for part in labels:
            lowest, highest = min(lowest, int(part.min(initial=0))), max(highest, int(part.max(initial=-1)))
            if lowest < 0 or (n is not None and highest >= n):  # numpy would count up to a label of 1e12
                break
            more = np.bincount(part.astype(np.int64), minlength=len(counts))
            more[: len(counts)] += counts
            counts = more
    lowest, highest = (group.smallest(np.array([lowest, -highest])) * (1, -1)).tolist()
    if lowest < 0:
        raise ValueError(f"label {lowest} is negative: labels run from 0 to C-1")
    if n is not None and highest >= n:
        raise ValueError(f"label {highest} with {n} examples: labels run from 0 to C-1 and skip none")
    if highest < 0:
        raise ValueError("there is no example: at least one of each of C = 2 classes is needed")
    counts = group.sum(np.pad(counts, (0, highest + 1 - len(counts))))
    check_counts(counts)
    return counts


def factored_statistics(
    blocks: Blocks,
    layout: ClassLayout,
    P: int,
    precision: float,
    group: Processes | None = None,
    place: Callable[[int], str] = "row {}".format,
) -> FactoredStatistics:
    """The statistics of the examples of all processes, each of which passes over `blocks()` of its own two or three times.

    Raises ValueError, in every process, for features so large that their powers overflow, for entries that are NaN or infinite,
    with the `place` of the first such row of those that a process passes over, and where one of them cannot read its blocks.
    """
    group = group or OneProcess()
    near, rest, mean_square = _class_means(blocks, layout, P, group, place)
    check_scale(mean_square**0.5, "features")
    rest, S = _scatter(blocks, layout, near, rest, group)
    degenerate = degenerate_deviation(mean_square, P, precision)
    if whiten_once(S, infinity_norm(S), degenerate, triangular_root) is None:
        root = _deviation_root(blocks, layout, near, rest, group)
    else:
        root = np.linalg.cholesky(S)
    M = (near - near[:1]) + rest
    mean = M.T @ layout.priors
    return FactoredStatistics(layout, M.T - mean[:, None], near[0] + mean, root, mean_square, precision)


def restricted_to_range(statistics: FactoredStatistics) -> tuple[FactoredStatistics, np.ndarray]:
    """The statistics on the range of Sigma_W, and its orthonormal basis (P, r). Raises ValueError for Sigma_W = 0."""
    E, deviations = principal_deviations(statistics.root, 1.0)
    kept = deviations > statistics.degenerate
    if not kept.any():
        raise ValueError("Sigma_W = 0: every example equals its class mean, no direction has any variability left")
    if len(kept) == statistics.P and kept.all():
        return statistics, np.eye(statistics.P)
    basis = E[:, kept]
    return statistics.inside(basis), basis


def factored_snr(statistics: FactoredStatistics) -> Snr[np.ndarray]:
    """omega, V and U of the features behind the statistics (Definition 2). Raises ValueError for a rank-deficient Sigma_W."""
    statistics.layout.check_rank(statistics.P)
    whitening = whiten(statistics.deviations, statistics.degenerate, symmetric_root)
    return snr_of_whitened(whitening, statistics.centred_means, statistics.precision, statistics.mean_square)


def _class_means(
    blocks: Blocks, layout: ClassLayout, P: int, group: Processes, place: Callable[[int], str]
) -> tuple[np.ndarray, np.ndarray, float]:
    """An example near each class mean (C, P), the small rest of the mean (C, P), and Ave ||h||^2, of all processes."""
    C = layout.C
    near, sums, counts, squares, passed = np.zeros((C, P)), np.zeros((C, P)), np.zeros(C), 0.0, 0
    with raised_in_all(group):
        for rows, labels in blocks():
            H = np.asarray(rows, dtype=np.float64)
            if not np.isfinite(H).all():
                first_of_all = place(passed + int(np.argmin(np.isfinite(H).all(axis=1))))
                raise ValueError(f"features have NaN or infinite entries, first in {first_of_all}: leave such rows out")
            squares += float(np.einsum("np,np->", H, H))
            if not squares < np.inf:
                check_scale(float(abs(H).max()), "features")
            classes, first = np.unique(labels, return_index=True)
            new = counts[classes] == 0
            near[classes[new]] = H[first[new]]
            sums += _by_class(H - near[labels], labels, C)
            counts += np.bincount(labels, minlength=C)
            passed += len(H)
    present = counts > 0
    owner = group.smallest(np.where(present, group.rank, group.size))
    common = group.sum(np.where((owner == group.rank)[:, None], near, 0.0))
    sums = group.sum(sums + counts[:, None] * np.where(present[:, None], near - common, 0.0))
    mean_square = float(group.sum(np.array([squares]))[0]) / layout.n
    return common, sums / np.asarray(layout.sizes)[:, None], mean_square


def _scatter(
    blocks: Blocks, layout: ClassLayout, near: np.ndarray, rest: np.ndarray, group: Processes
) -> tuple[np.ndarray, np.ndarray]:
    """The rests of the means again, to the last digit, and Sigma_W (P, P), of all processes."""
    C, P = near.shape
    S, left = np.zeros((P, P)), np.zeros((C, P))
    with raised_in_all(group):
        for rows, labels in blocks():
            D = _row_deviations(rows, labels, near, rest)
            S += D.T @ D
            left += _by_class(D, labels, C)
    S, left = group.sum(S), group.sum(left) / np.asarray(layout.sizes)[:, None]
    return rest + left, S / layout.n - (left.T * layout.priors) @ left


def _deviation_root(blocks: Blocks, layout: ClassLayout, near: np.ndarray, rest: np.ndarray, group: Processes) -> np.ndarray:
    """R (P, P) lower triangular with R R^T = Sigma_W, by QR of the deviations, block after block, then process after process."""
    P = near.shape[1]
    R = np.zeros((P, P))
    with raised_in_all(group):
        for rows, labels in blocks():
            R = triangular_factor(R, _row_deviations(rows, labels, near, rest))
    return group.combined(R, triangular_factor).T / layout.n**0.5


def triangular_factor(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """R (P, P) of the QR decomposition of two blocks of rows, one on the other."""
    return np.asarray(np.linalg.qr(np.vstack([above, below]), mode="r"))


def _row_deviations(rows: np.ndarray, labels: np.ndarray, near: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """(h - near) - rest: to rounding of the spread of a class. (b, P)"""
    D = rows - near[labels]
    D -= rest[labels]
    return D


def _by_class(rows: np.ndarray, labels: np.ndarray, C: int) -> np.ndarray:
    """The sums of rows (b, P) over every class. (C, P)"""
    order = np.argsort(labels, kind="stable")
    classes, first = np.unique(labels[order], return_index=True)
    sums = np.zeros((C, rows.shape[1]))
    if len(classes):
        sums[classes] = np.add.reduceat(rows[order], first, 0)
    return sums
