"""Singular values and vectors of one matrix, through its Gram matrix where that keeps the digits."""

from typing import Any

from manifolds.linalg import Array, ArrayT, epsilon, gram, namespace

SMALL = 64  # rows and columns for which the decomposition itself is as fast
DIGITS = 1e-12  # relative error of a singular value that its square root may add


def singular_values(Z: ArrayT) -> ArrayT:
    """Singular values, descending, to 1e-12 of each. (m, c) -> (min(m, c),)"""
    linalg = namespace(Z).linalg
    if min(Z.shape) > SMALL:
        squares = linalg.eigvalsh(gram(Z if Z.shape[0] <= Z.shape[1] else Z.mT))
        if _keeps_digits(squares):
            return _descending(squares**0.5)
    return linalg.svdvals(Z)


def thin_svd(Z: ArrayT) -> tuple[ArrayT, ArrayT, ArrayT]:
    """U (m, k), sigma (k,) descending to 1e-12 of each, V^T (k, c), k = min(m, c). Z (m, c)"""
    m, c = Z.shape
    if SMALL < m <= c:
        squares, E = namespace(Z).linalg.eigh(gram(Z))
        if _keeps_digits(squares):
            U, sigma = _descending(E), _descending(squares**0.5)
            return U, sigma, (U.mT @ Z) / sigma[:, None]
    U, sigma, Vt = namespace(Z).linalg.svd(Z, full_matrices=False)
    return U, sigma, Vt


def _keeps_digits(squares: Array) -> bool:
    """Whether rounding of the largest square is below DIGITS of the smallest, ascending."""
    return epsilon(squares) * float(squares[-1]) < DIGITS * float(squares[0])


def _descending(x: Any) -> Any:
    return namespace(x).flip(x, (-1,))
