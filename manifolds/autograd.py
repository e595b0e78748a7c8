"""S^{-1/2} and the Lyapunov equation as torch functions: autograd through eigh is wrong where eigenvalues coincide.

Both are differentiable to any order, backwards and forwards, and under torch.vmap.

Torch has no second forward derivative of a custom function: it is silently zero. Where torch.func.jvp is nested, the value is
therefore corrected by steps of Newton's method with a constant linear part: they change nothing but the derivatives that are
missing, and each step makes one more order right.
"""

from typing import Any

import torch

from manifolds.linalg import symmetrize
from manifolds.spectral import spectral_inverse_sqrt, spectral_lyapunov
from manifolds.tracking import nested_forward_orders


def inverse_sqrt(S: torch.Tensor, root: torch.Tensor | None = None) -> torch.Tensor:
    """S^{-1/2}. (..., P, P). torch.compile takes no function with a forward derivative: there it has the backward one only."""
    if torch.compiler.is_compiling():
        return InverseSqrt.apply(S, root)
    R = ForwardInverseSqrt.apply(S, root)
    for _ in range(nested_forward_orders()):  # the linear part of R S R = I is dR R^{-1} + R^{-1} dR, R^{-1} = S R
        R = R - spectral_lyapunov(symmetrize(S @ R).detach(), _derivative_part(R @ symmetrize(S) @ R))
    return R


def lyapunov(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """The Y with A Y + Y A = B. (..., P, P). As `inverse_sqrt`."""
    if torch.compiler.is_compiling():
        return Lyapunov.apply(A, B)
    Y = ForwardLyapunov.apply(A, B)
    for _ in range(nested_forward_orders()):
        Y = Y - spectral_lyapunov(A.detach(), _derivative_part(A @ Y + Y @ A - B))
    return Y


def _derivative_part(residual: torch.Tensor) -> torch.Tensor:
    """`residual` without its value, which is rounding."""
    return residual - residual.detach()


class InverseSqrt(torch.autograd.Function):
    """R = S^{-1/2}. From R^2 = S^{-1}: R dR + dR R = -R^2 dS R^2.

    In the eigenbasis of S that is dR_ij = -dS_ij / (r_i r_j (r_i + r_j)), r = sqrt(eigenvalues).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(S: torch.Tensor, root: torch.Tensor | None) -> torch.Tensor:  # type: ignore[bad-override]  # torch declares forward(*args, **kwargs)
        """S^{-1/2}, or `root` where the value is known already, more accurately than S has it. (..., P, P)"""
        return spectral_inverse_sqrt(S) if root is None else root.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor | None], output: torch.Tensor) -> None:
        """Keep R."""
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        """-R^2 Y R^2 with R Y + Y R the symmetric part of the incoming gradient; itself differentiable."""
        (R,) = ctx.saved_tensors
        return -(R @ (R @ lyapunov(R, symmetrize(gradient)) @ R) @ R), None


class ForwardInverseSqrt(InverseSqrt):
    """The same, forwards as well."""

    @staticmethod
    def jvp(ctx: Any, dS: torch.Tensor, _: None) -> torch.Tensor:  # type: ignore[override]
        """The dR with R dR + dR R = -R^2 dS R^2; itself differentiable."""
        (R,) = ctx.saved_tensors
        return -lyapunov(R, R @ (R @ symmetrize(dS) @ R) @ R)


class Lyapunov(torch.autograd.Function):
    """Y with A Y + Y A = B: dY solves A dY + dY A = dB - dA Y - Y dA."""

    generate_vmap_rule = True

    @staticmethod
    def forward(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:  # type: ignore[bad-override]  # torch declares forward(*args, **kwargs)
        """The solution Y. (..., P, P)"""
        return spectral_lyapunov(A, B)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor], output: torch.Tensor) -> None:
        """Keep A and Y."""
        ctx.save_for_backward(inputs[0], output)
        ctx.save_for_forward(inputs[0], output)
        ctx.right = inputs[1].shape

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        """(-(V Y^T + Y^T V), V) with A V + V A the incoming gradient; itself differentiable."""
        A, Y = ctx.saved_tensors
        V = lyapunov(A, gradient)
        return -symmetrize(V @ Y.mT + Y.mT @ V).sum_to_size(A.shape), V.sum_to_size(ctx.right)


class ForwardLyapunov(Lyapunov):
    """The same, forwards as well."""

    @staticmethod
    def jvp(ctx: Any, dA: torch.Tensor | None, dB: torch.Tensor | None) -> torch.Tensor:  # type: ignore[override]
        """The dY with A dY + dY A = dB - dA Y - Y dA; itself differentiable."""
        A, Y = ctx.saved_tensors
        right = torch.zeros_like(Y) if dB is None else dB
        return lyapunov(A, right if dA is None else right - dA @ Y - Y @ dA)
