"""Linear algebra shared by numpy and torch: one spelling for both, no backend class."""

import sys
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or torch.Tensor; every function returns the kind that it was given


def namespace(x: Array) -> Any:
    """The module (numpy or torch) that owns x; torch is never imported for it. Raises TypeError for anything else."""
    if isinstance(x, (np.ndarray, np.generic)):
        return np
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return torch
    raise TypeError(f"expected a numpy array or a torch tensor, got {type(x).__name__}")


def identity_like(x: Array, size: int) -> Array:
    """I_size with the dtype and device of x."""
    xp = namespace(x)
    return xp.eye(size, dtype=x.dtype) if xp is np else xp.eye(size, dtype=x.dtype, device=x.device)


def symmetrize(a: Array) -> Array:
    """(a + a^T) / 2 over the last two axes."""
    return (a + a.mT) / 2


def epsilon(x: Array) -> float:
    """Machine epsilon of the dtype of x."""
    return float(namespace(x).finfo(x.dtype).eps)


def gram(D: Array) -> Array:
    """D^T D (P, P) of D (n, P). On a CPU by numpy, which knows a product with one's own transpose and does half of the work."""
    xp = namespace(D)
    return D.mT @ D if xp is np or D.device.type != "cpu" else xp.from_numpy(gram(D.detach().numpy()))


def frobenius_norm(a: Array) -> Array:
    """||a||_F over the last two axes; leading axes are a batch."""
    xp = namespace(a)
    return xp.sqrt(xp.sum(a * a, axis=(-2, -1)))


def cholesky_inverse(S: Array) -> Array:
    """L^{-1} for S = L L^T (P, P) by halving, so that nearly all of its 2 P^3/3 flops are matrix products. Lower triangular.

    Raises numpy's or torch's LinAlgError where S is not positive definite; accurate to eps cond(S).
    """
    xp, size = namespace(S), S.shape[-1]
    if size <= 64:
        return xp.linalg.inv(xp.linalg.cholesky(S))
    h = size // 2
    inverse = xp.zeros_like(S)
    inverse[:h, :h] = top = cholesky_inverse(S[:h, :h])
    B = S[h:, :h] @ top.mT
    inverse[h:, h:] = bottom = cholesky_inverse(S[h:, h:] - B @ B.mT)
    inverse[h:, :h] = -bottom @ (B @ top)
    return inverse


def congruence_residual(lower: Array, S: Array) -> float:
    """||L S L^T - I||_F for a lower-triangular L and a symmetric S (P, P), from the blocks that are not zero or repeated."""
    P = S.shape[-1]
    h = P // 2
    top, bottom = lower[:h, :h], lower[h:, :]
    upper_left = (top @ S[:h, :h]) @ top.mT
    product = bottom @ S
    lower_left = product[:, :h] @ top.mT
    lower_right = product @ bottom.mT
    upper_left.reshape(-1)[:: h + 1] -= 1
    lower_right.reshape(-1)[:: P - h + 1] -= 1
    parts = frobenius_norm(upper_left) ** 2 + 2 * frobenius_norm(lower_left) ** 2 + frobenius_norm(lower_right) ** 2
    return float(parts) ** 0.5
