"""The distance as a torch function with the derivative that shooting hides, and the refusal of what has none.

`Distance` serves any metric with the four maps of `GeodesicMetric`.
"""

from typing import Any, NoReturn, Protocol

import torch

from manifolds.array import Columns, Scalars
from manifolds.shooting import Shooting


class GeodesicMetric(Protocol):
    """What the distance asks of a metric."""

    def shoot(self, X: Columns[torch.Tensor], Y: Columns[torch.Tensor]) -> Shooting:
        """The velocity from X to Y with its convergence verdict."""
        ...

    def norm(self, X: Columns[torch.Tensor], U: Columns[torch.Tensor]) -> Scalars[torch.Tensor]:
        """sqrt(g_X(U, U)). (...)"""
        ...

    def flat(self, X: Columns[torch.Tensor], U: Columns[torch.Tensor]) -> Columns[torch.Tensor]:
        """The array with <flat(U), V>_F = g_X(U, V) for every V. (..., P, n)"""
        ...

    def geodesic_transport(
        self, X: Columns[torch.Tensor], U: Columns[torch.Tensor], W: Columns[torch.Tensor]
    ) -> tuple[Columns[torch.Tensor], Columns[torch.Tensor]]:
        """exp(X, U), and W carried parallel along that geodesic. (..., P, n) each"""
        ...


class Distance(torch.autograd.Function):
    """d(X, Y) of a metric: along tangents U at X and V at Y its derivative is (g(end, V) - g(start, U)) / d.

    start = log_X Y and end are the velocities of the geodesic at its ends; at d = 0 the subgradient 0 is taken, as for a norm.
    The derivative has none of its own: a second backward pass raises ValueError.
    """

    @staticmethod
    # torch declares forward(*args, **kwargs)
    def forward(  # type: ignore[bad-override]
        X: torch.Tensor, Y: torch.Tensor, metric: GeodesicMetric
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Length of the geodesic (...) and its start (..., P, n). Raises ValueError where the shooting did not converge."""
        start = metric.shoot(X, Y).require().vector
        return metric.norm(X, start), start

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor, GeodesicMetric], output: tuple[torch.Tensor, ...]
    ) -> None:
        """Keep the ends, the start and the length."""
        X, Y, ctx.metric = inputs
        length, start = output
        ctx.mark_non_differentiable(start)
        ctx.save_for_backward(X, Y, start, length)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, _: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, None]:  # type: ignore[override]
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
    def vmap(info: object, in_dims: object, *args: object) -> NoReturn:
        """Raises ValueError."""
        raise ValueError(
            "dist needs the values of its arguments, which torch.vmap hides: give it the whole batch, with leading axes"
        )


ONCE = (
    "the logarithm, from shooting, has no derivative here: differentiate dist(X, Y), which has one, "
    "or take log(X.detach(), Y.detach())"
)
TWICE = "dist is differentiable once: for second derivatives take differences of its gradient, which is -log for dist(X, Y)^2 / 2"


class Refusal(torch.autograd.Function):
    """A tensor as a function of the others, for torch to know that its derivative is missing."""

    @staticmethod
    def forward(vector: torch.Tensor, why: str, *others: torch.Tensor) -> torch.Tensor:  # type: ignore[bad-override]  # torch declares forward(*args, **kwargs)
        """The vector itself."""
        return vector.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[object, ...], output: torch.Tensor) -> None:
        """Keep the reason."""
        ctx.why = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> None:  # type: ignore[override]
        """Raises ValueError."""
        raise ValueError(ctx.why)


def refuse_derivative(vector: torch.Tensor, X: torch.Tensor, Y: torch.Tensor) -> torch.Tensor:
    """`vector`, whose derivative by X or Y raises ValueError instead of being silently zero."""
    return Refusal.apply(vector, ONCE, X, Y)
