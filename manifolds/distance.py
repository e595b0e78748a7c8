"""Torch functions with derivatives of their own: two of symmetric matrices, which autograd through eigh gets wrong at equal
eigenvalues; the distance, found by shooting; and the logarithm, whose derivative is refused.
"""

from typing import TYPE_CHECKING, Any

import torch

from manifolds.linalg import symmetrize
from manifolds.matrix_functions import spectral_inverse_sqrt, spectral_lyapunov

if TYPE_CHECKING:
    from manifolds.metrics import Metric


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


class Distance(torch.autograd.Function):
    """d(X, Y) of a metric: along tangents U at X and V at Y its derivative is (g(end, V) - g(start, U)) / d.

    start = log_X Y and end are the velocities of the geodesic at its ends; at d = 0 the subgradient 0 is taken, as for a norm.
    The derivative has none of its own: a second backward pass raises ValueError.
    """

    @staticmethod
    def forward(X: torch.Tensor, Y: torch.Tensor, metric: "Metric") -> tuple[torch.Tensor, torch.Tensor]:
        """Length of the geodesic (...) and its start (..., P, n). Raises ValueError where the shooting did not converge."""
        start = metric.shoot(X, Y).require().vector
        return metric.norm(X, start), start

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor, "Metric"], output: tuple[torch.Tensor, ...]) -> None:
        """Keep the ends, the start and the length."""
        X, Y, ctx.metric = inputs
        length, start = output
        ctx.mark_non_differentiable(start)
        ctx.save_for_backward(X, Y, start, length)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, _: Any) -> tuple[torch.Tensor, torch.Tensor, None]:  # type: ignore[override]
        """(-flat(start), flat(end)) / d, times the incoming gradient. (..., P, n) each"""
        X, Y, start, length = ctx.saved_tensors
        with torch.no_grad():
            end = ctx.metric.geodesic_transport(X.expand_as(start), start, start)[1]
            scale = torch.where(length > 0, gradient / length, 0.0)[..., None, None]
            to_X, to_Y = -scale * ctx.metric.flat(X, start), scale * ctx.metric.flat(Y, end)
        to_X, to_Y = to_X.sum_to_size(X.shape), to_Y.sum_to_size(Y.shape)
        if torch.is_grad_enabled():  # once_differentiable looks at `gradient` alone, and a constant one hides the missing part
            to_X, to_Y = (Refusal.apply(to, TWICE, X, Y, gradient) for to in (to_X, to_Y))
        return to_X, to_Y, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        """Raises ValueError."""
        raise ValueError("dist looks at numbers, which torch.vmap hides: it takes leading axes, give it the whole batch")


ONCE = (
    "the logarithm, found by shooting, has no derivative here: differentiate dist(X, Y), which has one, "
    "or take log(X.detach(), Y.detach())"
)
TWICE = "dist is differentiable once: for second derivatives take differences of its gradient, which is -log for dist(X, Y)^2 / 2"


class Refusal(torch.autograd.Function):
    """A tensor as a function of the others, for torch to know that its derivative is missing."""

    @staticmethod
    def forward(vector: torch.Tensor, why: str, *others: torch.Tensor) -> torch.Tensor:
        """The vector itself."""
        return vector.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        """Keep the reason."""
        ctx.why = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> None:  # type: ignore[override]
        """Raises ValueError."""
        raise ValueError(ctx.why)


def refuse_derivative(vector: torch.Tensor, X: torch.Tensor, Y: torch.Tensor) -> torch.Tensor:
    """`vector`, whose derivative by X or Y raises ValueError instead of being silently zero."""
    return Refusal.apply(vector, ONCE, X, Y)
