"""Values of S^{-1/2} and of the Lyapunov equation's solution through eigenvectors or a series, without derivatives.

Leading axes are a batch; a singular matrix raises, with its numbers.
"""

import math
from functools import cache
from typing import Any

import numpy as np

from manifolds.linalg import Array, ArrayT, epsilon, frobenius_norm, identity_like, namespace, root_of_spectrum, symmetrize

SERIES_TERMS = 9  # highest power in the series of (I + E)^{-1/2}: five products, less than an eigendecomposition
BINOMIALS = [math.prod((-0.5 - j) / (j + 1) for j in range(k)) for k in range(SERIES_TERMS + 1)]  # binom(-1/2, k)
NEAR = 1 / 4  # ||S - m I||_F / m up to which S counts as near a multiple of I
SERIES_FROM = 24  # rows from which the series is faster than an eigendecomposition
NEAR_CONDITION = (1 + NEAR) / (1 - NEAR)


class LostDirections(ValueError):
    """A matrix that is singular to rounding: its name, and how many directions are lost."""

    def __str__(self) -> str:
        name, lost = self.args
        return f"{name} is not positive definite: {lost}; a smaller step or the reduction to the range of Sigma_W is needed"


def concrete(x: Array) -> float | bool | None:
    """The Python value of a scalar array, or None while torch traces or vectorises, when it has none yet.

    Checks that look at numbers are therefore skipped inside torch.compile and torch.vmap: there a violated one gives NaN.
    """
    xp = namespace(x)
    if xp is not np:
        if xp.compiler.is_compiling():
            return None
        try:
            return x.item()
        except RuntimeError:  # a tensor of torch.vmap has no single value
            return None
    return x.item()


def is_concrete(x: Array) -> bool:
    """Whether the numbers of x can be looked at: not while torch traces or vectorises."""
    return namespace(x) is np or concrete(x[..., :1, :1].sum()) is not None


def is_untracked(*arrays: Array) -> bool:
    """Whether these are numpy's, or tensors of which torch records, traces and maps nothing now."""
    xp = namespace(arrays[0])
    if xp is np:
        return True
    from manifolds import tracking

    tensors: tuple[Any, ...] = arrays
    return tracking.are_untracked(tensors)


def check_positive_definite(eigenvalues: ArrayT, name: str) -> ArrayT:
    """Raise ValueError where a symmetric matrix of these eigenvalues (..., P), ascending, is singular to working precision.

    The eigenvalues again, lost ones NaN: that is what is left to do while torch traces or vectorises.
    """
    P = eigenvalues.shape[-1]
    return refuse_lost(eigenvalues, P * epsilon(eigenvalues) * eigenvalues[..., -1:], name, "eigenvalues")


def refuse_lost(values: ArrayT, threshold: ArrayT, name: str, kind: str) -> ArrayT:
    """Raise ValueError where some of the `values` (..., P) are at most `threshold`; while torch traces, make them NaN instead."""
    xp, lost = namespace(values), ~(values > threshold)
    if not concrete(xp.any(lost)):
        return xp.where(lost, float("nan"), values)
    count, P = int(xp.max(xp.sum(lost, -1))), values.shape[-1]
    least, most = float(values.min()), float(values.max())
    raise LostDirections(name, f"{count} of {P} directions are lost ({kind} {least:.3e} to {most:.3e})")


def check_finite(S: Array) -> None:
    """Raise ValueError where Sigma_W has NaN or infinite entries."""
    if concrete(namespace(S).isfinite(S).all()) is False:
        raise ValueError("Sigma_W has NaN or infinite entries: the features overflowed or were not finite to begin with")


def spectral_inverse_sqrt(S: ArrayT) -> ArrayT:
    """S^{-1/2} by its series near a multiple of I, else through the eigenvectors, without a derivative. (..., P, P)

    Raises ValueError for a singular S.
    """
    check_finite(S)
    near = series_inverse_sqrt(S) if S.shape[-1] >= SERIES_FROM else None
    if near is not None:
        return near
    eigenvalues, E = namespace(S).linalg.eigh(S)
    return root_of_spectrum(check_positive_definite(eigenvalues, "Sigma_W"), E)


def conditioned_inverse_sqrt(S: ArrayT) -> tuple[ArrayT | None, float]:
    """S^{-1/2} without a derivative, and cond(S) or a bound; (None, inf) where an eigenvalue is not positive. (..., P, P)"""
    near = series_inverse_sqrt(S) if S.shape[-1] >= SERIES_FROM else None
    if near is not None:
        return near, NEAR_CONDITION
    if isinstance(S, np.ndarray) and S.ndim == 2 and S.shape[-1] < SERIES_FROM:
        eigenvalues, E = _eigh_of_few_rows(S)
        least, most = float(eigenvalues[0]), float(eigenvalues[-1])
        return (root_of_spectrum(eigenvalues, E), most / least) if least > 0 else (None, math.inf)
    eigenvalues, E = namespace(S).linalg.eigh(S)
    if not float(eigenvalues[..., 0].min()) > 0:
        return None, math.inf
    return root_of_spectrum(eigenvalues, E), float((eigenvalues[..., -1] / eigenvalues[..., 0]).max())


@cache
def _lapack() -> Any:
    """scipy's LAPACK, imported when it is first used; asked again the import would cost a tenth of the call."""
    from scipy.linalg import lapack

    return lapack


def _eigh_of_few_rows(S: Any) -> tuple[Any, Any]:
    """Eigenvalues and eigenvectors of one symmetric matrix by LAPACK itself: half the time of numpy's call for few rows."""
    lapack = _lapack()
    solve = lapack.dsyevd if S.dtype == np.float64 else lapack.ssyevd
    eigenvalues, E, failed = solve(S)
    if failed:
        raise np.linalg.LinAlgError(f"the eigenvalues of Sigma_W did not converge (LAPACK info {failed})")
    return eigenvalues, E


def svd_of_few_rows(M: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E (..., P, P), s, F^T of numpy's M = E diag(s) F^T, zero singular values included; one matrix by LAPACK itself."""
    if M.ndim > 2 or M.shape[-1] == 0:  # LAPACK refuses a matrix without columns
        return np.linalg.svd(M)
    lapack = _lapack()
    solve = lapack.dgesdd if M.dtype == np.float64 else lapack.sgesdd
    E, s, Ft, failed = solve(M)
    if failed:
        raise np.linalg.LinAlgError(f"the singular values of the class means did not converge (LAPACK info {failed})")
    return E, s, Ft


def distance_from_identity(S: ArrayT) -> tuple[ArrayT, ArrayT, bool]:
    """m = tr S / P (..., 1, 1), S - m I, and whether ||S - m I||_F < NEAR m; never, while torch traces or vectorises."""
    xp = namespace(S)
    mean = xp.linalg.diagonal(S).mean(-1)[..., None, None]
    excess = S - mean * identity_like(S, S.shape[-1])
    return mean, excess, bool(concrete(xp.all(frobenius_norm(excess)[..., None, None] < NEAR * mean)))


def series_inverse_sqrt(S: ArrayT) -> ArrayT | None:
    """S^{-1/2} = m^{-1/2} sum_k binom(-1/2, k) E^k, E = S/m - I, m = tr S / P, to rounding. (..., P, P)

    None where it would be long, and while torch traces or vectorises. A small step has a short one.
    With ||E|| <= e = ||E^2||_F^{1/2} what is left out is below e^(terms + 1).
    """
    xp = namespace(S)
    mean, E, near = distance_from_identity(S)
    if not near:
        return None
    E /= mean
    square = E @ E
    size = math.sqrt(float(xp.max(frobenius_norm(square))))
    terms = 0 if size == 0 else math.ceil(math.log(epsilon(S) / 8) / math.log(size)) - 1
    if terms > SERIES_TERMS:
        return None
    highest, identity = terms - terms % 2, identity_like(S, S.shape[-1])
    root = 0 * E
    for k in range(highest, -1, -2):
        root = root @ square if k < highest else root
        root += BINOMIALS[k + 1] * E
        root += BINOMIALS[k] * identity
    return symmetrize(root) / xp.sqrt(mean)


def spectral_lyapunov(A: ArrayT, B: ArrayT) -> ArrayT:
    """The Y with A Y + Y A = B for a symmetric positive definite A, without a derivative. (..., P, P)"""
    eigenvalues, E = namespace(A).linalg.eigh(A)
    return E @ ((E.mT @ B @ E) / (eigenvalues[..., :, None] + eigenvalues[..., None, :])) @ E.mT
