"""Functions of matrices on the last two axes, leading axes a batch: S^{-1/2}, the Lyapunov equation, exp, S K + K^T S = B.

In torch the first two have the derivatives that autograd through eigh gets wrong; a singular matrix raises, with its numbers.
"""

import math
from typing import Any

import numpy as np

from manifolds.linalg import ArrayT, epsilon, identity_like, namespace, symmetrize
from manifolds.spectral import concrete, spectral_inverse_sqrt, spectral_lyapunov

DOUBLINGS = 48  # of Smith's method: eigenvalues of real part 1e-13 still converge


def inverse_sqrt(S: ArrayT, root: ArrayT | None = None) -> ArrayT:
    """S^{-1/2} of a symmetric positive definite S, with the correct derivative in torch. (..., P, P)

    Autograd through eigh is wrong where eigenvalues coincide, as all of them do on the manifold; the derivative
    here has the kernel -1/(r_i r_j (r_i + r_j)), r = sqrt(eigenvalues). `root` is the value where that is known already.
    Raises ValueError for a singular S.
    """
    if namespace(S) is np:
        return spectral_inverse_sqrt(S) if root is None else root
    from manifolds import autograd

    differentiable: Any = autograd.inverse_sqrt
    return differentiable(S, root)


def lyapunov(A: ArrayT, B: ArrayT) -> ArrayT:
    """The Y with A Y + Y A = B for a symmetric positive definite A; differentiable to any order in torch. (..., P, P)"""
    if namespace(A) is np:
        return spectral_lyapunov(A, B)
    from manifolds import autograd

    differentiable: Any = autograd.lyapunov
    return differentiable(A, B)


def matrix_exp(a: ArrayT) -> ArrayT:
    """exp(a) over the last two axes."""
    if namespace(a) is np:
        import scipy.linalg

        expm: Any = scipy.linalg.expm
        return expm(a)
    # torch stops its Taylor series too early for small norms (error 8e-12 at norm 0.03): exp(a) = exp(a + I) / e is not small
    return namespace(a).linalg.matrix_exp(a + identity_like(a, a.shape[-1])) / math.e


def sylvester_congruence(K: ArrayT, B: ArrayT) -> ArrayT:
    """The symmetric S with S K + K^T S = B for symmetric B, K with eigenvalues of positive real part. (..., P, P)

    Smith's doubling of S = Q + U^T S U, U = (K - I)(K + I)^{-1}, Q = 2 (K + I)^{-T} B (K + I)^{-1}: products only.
    Raises ValueError where K has an eigenvalue without positive real part beyond rounding (then no positive definite S exists
    for B = 2 I, or none that the numbers determine).
    """
    xp, identity = namespace(K), identity_like(K, K.shape[-1])
    resolvent = xp.linalg.inv(K + identity)
    U, S, size = (K - identity) @ resolvent, 2 * resolvent.mT @ B @ resolvent, None
    for _ in range(DOUBLINGS):
        S, U = S + U.mT @ S @ U, U @ U
        size = concrete(abs(U).max())
        if size is not None and not epsilon(K) < size < 1 / epsilon(K):
            break
    if size is not None and not size <= epsilon(K):
        raise ValueError(
            "an eigenvalue of K has no positive real part beyond rounding: "
            "S K + K^T S = 2 I has no positive definite solution that the numbers determine"
        )
    return symmetrize(S)
