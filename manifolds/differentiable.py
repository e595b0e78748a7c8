"""Two torch functions of symmetric matrices with the derivatives that autograd through eigh gets wrong at equal eigenvalues."""

from typing import Any

import torch

from manifolds.linalg import symmetrize
from manifolds.matrix_functions import spectral_inverse_sqrt, spectral_lyapunov


class InverseSqrt(torch.autograd.Function):
    """R = S^{-1/2}. From R^2 = S^{-1}: R dR + dR R = -R^2 dS R^2.

    In the eigenbasis of S that is dR_ij = -dS_ij / (r_i r_j (r_i + r_j)), r = sqrt(eigenvalues).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(S: torch.Tensor) -> torch.Tensor:
        """S^{-1/2}. (..., P, P)"""
        return spectral_inverse_sqrt(S)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        """Keep R."""
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """-R^2 Y R^2 with R Y + Y R the symmetric part of the incoming gradient; itself differentiable."""
        (R,) = ctx.saved_tensors
        return -(R @ (R @ Lyapunov.apply(R, symmetrize(gradient)) @ R) @ R)


class Lyapunov(torch.autograd.Function):
    """Y with A Y + Y A = B: dY solves A dY + dY A = dB - dA Y - Y dA."""

    generate_vmap_rule = True

    @staticmethod
    def forward(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
        """The solution Y. (..., P, P)"""
        return spectral_lyapunov(A, B)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor], output: torch.Tensor) -> None:
        """Keep A and Y."""
        ctx.save_for_backward(inputs[0], output)
        ctx.right = inputs[1].shape

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        """(-(V Y^T + Y^T V), V) with A V + V A the incoming gradient; itself differentiable."""
        A, Y = ctx.saved_tensors
        V = Lyapunov.apply(A, gradient)
        return -symmetrize(V @ Y.mT + Y.mT @ V).sum_to_size(A.shape), V.sum_to_size(ctx.right)
