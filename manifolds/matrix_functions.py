"""Functions of matrices on the last two axes, leading axes a batch: Gram products, S^{-1/2}, the Lyapunov equation, exp.

In torch the first two have the derivatives that autograd through eigh gets wrong; a singular matrix raises, with its numbers.
"""

import math

import numpy as np

from manifolds.linalg import Array, cholesky_inverse, epsilon, frobenius_norm, identity_like, namespace, symmetrize

SERIES_TERMS = 9  # highest power in the series of (I + E)^{-1/2}: five products, less than an eigendecomposition
BINOMIALS = [math.prod((-0.5 - j) / (j + 1) for j in range(k)) for k in range(SERIES_TERMS + 1)]  # binom(-1/2, k)
DOUBLINGS = 16  # of Smith's method: eigenvalues of real part 1e-3 still converge


def skew(a: Array) -> Array:
    """(a - a^T) / 2 over the last two axes."""
    return (a - a.mT) / 2


def inner(a: Array, b: Array) -> Array:
    """<a, b> = tr(a b^T) over the last two axes. (...)"""
    return namespace(a).sum(a * b, axis=(-2, -1))


def gram(a: Array) -> Array:
    """a a^T. (..., P, n) -> (..., P, P)

    numpy recognises the product as symmetric and does half the work; torch does not, so that wide matrices are cut by hand.
    """
    xp, P = namespace(a), a.shape[-2]
    if xp is np or P < 128:
        return a @ a.mT
    top, bottom = a[..., : P // 2, :], a[..., P // 2 :, :]
    corner = bottom @ top.mT
    return xp.cat([xp.cat([gram(top), corner.mT], -1), xp.cat([corner, gram(bottom)], -1)], -2)


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


def check_positive_definite(eigenvalues: Array, name: str) -> Array:
    """Raise ValueError where a symmetric matrix of these eigenvalues (..., P), ascending, is singular to working precision.

    The eigenvalues again, lost ones NaN: that is what is left to do while torch traces or vectorises.
    """
    xp, P = namespace(eigenvalues), eigenvalues.shape[-1]
    threshold = P * epsilon(eigenvalues) * eigenvalues[..., -1:]
    lost = ~(eigenvalues > threshold)
    if not concrete(xp.any(lost)):
        return xp.where(lost, float("nan"), eigenvalues)
    count = int(xp.max(xp.sum(lost, -1)))
    raise ValueError(
        f"{name} is not positive definite: {count} of {P} directions are lost (eigenvalues {float(eigenvalues.min()):.3e} to "
        f"{float(eigenvalues.max()):.3e}); a smaller step or the reduction to the range of Sigma_W is needed"
    )


def check_finite(S: Array) -> None:
    """Raise ValueError where Sigma_W has NaN or infinite entries."""
    xp = namespace(S)
    if concrete(xp.all(xp.isfinite(S))) is False:
        raise ValueError("Sigma_W has NaN or infinite entries: the features overflowed or were not finite to begin with")


def spectral_inverse_sqrt(S: Array) -> Array:
    """S^{-1/2} by its series near a multiple of I, else through the eigenvectors, without a derivative. (..., P, P)

    Raises ValueError for a singular S.
    """
    xp = namespace(S)
    check_finite(S)
    near = series_inverse_sqrt(S)
    if near is not None:
        return near
    eigenvalues, E = xp.linalg.eigh(S)
    eigenvalues = check_positive_definite(eigenvalues, "Sigma_W")
    return (E / xp.sqrt(eigenvalues)[..., None, :]) @ E.mT


def distance_from_identity(S: Array) -> tuple[Array, Array, bool]:
    """m = tr S / P (..., 1, 1), S - m I, and whether ||S - m I||_F < m / 4; never, while torch traces or vectorises."""
    xp = namespace(S)
    mean = xp.linalg.diagonal(S).mean(-1)[..., None, None]
    excess = S - mean * identity_like(S, S.shape[-1])
    return mean, excess, bool(concrete(xp.all(frobenius_norm(excess)[..., None, None] < mean / 4)))


def series_inverse_sqrt(S: Array) -> Array | None:
    """S^{-1/2} = m^{-1/2} sum_k binom(-1/2, k) E^k, E = S/m - I, m = tr S / P, to rounding. (..., P, P)

    None where it would be long, and while torch traces or vectorises. A small step from the manifold has a short one.
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


def spectral_lyapunov(A: Array, B: Array) -> Array:
    """The Y with A Y + Y A = B for a symmetric positive definite A, without a derivative. (..., P, P)"""
    eigenvalues, E = namespace(A).linalg.eigh(A)
    return E @ ((E.mT @ B @ E) / (eigenvalues[..., :, None] + eigenvalues[..., None, :])) @ E.mT


def inverse_sqrt(S: Array) -> Array:
    """S^{-1/2} of a symmetric positive definite S, with the correct derivative in torch. (..., P, P)

    Autograd through eigh is wrong where eigenvalues coincide, as all of them do on the manifold; the derivative
    here has the kernel -1/(r_i r_j (r_i + r_j)), r = sqrt(eigenvalues). Raises ValueError for a singular S.
    """
    if namespace(S) is np:
        return spectral_inverse_sqrt(S)
    from manifolds.distance import InverseSqrt

    return InverseSqrt.apply(S)


def inverse_cholesky(S: Array) -> Array:
    """L^{-1} of S = L L^T, lower triangular. (..., P, P). Raises ValueError for a singular S."""
    linalg, (_, _, near) = namespace(S).linalg, distance_from_identity(S)
    if not near:  # else every eigenvalue is within a quarter of their mean
        check_finite(S)
        check_positive_definite(linalg.eigvalsh(S), "Sigma_W")
    return cholesky_inverse(S) if S.ndim == 2 else linalg.inv(linalg.cholesky(S))


def lyapunov(A: Array, B: Array) -> Array:
    """The Y with A Y + Y A = B for a symmetric positive definite A; differentiable to any order in torch. (..., P, P)"""
    if namespace(A) is np:
        return spectral_lyapunov(A, B)
    from manifolds.distance import Lyapunov

    return Lyapunov.apply(A, B)


def matrix_exp(a: Array) -> Array:
    """exp(a) over the last two axes."""
    if namespace(a) is np:
        from scipy.linalg import expm

        return expm(a)
    # torch stops its Taylor series too early for small norms (error 8e-12 at norm 0.03): exp(a) = exp(a + I) / e is not small
    return namespace(a).linalg.matrix_exp(a + identity_like(a, a.shape[-1])) / math.e


def block(rows: list[list[Array]]) -> Array:
    """A matrix from blocks; leading axes are a batch."""
    xp = namespace(rows[0][0])
    return xp.concat([xp.concat(row, -1) for row in rows], -2)


def sylvester_congruence(K: Array, B: Array) -> Array:
    """The symmetric S with S K + K^T S = B for symmetric B, K with eigenvalues of positive real part. (..., P, P)

    Smith's doubling of S = Q + U^T S U, U = (K - I)(K + I)^{-1}, Q = 2 (K + I)^{-T} B (K + I)^{-1}: products only.
    Raises ValueError where K has an eigenvalue without positive real part (then no positive definite S exists for B = 2 I).
    """
    xp, identity = namespace(K), identity_like(K, K.shape[-1])
    resolvent = xp.linalg.inv(K + identity)
    U, S = (K - identity) @ resolvent, 2 * resolvent.mT @ B @ resolvent
    for _ in range(DOUBLINGS):
        S, U = S + U.mT @ S @ U, U @ U
        size = concrete(abs(U).max())
        if size is not None and not epsilon(K) < size < 1 / epsilon(K):
            break
    if size is not None and not size < 1:
        raise ValueError(
            "the inverse retraction does not exist: an eigenvalue of D_Y D_X^T / n has no positive real part; "
            "the points are too far apart, go there in shorter steps"
        )
    return symmetrize(S)
