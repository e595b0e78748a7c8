"""Class statistics of features: the common input of every loss and measure; streaming, mergeable, accumulated in float64."""

import operator
from dataclasses import dataclass, field
from typing import Any, Generic

from manifolds.class_centering import ClassLayout
from manifolds.linalg import Array, ArrayT, ArrayT_co, array_like, detached, gram, namespace
from manifolds.representation import short_repr
from ufm.arrays import (
    ClassMeans,
    Covariance,
    FeatureMatrix,
    FeatureVector,
    Labels,
    PerClass,
    Rows,
    check_integers,
    check_real,
    check_scale,
)
from ufm.distributed import Processes
from ufm.features.merged_moments import ClassMoments, class_moments_of, merged_over

CHUNK = 2048  # rows gathered in float64 before they cost a product of P x P: far above C, so that merging costs nothing beside it


@dataclass(frozen=True, repr=False)
class ClassStatistics(Generic[ArrayT_co]):
    """Counts n_c (C,), class means (P, C), Sigma_W (P, P) and within-class variances s_c^2 = Ave_i ||h_ic - mu_c||^2 (C,).

    With priors pi_c = n_c / n, so that for any class sizes Sigma_T = Sigma_W + Sigma_B and the loss decomposition is exact.
    `rounding` (P, C) is what the means lost when they were rounded: far from the origin, most digits of their differences.
    """

    counts: PerClass[ArrayT_co]
    means: ClassMeans[ArrayT_co]
    sigma_w: Covariance[ArrayT_co]
    class_variances: PerClass[ArrayT_co]
    rounding: ClassMeans[ArrayT_co] | None = field(default=None, repr=False)
    __repr__ = short_repr

    @property
    def C(self) -> int:
        """Number of classes."""
        return self.means.shape[1]

    @property
    def P(self) -> int:
        """Number of features."""
        return self.means.shape[0]

    @property
    def n(self) -> int:
        """Number of examples."""
        return round(float(self.counts.sum()))

    @property
    def priors(self) -> PerClass[ArrayT_co]:
        """pi_c = n_c / n. (C,)"""
        return self.counts / self.counts.sum()

    @property
    def global_mean(self) -> FeatureVector[ArrayT_co]:
        """mu_G = sum_c pi_c mu_c, the mean over examples. (P,)"""
        return self.means @ self.priors

    @property
    def centred_means(self) -> ClassMeans[ArrayT_co]:
        """mu_c - mu_G, to rounding of the spread of the means. (P, C)"""
        M = self.means - self.means[:, :1]
        if self.rounding is not None:
            M = M + (self.rounding - self.rounding[:, :1])
        return M - (M @ self.priors)[:, None]

    @property
    def sigma_b(self) -> Covariance[ArrayT_co]:
        """Sigma_B = sum_c pi_c (mu_c - mu_G)(mu_c - mu_G)^T. (P, P)"""
        M = self.centred_means
        return (M * self.priors) @ M.mT

    @property
    def sigma_t(self) -> Covariance[ArrayT_co]:
        """Sigma_T = Sigma_W + Sigma_B. (P, P)"""
        return self.sigma_w + self.sigma_b


class StreamingStatistics:
    """Class statistics in one pass: `update` with batches, `merge` with another stream, `compute` at any time.

    No digits cancel, however small Sigma_W is compared with the means; memory is P^2 + P C and `CHUNK` buffered rows,
    whatever the
    number of examples. numpy, or torch on the device of the batches.
    """

    def __init__(self, C: int) -> None:
        self.C = operator.index(C)  # a count, not 2.9
        if C < 2:
            raise ValueError(f"C = {C}: collapse needs at least C = 2 classes")
        self._seen: ClassMoments | None = None
        self._rows: Any = None
        self._labels: Any = None
        self._waiting = 0

    def update(self, features: Rows[Array], labels: Labels[Array]) -> "StreamingStatistics":
        """Add a batch: features (b, P) of any float dtype, labels (b,) integers in 0..C-1. Returns self.

        Raises ValueError, and adds nothing, for mismatched shapes, labels that are no integers or out of range, features that
        are not floating point, NaN, infinite, or so large or small that their powers overflow or vanish.
        """
        self._check(features, labels)
        if self._rows is None:
            self._rows, self._labels = _buffer_for_chunk(features, labels)
        taken = 0
        while taken < len(labels):
            step = min(len(labels) - taken, CHUNK - self._waiting)
            into, out_of = slice(self._waiting, self._waiting + step), slice(taken, taken + step)
            self._rows[into], self._labels[into] = detached(features[out_of]), labels[out_of]
            taken, self._waiting = taken + step, self._waiting + step
            if self._waiting == CHUNK:
                self._take_in_waiting()
        return self

    def merge(self, other: "StreamingStatistics") -> "StreamingStatistics":
        """Add everything that another stream has seen. Returns self. Raises ValueError where C or P differ."""
        if other.C != self.C:
            raise ValueError(f"streams of {self.C} and {other.C} classes cannot be merged")
        other._take_in_waiting()
        if other._seen is not None:
            self._check_features(other._seen.near.shape[1])
            self._take_in(other._seen)
        return self

    def merge_over(self, group: Processes, like: Array) -> "StreamingStatistics":
        """Add what the streams of all processes have seen, whose number of classes is the same. Returns self.

        All have the same bits afterwards, in the library and on the device of `like` (float64). Raises ValueError, in every
        process, where P differs.
        """
        if group.size > 1:
            self._take_in_waiting()
            self._seen = merged_over(group, self._seen, self.C, like)
            self._rows = self._labels = None
        return self

    def compute(self) -> ClassStatistics[Any]:
        """The statistics of everything seen so far. Raises ValueError where a class has no example."""
        self._take_in_waiting()
        if self._seen is None:
            raise ValueError("no batch has been seen yet")
        counts, near, rest, scatter, class_scatter = self._seen.parts
        empty = [c for c, count in enumerate(counts.tolist()) if count == 0]
        if empty:
            raise ValueError(f"class {empty[0]} has no example: every one of the {self.C} classes needs one")
        means, rounding = rounded_sum(near.mT, rest.mT)
        return ClassStatistics(counts, means, scatter / counts.sum(), class_scatter / counts, rounding)

    def _check(self, features: Rows[Array], labels: Labels[Array]) -> None:
        check_real(features, "features"), check_integers(labels)
        if features.ndim != 2 or labels.ndim != 1 or len(features) != len(labels):
            shapes = f"{tuple(features.shape)} and {tuple(labels.shape)}"
            raise ValueError(f"a batch is features (b, P) and labels (b,), got shapes {shapes}")
        self._check_features(features.shape[1])
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.C:
            raise ValueError(f"labels run from {int(labels.min())} to {int(labels.max())}, outside 0..{self.C - 1}")
        check_scale(float(abs(detached(features)).max()) if len(labels) else 0.0, "features")

    def _check_features(self, P: int) -> None:
        known = self._rows if self._seen is None else self._seen.near
        if known is not None and known.shape[1] != P:
            raise ValueError(f"{P} features cannot be added to statistics of {known.shape[1]} features")

    def _take_in_waiting(self) -> None:
        if self._waiting:
            count, self._waiting = self._waiting, 0
            self._take_in(class_moments_of(self._rows[:count], self._labels[:count], self.C))

    def _take_in(self, moments: ClassMoments) -> None:
        self._seen = moments if self._seen is None else self._seen.merged(moments)


def rounded_sum(a: ArrayT, b: ArrayT) -> tuple[ArrayT, ArrayT]:
    """a + b, and what its rounding left out (Knuth, The Art of Computer Programming 2, 4.2.2)."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def _buffer_for_chunk(features: Rows[ArrayT], labels: Labels[ArrayT]) -> tuple[ArrayT, ArrayT]:
    """Empty float64 rows (CHUNK, P) and labels (CHUNK,), where the features are."""
    xp, P = namespace(features), features.shape[1]
    rows = xp.empty((CHUNK, P), dtype=xp.float64, device=features.device)
    return rows, xp.empty(CHUNK, dtype=xp.int64, device=features.device)


def statistics_of(features: Rows[ArrayT], labels: Labels[ArrayT], C: int) -> ClassStatistics[ArrayT]:
    """Class statistics of features (n, P) with labels (n,) in 0..C-1."""
    return StreamingStatistics(C).update(features, labels).compute()


def block_statistics(H: FeatureMatrix[ArrayT], layout: ClassLayout) -> ClassStatistics[ArrayT]:
    """Class statistics of features in class blocks. H (P, n)"""
    xp = namespace(H)
    H = xp.asarray(detached(H), dtype=xp.float64, device=H.device)
    D = layout.deviations(H)
    variances = layout.means((D * D).sum(-2)[None, :])[0]
    return ClassStatistics(array_like(layout.sizes, H), layout.means(H), layout.summed(gram(D)) / layout.n, variances)
