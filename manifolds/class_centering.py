"""The class-centering operator C_M of Eq. 22, never as an n x n matrix: the columns of X (..., P, n) in blocks of a class."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from manifolds.array import Array, ArrayT, ClassColumns, Columns, Labels, PerClass
from manifolds.linalg import RankDeficient, array_like, namespace
from manifolds.local_columns import LocalColumns
from manifolds.representation import short_repr


def whole_number(value: object, what: str) -> int:
    """`value` as an int. Raises ValueError where it is none: a float, even a whole one, is more often a mistake than a size."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(f"{what} is {value!r}: a whole number is needed") from None


@dataclass(frozen=True, repr=False)
class ClassLayout(LocalColumns):
    """Sizes n_1..n_C of the class blocks of a feature matrix X (..., P, n), n = sum n_c, columns in class order.

    With Y the one-hot labels (C, n), `means` is X Y^T diag(1/n_c), `spread` is M Y, and C_M = (I - class averaging) / n
    is the paper's class-centering operator (Eq. 22), positive semi-definite of rank n - C.
    Raises ValueError for fewer than 2 classes or an empty class.
    """

    sizes: tuple[int, ...]
    __repr__ = short_repr

    def __post_init__(self) -> None:
        given = self.sizes if hasattr(self.sizes, "__iter__") else ()
        sizes = tuple(whole_number(size, f"the size of class {c}") for c, size in enumerate(given))
        if len(sizes) < 2:
            raise ValueError(f"C = {len(sizes)} class in {self.sizes!r}: collapse needs at least C = 2 classes; give all sizes")
        if min(sizes) < 1:
            raise ValueError(f"class {sizes.index(min(sizes))} has {min(sizes)} examples: every class needs at least one")
        object.__setattr__(self, "sizes", sizes)

    @classmethod
    def equal(cls, C: int, N: int) -> "ClassLayout":
        """C classes of N examples each."""
        C, N = whole_number(C, "C"), whole_number(N, "N")
        if C < 2 or N < 1:
            raise ValueError(f"C = {C}, N = {N}: collapse needs C = 2 classes at least, and every class an example")
        return cls((N,) * C)

    @classmethod
    def of_labels(cls, labels: Sequence[int] | Labels[np.ndarray]) -> "ClassLayout":
        """The layout of columns whose classes are `labels` (n,), 0..C-1 in class blocks.

        Raises ValueError for other labels, for a class that is missing, and for the first column out of order, with the way out.
        """
        classes = np.asarray(labels)
        steps = np.diff(classes.astype(np.int64)) if classes.dtype.kind in "iu" else np.full(1, 2)
        if classes.ndim != 1 or classes.size == 0 or classes[0] != 0 or (steps > 1).any():
            what = f"labels of shape {classes.shape} and {classes.dtype} must be a sequence of whole numbers"
            raise ValueError(f"{what} that starts at class 0 and leaves no class out")
        if (steps < 0).any():
            column = int(np.argmax(steps < 0)) + 1
            raise ValueError(
                f"column {column} has class {classes[column]} after class {classes[column - 1]}: columns must stand in class "
                "blocks; take X[:, order] and labels[order] with order = numpy.argsort(labels, kind='stable')"
            )
        return cls(tuple(np.bincount(classes).tolist()))

    @cached_property
    def C(self) -> int:
        """Number of classes."""
        return len(self.sizes)

    @cached_property
    def n(self) -> int:
        """Number of examples, sum of the class sizes."""
        return sum(self.sizes)

    @cached_property
    def balanced(self) -> bool:
        """Whether all classes have the same size."""
        return min(self.sizes) == max(self.sizes)

    @cached_property
    def _starts(self) -> np.ndarray:
        """The first column of every class. (C,)"""
        return np.cumsum((0, *self.sizes[:-1]))

    @cached_property
    def N(self) -> int:
        """Examples a class; raises ValueError where the sizes differ."""
        if not self.balanced:
            raise ValueError(
                f"class sizes differ ({min(self.sizes)} to {max(self.sizes)}): this needs equal classes; "
                f"subsample every class to {min(self.sizes)}"
            )
        return self.sizes[0]

    @property
    def priors(self) -> PerClass[np.ndarray]:
        """pi_c = n_c / n. (C,)"""
        return np.asarray(self.sizes, dtype=np.float64) / self.n

    @property
    def labels(self) -> Labels[np.ndarray]:
        """Class of every column. (n,)"""
        return np.repeat(np.arange(self.C), self.sizes)

    def means(self, X: Columns[ArrayT]) -> ClassColumns[ArrayT]:
        """Class means. (..., P, n) -> (..., P, C)"""
        self.check_columns(X)
        if isinstance(X, np.ndarray):
            sums: Any = np.add.reduceat(X, self._starts, -1)
            return self.per_class(sums)
        if self.balanced:
            return X.reshape(*X.shape[:-1], self.C, self.N).mean(-1)
        xp = namespace(X)
        return xp.stack([block.mean(-1) for block in xp.split(X, self.sizes, dim=-1)], -1)

    def spread(self, M: ClassColumns[ArrayT]) -> Columns[ArrayT]:
        """M Y: the class means repeated over their examples. (..., P, C) -> (..., P, n)"""
        xp = namespace(M)
        if isinstance(M, np.ndarray):
            return xp.repeat(M, self.sizes, axis=-1)
        if self.balanced:
            return M[..., None].expand(*M.shape, self.N).reshape(*M.shape[:-1], self.n)
        return xp.cat([M[..., c : c + 1].expand(*M.shape[:-1], size) for c, size in enumerate(self.sizes)], -1)

    @property
    def columns(self) -> int:
        """n, the columns of X: of C_M as a `manifolds.forms.SemidefiniteForm`."""
        return self.n

    @property
    def rank(self) -> int:
        """n - C, the rank of C_M."""
        return self.n - self.C

    @property
    def factors(self) -> int:
        """n, the columns of the factor sqrt(n) C_M of C_M."""
        return self.n

    @property
    def scale(self) -> float:
        """n, which makes the metric of that form the Frobenius one."""
        return float(self.n)

    def apply(self, X: Columns[ArrayT]) -> Columns[ArrayT]:
        """X C_M = D / n. (..., P, n)"""
        return self.deviations(X) / self.n

    def range_coordinates(self, X: Columns[ArrayT]) -> Columns[ArrayT]:
        """D / sqrt(n). (..., P, n) -> (..., P, n)"""
        return self.deviations(X) / self.n**0.5

    def kernel_coordinates(self, X: Columns[ArrayT]) -> ClassColumns[ArrayT]:
        """M diag(sqrt(n_c)). (..., P, n) -> (..., P, C)"""
        return self.rest_coordinates(X)

    def combine(self, F: Columns[ArrayT], K: ClassColumns[ArrayT]) -> Columns[ArrayT]:
        """sqrt(n) F + K diag(1 / sqrt(n_c)) Y. (..., P, n), (..., P, C) -> (..., P, n)"""
        D, sizes = F * self.n**0.5, self._class_sizes(K)
        return self.deviations(D) + self.spread(K / sizes**0.5)

    def range_gradient(self, E: Columns[ArrayT]) -> Columns[ArrayT]:
        """sqrt(n) times the deviations of E. (..., P, n) -> (..., P, n)"""
        return self.deviations(E) * self.n**0.5

    def rest(self, X: Columns[ArrayT]) -> Columns[ArrayT]:
        """X_M = M Y, the class means repeated. (..., P, n) -> (..., P, n)"""
        return self.spread(self.means(X))

    def rest_coordinates(self, X: Columns[ArrayT]) -> ClassColumns[ArrayT]:
        """M diag(sqrt(n_c)). (..., P, n) -> (..., P, C)"""
        return self._weighted(self.means(X))

    def parts(self, X: Columns[ArrayT]) -> tuple[Columns[ArrayT], ClassColumns[ArrayT]]:
        """D and M diag(sqrt(n_c)), for one look at the means. (..., P, n), (..., P, C)"""
        D, M = self.deviations_and_means(X)
        return D, self._weighted(M)

    def deviations_and_means(self, X: Columns[ArrayT]) -> tuple[Columns[ArrayT], ClassColumns[ArrayT]]:
        """D and M, for one look at the means. (..., P, n), (..., P, C)"""
        M = self.means(X)
        if self.balanced:
            return (X.reshape((*X.shape[:-1], self.C, self.N)) - M[..., None]).reshape(X.shape), M
        return X - self.spread(M), M

    def _weighted(self, M: ArrayT) -> ArrayT:
        return M * (self.N**0.5 if self.balanced else namespace(M).sqrt(self._class_sizes(M)))

    def sums(self, X: Columns[ArrayT]) -> ClassColumns[ArrayT]:
        """X Y^T, the class sums. (..., P, n) -> (..., P, C)"""
        return self.total(self.means(X))

    def total(self, M: ClassColumns[ArrayT]) -> ClassColumns[ArrayT]:
        """Class sums from class means. (..., P, C) -> (..., P, C)"""
        return M * self._class_sizes(M)

    def per_class(self, sums: ClassColumns[ArrayT]) -> ClassColumns[ArrayT]:
        """Class means from class sums. (..., P, C) -> (..., P, C)"""
        return sums / self._class_sizes(sums)

    def _class_sizes(self, X: ArrayT) -> ArrayT | int:
        """n_c as a number, or with the dtype and device of X. (C,)"""
        return self.N if self.balanced else array_like(self.sizes, X)

    def deviations(self, X: Columns[ArrayT]) -> Columns[ArrayT]:
        """D = X - M Y = n X C_M. (..., P, n) -> (..., P, n)"""
        return self.deviations_and_means(X)[0]

    def add_to_means(self, X: Columns[ArrayT], dM: ClassColumns[ArrayT]) -> Columns[ArrayT]:
        """X + dM Y written into X itself: one read and one write of X, no second X. X (..., P, n), dM (..., P, C)"""
        self.check_columns(X)
        if self.balanced:
            array: Any = X
            shape = (*X.shape[:-1], self.C, self.N)
            blocks = array.reshape(shape) if namespace(X) is np else array.view(shape)
            blocks += dM[..., None]
            return X
        for c, (start, size) in enumerate(zip(self._starts.tolist(), self.sizes, strict=True)):
            X[..., start : start + size] += dM[..., c : c + 1]
        return X

    def with_means(self, D: Columns[ArrayT], dM: ClassColumns[ArrayT]) -> Columns[ArrayT]:
        """D + dM Y for a D of the caller's own, written into D unless torch is recording for a derivative. D (..., P, n)"""
        in_place = namespace(D) is np or not namespace(D).is_grad_enabled()
        return self.add_to_means(D, dM) if in_place else D + self.spread(dM)

    def check_rank(self, P: int) -> None:
        """Raise ValueError where Sigma_W of P features cannot have full rank: n - C < P; and for P < 1."""
        if P < 1:
            raise ValueError(f"P = {P} features: at least one is needed")
        if self.n - self.C < P:
            what = f"C(N-1) = {self.n - self.C}" if self.balanced else f"n - C = {self.n - self.C}"
            raise RankDeficient(
                f"{what} < P = {P}: Sigma_W is singular and the manifold is empty; use at least {-(-(P + self.C) // self.C)} "
                "examples a class, fewer features, or the reduction to the range of Sigma_W"
            )

    def check_columns(self, X: Columns[Array]) -> None:
        """Raise ValueError where X (..., P, n) has another number of columns than the layout."""
        if X.shape[-1] != self.n:
            raise ValueError(f"X has {X.shape[-1]} columns but the class sizes sum to {self.n}: X is (..., P, n) in class blocks")
