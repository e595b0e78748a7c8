"""Class statistics of features: the common input of every loss and measure; streaming, mergeable, accumulated in float64."""

import operator
from dataclasses import dataclass, field, fields
from typing import Any, Generic

import numpy as np

from manifolds.layout import ClassLayout
from manifolds.linalg import Array, ArrayT, ArrayT_co, array_like, detached, gram, namespace
from manifolds.representation import short_repr
from ufm.arrays import (
    ClassMeans,
    Columns,
    Covariance,
    FeatureVector,
    Labels,
    PerClass,
    Rows,
    check_integers,
    check_real,
    check_scale,
)

CHUNK = 2048  # rows gathered in float64 before they cost a product of P x P: far above C, so that merging costs nothing beside it


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class _Moments:
    """What merges: counts (C,), class means twice (C, P), pooled scatter (P, P), class scatters (C,).

    A mean is the sum of a point `near` it and `rest`: rounding is that of the spread of a class, however far it lies.
    """

    counts: Any
    near: Any
    rest: Any
    scatter: Any
    class_scatter: Any

    def merged(self, other: "_Moments") -> "_Moments":
        """The moments of both, by the formulas of Chan, Golub & LeVeque (1983)."""
        xp, seen = namespace(self.counts), (self.counts > 0)[:, None]
        total = xp.clip(self.counts + other.counts, min=1.0)
        delta = (other.near - self.near) + (other.rest - self.rest)
        weight = self.counts * other.counts / total
        return _Moments(
            self.counts + other.counts,
            xp.where(seen, self.near, other.near),
            xp.where(seen, self.rest + delta * (other.counts / total)[:, None], other.rest),
            self.scatter + other.scatter + (delta * weight[:, None]).mT @ delta,
            self.class_scatter + other.class_scatter + weight * (delta * delta).sum(-1),
        )


class StreamingStatistics:
    """Class statistics in one pass: `update` with batches, `merge` with another stream, `compute` at any time.

    Nothing cancels however small Sigma_W is beside the means; memory is P^2 + P C and `CHUNK` waiting rows, whatever the
    number of examples. numpy, or torch on the device of the batches.
    """

    def __init__(self, C: int) -> None:
        self.C = operator.index(C)  # a count, not 2.9
        if C < 2:
            raise ValueError(f"C = {C}: collapse needs at least C = 2 classes")
        self._seen: _Moments | None = None
        self._rows: Any = None
        self._labels: Any = None
        self._waiting = 0

    def update(self, features: Rows[Array], labels: Labels[Array]) -> "StreamingStatistics":
        """Take in a batch: features (b, P) of any float dtype, labels (b,) integers in 0..C-1. Returns self.

        Raises ValueError, and takes nothing in, for mismatched shapes, labels that are no integers or out of range, features that
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
        """Take in everything that another stream has seen. Returns self. Raises ValueError where C or P differ."""
        if other.C != self.C:
            raise ValueError(f"streams of {self.C} and {other.C} classes cannot be merged")
        other._take_in_waiting()
        if other._seen is not None:
            self._check_features(other._seen.near.shape[1])
            self._take_in(other._seen)
        return self

    def compute(self) -> ClassStatistics[Any]:
        """The statistics of everything seen so far. Raises ValueError where a class has no example."""
        self._take_in_waiting()
        if self._seen is None:
            raise ValueError("no batch has been seen yet")
        counts, near, rest, scatter, class_scatter = (getattr(self._seen, f.name) for f in fields(_Moments))
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
            self._take_in(_moments_of(self._rows[:count], self._labels[:count], self.C))

    def _take_in(self, moments: _Moments) -> None:
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


def _moments_of(H: Array, labels: Array, C: int) -> _Moments:
    """The moments of float64 rows H (n, P), which become their deviations from the class means on the way."""
    xp = namespace(H)
    order = xp.argsort(labels, stable=True)
    sizes = xp.bincount(labels, minlength=C)
    present = xp.nonzero(sizes > 0)[0] if xp is np else xp.nonzero(sizes > 0)[:, 0]
    first = order[(xp.cumsum(sizes, 0) - sizes)[present]]
    counts, near, rest = array_like(sizes, H), _zeros(H, C, H.shape[1]), _zeros(H, C, H.shape[1])
    near[present] = H[first]  # one of every class, from which the others are far less far than from the origin
    H -= near[labels]
    rest[present] = _class_sums(H, labels, order, present, sizes) / counts[present][:, None]
    H -= rest[labels]
    squares = _zeros(H, C)
    squares[present] = _class_sums(xp.einsum("np,np->n", H, H), labels, order, present, sizes)
    return _Moments(counts, near, rest, gram(H.mT), squares)


def _zeros(like: ArrayT, *shape: int) -> ArrayT:
    return namespace(like).zeros(shape, dtype=like.dtype, device=like.device)


def _class_sums(values: Any, labels: Any, order: Any, present: Any, sizes: Any) -> Any:
    """Sums of values (n, ...) over the classes that are present, `order` sorting the labels. (K, ...)"""
    if namespace(values) is np:
        return np.add.reduceat(values[order], (np.cumsum(sizes) - sizes)[present], 0)
    return _zeros(values, len(sizes), *values.shape[1:]).index_add(0, labels, values)[present]


def statistics_of(features: Rows[ArrayT], labels: Labels[ArrayT], C: int) -> ClassStatistics[ArrayT]:
    """Class statistics of features (n, P) with labels (n,) in 0..C-1."""
    return StreamingStatistics(C).update(features, labels).compute()


def block_statistics(H: Columns[ArrayT], layout: ClassLayout) -> ClassStatistics[ArrayT]:
    """Class statistics of features in class blocks. H (P, n)"""
    xp = namespace(H)
    H = xp.asarray(detached(H), dtype=xp.float64, device=H.device)
    D = layout.deviations(H)
    variances = layout.means((D * D).sum(-2)[None, :])[0]
    return ClassStatistics(array_like(layout.sizes, H), layout.means(H), gram(D) / layout.n, variances)
