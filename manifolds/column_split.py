"""The split of the columns of X into the part that enters the constraint, and the rest, which is free."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from manifolds.array import ArrayT, ClassColumns, Columns, KernelCoordinates
from manifolds.linalg import namespace
from manifolds.local_columns import LocalColumns


class Centering(Protocol):
    """A split of the columns of X (..., P, n) into deviations D and a rest X_M, orthogonal to them: X = D + X_M."""

    @property
    def n(self) -> float:
        """The scale of the constraint D D^T = n I."""
        ...

    def deviations(self, X: Columns[ArrayT]) -> Columns[ArrayT]:
        """D, the orthogonal projection of X on the centred rows. (..., P, n) -> (..., P, n)"""
        ...

    def rest(self, X: Columns[ArrayT]) -> Columns[ArrayT]:
        """X_M = X - D. (..., P, n) -> (..., P, n)"""
        ...

    def rest_coordinates(self, X: Columns[ArrayT]) -> ClassColumns[ArrayT]:
        """X_M in an orthonormal basis of its rows. (..., P, n) -> (..., P, C)"""
        ...

    def parts(self, X: Columns[ArrayT]) -> tuple[Columns[ArrayT], ClassColumns[ArrayT]]:
        """`deviations` and `rest_coordinates`. (..., P, n), (..., P, C)"""
        ...


class MeanSplit(Centering, Protocol):
    """A `Centering` with coordinates M of the rest, and the way back from D and M."""

    @property
    def rank(self) -> int:
        """The rows that D can have at most, linearly independent."""
        ...

    def means(self, X: Columns[ArrayT]) -> ClassColumns[ArrayT]:
        """M. (..., P, n) -> (..., P, C)"""
        ...

    def deviations_and_means(self, X: Columns[ArrayT]) -> tuple[Columns[ArrayT], ClassColumns[ArrayT]]:
        """`deviations` and `means`. (..., P, n), (..., P, C)"""
        ...

    def spread(self, M: ClassColumns[ArrayT]) -> Columns[ArrayT]:
        """The X_M of these coordinates. (..., P, C) -> (..., P, n)"""
        ...

    def with_means(self, D: Columns[ArrayT], dM: ClassColumns[ArrayT]) -> Columns[ArrayT]:
        """D + spread(dM) for a D of the caller's own, which may be written on. (..., P, n)"""
        ...

    def check_rank(self, P: int) -> None:
        """Raise ValueError where no D has P independent rows."""
        ...

    def summed(self, S: ArrayT) -> ArrayT:
        """A sum over the columns at hand, such as D D^T, over all columns: itself, unless some columns lie elsewhere."""
        ...

    def gathered(self, D: Columns[ArrayT]) -> ArrayT:
        """Columns whose product with their transpose is D D^T over all columns: D, unless some columns lie elsewhere."""
        ...


@dataclass(frozen=True)
class SplitColumns(LocalColumns):
    """Coordinates z = [D, K]: `split` columns of D with D D^T = n I, then those of K, which are free. Itself a `Centering`."""

    split: int
    n: float
    rank: int

    def deviations(self, X: Columns[ArrayT]) -> Columns[ArrayT]:
        """[D, 0]. (..., P, k + m)"""
        if X.shape[-1] == self.split:
            return X
        return namespace(X).concat([X[..., : self.split], 0 * X[..., self.split :]], -1)

    def rest(self, X: Columns[ArrayT]) -> Columns[ArrayT]:
        """[0, K]. (..., P, k + m)"""
        return namespace(X).concat([0 * X[..., : self.split], X[..., self.split :]], -1)

    def rest_coordinates(self, X: Columns[ArrayT]) -> KernelCoordinates[ArrayT]:
        """K. (..., P, m)"""
        return X[..., self.split :]

    def parts(self, X: Columns[ArrayT]) -> tuple[Columns[ArrayT], KernelCoordinates[ArrayT]]:
        """[D, 0] and K."""
        return self.deviations(X), self.rest_coordinates(X)

    def means(self, X: Columns[ArrayT]) -> KernelCoordinates[ArrayT]:
        """K: what the constraint does not see. (..., P, m)"""
        return X[..., self.split :]

    def deviations_and_means(self, X: Columns[ArrayT]) -> tuple[Columns[ArrayT], KernelCoordinates[ArrayT]]:
        """[D, 0] and K."""
        return self.parts(X)

    def spread(self, M: KernelCoordinates[ArrayT]) -> Columns[ArrayT]:
        """[0, M]. (..., P, k + m)"""
        xp = namespace(M)
        array: Any = M
        shape = (*M.shape[:-1], self.split)
        zero = np.zeros(shape, M.dtype) if xp is np else array.new_zeros(shape)
        return xp.concat([zero, M], -1)

    def with_means(self, D: Columns[ArrayT], dM: KernelCoordinates[ArrayT]) -> Columns[ArrayT]:
        """D + [0, dM]. (..., P, k + m)"""
        return namespace(D).concat([D[..., : self.split], D[..., self.split :] + dM], -1)

    def check_rank(self, P: int) -> None:
        """Raise ValueError where the manifold is empty: rank(B) < P; and for P < 1."""
        check_form_rank(self.rank, P)


def check_form_rank(rank: int, P: int) -> None:
    """Raise ValueError where no X (P, n) has X B X^T = I: rank(B) < P; and for P < 1."""
    if P < 1:
        raise ValueError(f"P = {P} rows: at least one is needed")
    if rank < P:
        raise ValueError(
            f"rank(B) = {rank} < P = {P}: no X has X B X^T = I; take at most {rank} rows, or a form of higher rank "
            "(more examples, or a ridge added to B by yourself)"
        )
