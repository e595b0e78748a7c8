"""The form of a matrix: any G (n, k) of B = G G^T, or B itself, through its singular vectors."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np

from manifolds.array import Array, ArrayT, Columns, KernelCoordinates, RangeCoordinates
from manifolds.linalg import array_like, as_numpy, namespace


@dataclass(frozen=True, eq=False)
class MatrixForm:
    """B = V diag(sigma^2) V^T from its singular vectors `basis` V (n, rank), `sigma` (rank,), and its `kernel` (n, n - rank).

    Make it by `of_factor` or `of_matrix`. Numbers are kept in float64 and follow the dtype and device of X.
    """

    basis: Annotated[np.ndarray, "n r"]
    sigma: Annotated[np.ndarray, "r"]
    kernel: Annotated[np.ndarray, "n m"]
    _cast: dict[Any, tuple[Any, ...]] = field(default_factory=dict, repr=False)

    @classmethod
    def of_factor(cls, G: Annotated[np.ndarray, "n k"], tolerance: float | None = None) -> "MatrixForm":
        """B = G G^T for G (n, k), right to eps cond(G). Singular values up to `tolerance` times the largest count as zero.

        `tolerance` is max(n, k) eps unless given. Raises ValueError for another shape, entries that are not real and finite,
        G = 0, and a tolerance outside [0, 1).
        """
        G = _finite_matrix(G, "G")
        tolerance = _checked_tolerance(tolerance, max(G.shape) * np.finfo(np.float64).eps)
        V, values, _ = np.linalg.svd(G, full_matrices=True)
        return cls._of_spectrum(V, values, tolerance)

    @classmethod
    def of_matrix(cls, B: Annotated[np.ndarray, "n n"], tolerance: float | None = None) -> "MatrixForm":
        """B (n, n) itself; eigenvalues up to `tolerance` times the largest, n eps unless given, count as zero.

        Raises ValueError where B is not square, real, finite, symmetric and positive semidefinite to rounding, with the number,
        and for a tolerance outside [0, 1).
        """
        B = _finite_matrix(B, "B")
        n, eps = len(B), np.finfo(np.float64).eps
        if B.shape[1] != n:
            raise ValueError(f"B has shape {B.shape}: it is square; give a factor G (n, k) to of_factor")
        size, tolerance = float(np.abs(B).max()), _checked_tolerance(tolerance, n * eps)
        gap = float(np.abs(B - B.T).max())
        if gap > n * eps * size:
            raise ValueError(f"B is not symmetric: an entry differs from its mirror image by {gap:.3e}; take (B + B^T) / 2")
        values, V = np.linalg.eigh((B + B.T) / 2)
        if values[0] < -tolerance * values[-1]:
            raise ValueError(f"B is not positive semidefinite: its smallest eigenvalue is {values[0]:.3e}")
        return cls._of_spectrum(V[:, ::-1].copy(), np.sqrt(np.clip(values[::-1], 0, None)), tolerance**0.5)

    @classmethod
    def _of_spectrum(cls, V: np.ndarray, values: np.ndarray, tolerance: float) -> "MatrixForm":
        rank = int((values > tolerance * values[0]).sum())
        if rank == 0:
            raise ValueError("B = 0: a form of rank 1 at least is needed")
        return cls(np.ascontiguousarray(V[:, :rank]), values[:rank].copy(), np.ascontiguousarray(V[:, rank:]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MatrixForm) and all(
            np.array_equal(a, b) for a, b in zip(self._numbers, other._numbers, strict=True)
        )

    def __hash__(self) -> int:
        return hash((self.basis.shape, self.sigma.tobytes()))

    def __getstate__(self) -> dict[str, Any]:
        """Without what was cast for a dtype and device."""
        return {"basis": self.basis, "sigma": self.sigma, "kernel": self.kernel, "_cast": {}}

    def __repr__(self) -> str:
        return f"MatrixForm(n={self.columns}, rank={self.rank}, cond(G)={self.sigma[0] / self.sigma[-1]:.3g})"

    @property
    def columns(self) -> int:
        """n."""
        return len(self.basis)

    @property
    def rank(self) -> int:
        """Number of singular values that count."""
        return len(self.sigma)

    @property
    def factors(self) -> int:
        """The rank: G is V diag(sigma)."""
        return len(self.sigma)

    @property
    def scale(self) -> float:
        """1."""
        return 1.0

    @property
    def _numbers(self) -> tuple[Any, ...]:
        return self.basis, self.sigma, self.kernel

    def apply(self, X: Columns[ArrayT]) -> Columns[ArrayT]:
        """X V diag(sigma^2) V^T. (..., P, n)"""
        basis, sigma, _ = self._like(X)
        return (X @ basis * sigma**2) @ basis.mT

    def range_coordinates(self, X: Columns[ArrayT]) -> RangeCoordinates[ArrayT]:
        """X V diag(sigma). (..., P, n) -> (..., P, rank)"""
        basis, sigma, _ = self._like(X)
        return X @ basis * sigma

    def kernel_coordinates(self, X: Columns[ArrayT]) -> KernelCoordinates[ArrayT]:
        """X times the kernel's basis. (..., P, n) -> (..., P, n - rank)"""
        return X @ self._like(X)[2]

    def combine(self, F: RangeCoordinates[ArrayT], K: KernelCoordinates[ArrayT]) -> Columns[ArrayT]:
        """F diag(1 / sigma) V^T + K (kernel)^T. (..., P, n)"""
        basis, sigma, kernel = self._like(F)
        return (F / sigma) @ basis.mT + K @ kernel.mT

    def range_gradient(self, E: Columns[ArrayT]) -> RangeCoordinates[ArrayT]:
        """E V diag(1 / sigma). (..., P, n) -> (..., P, rank)"""
        basis, sigma, _ = self._like(E)
        return E @ basis / sigma

    def _like(self, X: ArrayT) -> tuple[ArrayT, ...]:
        """Basis, sigma and kernel with the dtype and device of X."""
        if isinstance(X, np.ndarray) and X.dtype == np.float64:
            return self._numbers
        key = (X.dtype, None if isinstance(X, np.ndarray) else str(X.device))
        if key not in self._cast:
            with _outside_inference(X):
                self._cast[key] = tuple(array_like(part, X) for part in self._numbers)
        return self._cast[key]


def _outside_inference(X: Array) -> Any:
    """For what is kept longer than torch's inference mode, whose tensors no derivative may use later."""
    xp = namespace(X)
    return nullcontext() if xp is np else xp.inference_mode(False)


def _checked_tolerance(tolerance: float | None, default: float) -> float:
    """`tolerance`, a share of the largest value, or `default`. Raises ValueError outside [0, 1)."""
    if tolerance is None:
        return default
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance = {tolerance}: it is a share of the largest value, at least 0 and below 1")
    return float(tolerance)


def _finite_matrix(matrix: np.ndarray, name: str) -> np.ndarray:
    numbers = as_numpy(matrix) if hasattr(matrix, "detach") else np.asarray(matrix)
    if np.iscomplexobj(numbers):
        raise ValueError(f"{name} is complex: a real matrix is needed")
    values = np.array(numbers, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{name} has shape {values.shape}: a matrix is needed")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} has NaN or infinite entries")
    return values
