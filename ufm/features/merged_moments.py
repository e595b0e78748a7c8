"""What class statistics are merged from: counts, means and centred scatter; never a sum of squares, which would cancel."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from manifolds.linalg import Array, ArrayT, array_like, gram, namespace
from manifolds.representation import short_repr
from ufm.arrays import as_numpy
from ufm.distributed import Processes


@dataclass(frozen=True, repr=False)
class ClassMoments:
    """What merges: counts (C,), class means twice (C, P), pooled scatter (P, P), class scatters (C,).

    A mean is the sum of a point `near` it and `rest`: rounding is that of the spread of a class, however far it lies.
    """

    counts: Array
    near: Array
    rest: Array
    scatter: Array
    class_scatter: Array
    __repr__ = short_repr

    def merged(self, other: "ClassMoments") -> "ClassMoments":
        """The moments of both, by the formulas of Chan, Golub & LeVeque (1983)."""
        xp, seen = namespace(self.counts), (self.counts > 0)[:, None]
        total = xp.clip(self.counts + other.counts, min=1.0)
        delta = (other.near - self.near) + (other.rest - self.rest)
        weight = self.counts * other.counts / total
        return ClassMoments(
            self.counts + other.counts,
            xp.where(seen, self.near, other.near),
            xp.where(seen, self.rest + delta * (other.counts / total)[:, None], other.rest),
            self.scatter + other.scatter + (delta * weight[:, None]).mT @ delta,
            self.class_scatter + other.class_scatter + weight * (delta * delta).sum(-1),
        )

    @property
    def parts(self) -> tuple[Array, ...]:
        """The arrays, in the order of their names above."""
        return tuple(getattr(self, part.name) for part in fields(self))

    def packed(self) -> np.ndarray:
        """All of it as one float64 vector on the CPU. (C + 2 C P + P^2 + C,)"""
        return np.concatenate([as_numpy(part).ravel() for part in self.parts])

    @classmethod
    def unpacked(cls, values: np.ndarray, C: int, P: int) -> "ClassMoments":
        """The moments that `packed` made a vector of."""
        shapes = ((C,), (C, P), (C, P), (P, P), (C,))
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
        pieces = np.split(values, ends[:-1])
        return cls(*(piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)))


def merged_over(group: Processes, own: ClassMoments | None, C: int, like: Array) -> ClassMoments | None:
    """The moments of all processes, None for one that has seen nothing; merged in float64 up a tree in the order of the ranks.

    All processes get the same bits, in the library and on the device of `like`, and None where nobody has seen anything. Raises
    ValueError, in every process, where P differs.
    """
    P = 0 if own is None else own.near.shape[1]
    widest = -int(group.smallest(np.array([-P]))[0])
    others = int(group.sum(np.array([int(P not in (0, widest))]))[0])
    if others:
        raise ValueError(f"{others} of {group.size} processes have features of another P than {widest}: all must have the same P")
    if not widest:
        return None
    size = 2 * C + 2 * C * widest + widest**2
    # nothing seen is all zeros: counts of 0 carry no weight
    values = np.zeros(size) if own is None else own.packed()

    def combine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return ClassMoments.unpacked(one, C, widest).merged(ClassMoments.unpacked(other, C, widest)).packed()

    whole = ClassMoments.unpacked(group.combined(values, combine), C, widest)
    return ClassMoments(*(array_like(part, like) for part in whole.parts))


def class_moments_of(H: Array, labels: Array, C: int) -> ClassMoments:
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
    return ClassMoments(counts, near, rest, gram(H.mT), squares)


def _zeros(like: ArrayT, *shape: int) -> ArrayT:
    return namespace(like).zeros(shape, dtype=like.dtype, device=like.device)


def _class_sums(values: Any, labels: Array, order: Array, present: Array, sizes: Array) -> Any:
    """Sums of values (n, ...) over the classes that are present, `order` sorting the labels. (K, ...)"""
    if namespace(values) is np:
        return np.add.reduceat(values[order], (np.cumsum(sizes) - sizes)[present], 0)
    return _zeros(values, len(sizes), *values.shape[1:]).index_add(0, labels, values)[present]
