"""The columns of X that one process of several holds, in class blocks: the layout that sums over those of all processes.

Class sums (P, C), products of columns (P, P) and squared norms are added over the processes; no column is sent. Whatever is
computed from such sums is the same in every bit in all of them, so that they take the same steps and the same branches.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from manifolds.class_centering import ClassLayout
from manifolds.linalg import Array, ArrayT
from manifolds.representation import short_repr
from ufm.arrays import as_numpy
from ufm.distributed import Processes
from ufm.features.sharded import triangular_factor


@dataclass(frozen=True, repr=False)
class ColumnShare(ClassLayout):
    """`sizes`, `n` and `priors` are of the columns of all processes of the `group`; `held` of every class are in this process.

    The class means, `renormalize`, `constraint_residual`, the steps that form no gradient on the manifold, and the fields of
    `ufm.tensor` are those of all columns; every process calls them together. numpy alone.
    """

    held: tuple[int, ...]
    group: Processes
    __repr__ = short_repr
    shared = True

    @property
    def columns(self) -> int:
        """The columns at hand."""
        return sum(self.held)

    @property
    def labels(self) -> np.ndarray:
        """Class of every column at hand. (columns,)"""
        return np.repeat(np.arange(self.C), self.held)

    @cached_property
    def _classes(self) -> np.ndarray:
        """The classes of which a column is at hand."""
        return np.flatnonzero(self.held)

    @cached_property
    def _starts(self) -> np.ndarray:
        """The first column of each of those classes."""
        return np.cumsum((0, *self.held[:-1]))[self._classes]

    def summed(self, S: ArrayT) -> ArrayT:
        """A sum over the columns at hand, over those of all processes; in the dtype of S."""
        values: Any = as_numpy(S)
        return self.group.sum(values.astype(np.float64, copy=False)).astype(values.dtype, copy=False)  # type: ignore[return-value]

    def gathered(self, D: ArrayT) -> ArrayT:
        """L (P, P), lower triangular, with L L^T = D D^T over the columns of all processes, by QR."""
        columns: Any = as_numpy(D)
        P = columns.shape[-2]
        mine = triangular_factor(np.zeros((P, P)), columns.mT.astype(np.float64, copy=False))
        return self.group.combined(mine, triangular_factor).mT.astype(columns.dtype, copy=False)  # type: ignore[return-value]

    def means(self, X: ArrayT) -> ArrayT:
        """Class means over the columns of all processes. (..., P, columns) -> (..., P, C)"""
        self.check_columns(X)
        columns: Any = as_numpy(X)
        sums: Any = np.zeros((*columns.shape[:-1], self.C), dtype=columns.dtype)
        if len(self._classes):
            sums[..., self._classes] = np.add.reduceat(columns, self._starts, -1)
        return self.per_class(self.summed(sums))

    def spread(self, M: ArrayT) -> ArrayT:
        """M Y of the columns at hand. (..., P, C) -> (..., P, columns)"""
        repeated: Any = np.repeat(as_numpy(M), self.held, axis=-1)
        return repeated

    def deviations_and_means(self, X: ArrayT) -> tuple[ArrayT, ArrayT]:
        """D of the columns at hand and M. (..., P, columns), (..., P, C)"""
        M = self.means(X)
        return X - self.spread(M), M

    def add_to_means(self, X: ArrayT, dM: ArrayT) -> ArrayT:
        """X + dM Y written into X itself. X (..., P, columns), dM (..., P, C)"""
        self.check_columns(X)
        start = 0
        for c, size in enumerate(self.held):
            X[..., start : start + size] += dM[..., c : c + 1]
            start += size
        return X

    def check_columns(self, X: Array) -> None:
        """Raise ValueError where X (..., P, columns) has another number of columns than this process holds."""
        if X.shape[-1] != self.columns:
            raise ValueError(f"X has {X.shape[-1]} columns, but this process holds {self.columns} of the {self.n}")
