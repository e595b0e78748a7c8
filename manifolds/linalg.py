"""Linear algebra shared by numpy and torch: one spelling for both, no backend class."""

import sys
from itertools import pairwise
from typing import Any, cast

import numpy as np

from manifolds.array import Array as Array
from manifolds.array import ArrayT as ArrayT
from manifolds.array import ArrayT_co as ArrayT_co

RESIDUAL_BLOCKS = 8  # of rows: 0.4 of the flops of whole matrices (1 block), two thirds of those of 2
SHORT_SUM = 1 << 14  # entries up to which a sum is BLAS's, a fifth of the time of numpy's pairwise one, which is rounded less


class RankDeficient(ValueError):
    """Sigma_W is singular, so that no feature can be whitened; its range is smaller than the space."""


def namespace(x: Array) -> Any:
    """The module (numpy or torch) that owns x; torch is never imported for it. Raises TypeError for anything else."""
    if isinstance(x, (np.ndarray, np.generic)):
        return np
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return torch
    raise TypeError(f"expected a numpy array or a torch tensor, got {type(x).__name__}")


def array_like(values: object, x: ArrayT) -> ArrayT:
    """Numbers as an array with the kind, dtype and device of x."""
    xp = namespace(x)
    convert: Any = xp.asarray if xp is np else xp.as_tensor  # torch.asarray would drop the record for derivatives, or warn
    return convert(values, dtype=x.dtype, device=x.device)


def detached(x: ArrayT) -> ArrayT:
    """x itself where it is of numpy, else without its record for derivatives."""
    tensor: Any = x
    return x if namespace(x) is np else tensor.detach()


def as_numpy(x: Array) -> np.ndarray:
    """x itself where it is of numpy, else its values on the CPU; of bfloat16, which numpy lacks, as float32."""
    xp, array = namespace(x), cast("Any", x)
    return array if xp is np else (array.float() if array.dtype is xp.bfloat16 else array).detach().cpu().numpy()


def is_on_cpu(x: Array) -> bool:
    """Whether x is numpy's, or a tensor in the memory of the CPU."""
    return namespace(x) is np or cast("Any", x).device.type == "cpu"


def identity_like(x: ArrayT, size: int) -> ArrayT:
    """I_size with the dtype and device of x."""
    return namespace(x).eye(size, dtype=x.dtype, device=x.device)


def symmetrize(a: ArrayT, n: float = 1) -> ArrayT:
    """(a + a^T) / 2n over the last two axes."""
    return (a + a.mT) / (2 * n)


def root_of_spectrum(eigenvalues: ArrayT, E: ArrayT) -> ArrayT:
    """E diag(eigenvalues)^{-1/2} E^T. (..., P), (..., P, P) -> (..., P, P)"""
    return (E / namespace(E).sqrt(eigenvalues)[..., None, :]) @ E.mT


def epsilon(x: Array) -> float:
    """Machine epsilon of the dtype of x."""
    return float(namespace(x).finfo(x.dtype).eps)


def skew(a: ArrayT) -> ArrayT:
    """(a - a^T) / 2 over the last two axes."""
    return (a - a.mT) / 2


def inner(a: ArrayT, b: ArrayT) -> ArrayT:
    """<a, b> = tr(a b^T) over the last two axes. (...)"""
    if isinstance(a, np.ndarray) and a.ndim == 2 and a.shape == b.shape and a.size <= SHORT_SUM:
        return np.vdot(a, b)  # type: ignore[return-value]
    return namespace(a).sum(a * b, axis=(-2, -1))


def gram(a: ArrayT) -> ArrayT:
    """a a^T. (..., P, n) -> (..., P, P)

    numpy recognises the product as symmetric and does half the work; torch does not, so that wide matrices are cut by hand.
    """
    xp, P = namespace(a), a.shape[-2]
    if xp is np or P < 128:
        return a @ a.mT
    top, bottom = a[..., : P // 2, :], a[..., P // 2 :, :]
    corner = bottom @ top.mT
    return xp.cat([xp.cat([gram(top), corner.mT], -1), xp.cat([corner, gram(bottom)], -1)], -2)


def block(rows: list[list[ArrayT]]) -> ArrayT:
    """A matrix from blocks; leading axes are a batch."""
    xp = namespace(rows[0][0])
    return xp.concat([xp.concat(row, -1) for row in rows], -2)


def frobenius_norm(a: ArrayT) -> ArrayT:
    """||a||_F over the last two axes; leading axes are a batch. (...)"""
    xp = namespace(a)
    return xp.sqrt(xp.sum(a * a, axis=(-2, -1)))


def inverse_cholesky(S: ArrayT) -> ArrayT:
    """L^{-1} for S = L L^T, lower triangular. (..., P, P)

    A single matrix on a CPU by halving, so that nearly all of its 2 P^3/3 flops are matrix products. Accurate to eps cond(S).
    Raises numpy's or torch's LinAlgError where S is not positive definite.
    """
    xp, size = namespace(S), S.shape[-1]
    if not is_on_cpu(S):  # halving costs more launches than it saves
        return xp.linalg.solve_triangular(xp.linalg.cholesky(S), identity_like(S, size), upper=False)
    if size <= 64 or S.ndim > 2:
        return xp.linalg.inv(xp.linalg.cholesky(S))
    h = size // 2
    inverse = xp.zeros_like(S)
    inverse[:h, :h] = top = inverse_cholesky(S[:h, :h])
    B = S[h:, :h] @ top.mT
    inverse[h:, h:] = bottom = inverse_cholesky(S[h:, h:] - B @ B.mT)
    inverse[h:, :h] = -bottom @ (B @ top)
    return inverse


def solve_lower(L: ArrayT, B: ArrayT) -> ArrayT:
    """L^{-1} B for a lower-triangular L by halving, nearly all of it matrix products. (P, P), (P, k) -> (P, k)"""
    xp, size = namespace(L), len(L)
    if size <= 64:
        return xp.linalg.solve(L, B)
    h = size // 2
    top = solve_lower(L[:h, :h], B[:h])
    return xp.concatenate([top, solve_lower(L[h:, h:], B[h:] - L[h:, :h] @ top)])


def solve_upper(U: ArrayT, B: ArrayT) -> ArrayT:
    """U^{-1} B for an upper-triangular U, as `solve_lower`. (P, P), (P, k) -> (P, k)"""
    xp, size = namespace(U), len(U)
    if size <= 64:
        return xp.linalg.solve(U, B)
    h = size // 2
    bottom = solve_upper(U[h:, h:], B[h:])
    return xp.concatenate([solve_upper(U[:h, :h], B[:h] - U[:h, h:] @ bottom), bottom])


def congruence_residual(lower: Array, S: Array) -> float:
    """||L S L^T - I||_F for a lower-triangular L and a symmetric S (P, P), from the blocks that are not zero or repeated."""
    P, square = S.shape[-1], 0.0
    edges = [P * block // RESIDUAL_BLOCKS for block in range(RESIDUAL_BLOCKS + 1)]
    for start, stop in pairwise(edges):
        rows = (lower[start:stop, :stop] @ S[:stop, :stop]) @ lower[:stop, :stop].mT
        rows.reshape(-1)[start :: stop + 1] -= 1
        square += 2 * frobenius_norm(rows[:, :start]) ** 2 + frobenius_norm(rows[:, start:]) ** 2
    return float(square) ** 0.5
