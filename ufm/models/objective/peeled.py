"""The objective that all layer-peeled models share: a loss of gain F_1 F_2 ... F_k + b 1^T, plus ridge penalties.

A point is the tuple of factors (W_M, ..., W_1, H), followed by the bias b (C, 1) where the model has one. Gradients and
curvatures are written out, so a solve never builds an autograd graph; the tests compare both with autograd.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ufm.models.objective.losses import Loss

Point = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Peeled:
    """f = loss(gain F_1 ... F_k + b 1^T) + 1/2 sum_j penalties_j |F_j|^2 + 1/2 bias_penalty |b|^2.

    `bias_penalty` is None where the model has no bias, 0 where the bias is free.
    """

    loss: Loss
    penalties: tuple[float, ...] = (0.0, 0.0)
    bias_penalty: float | None = None
    gain: float = 1.0

    def value_and_gradient(self, point: Point) -> tuple[Tensor, Point]:
        """f and its Euclidean gradient, one tensor for every tensor of the point."""
        factors, tails = self._factors(point), self._tails(point)
        value, G = self.loss.value_and_gradient(self.logits_of(tails, point))
        gradient, B = list[Tensor](), G if self.gain == 1.0 else G * self.gain
        for factor, tail in zip(factors, tails[1:], strict=False):
            gradient.append(B @ tail.mT)
            B = factor.mT @ B
        gradient.append(B)
        for j, (factor, penalty) in enumerate(zip(factors, self.penalties, strict=True)):
            if penalty:
                gradient[j] = gradient[j] + penalty * factor
                value = value + penalty / 2 * squared_norm(factor)
        if self.bias_penalty is not None:
            gradient.append(G.sum(1)[:, None] + self.bias_penalty * point[-1])
            value = value + self.bias_penalty / 2 * squared_norm(point[-1])
        return value, tuple(gradient)

    def curvature_at(self, point: Point) -> Callable[[Point], Point]:
        """The Hessian of f at the point as a map, with everything that does not depend on the direction computed once."""
        factors, tails = self._factors(point), self._tails(point)
        Z = self.logits_of(tails, point)
        B = self.loss.value_and_gradient(Z)[1] * self.gain
        backs = [B]
        for factor in factors[:-1]:
            backs.append(factor.mT @ backs[-1])
        loss_curvature = self.loss.curvature_at(Z)

        def apply(direction: Point) -> Point:
            moves = self._factors(direction)
            dtails = [moves[-1]]
            for factor, move, tail in zip(reversed(factors[:-1]), reversed(moves[:-1]), reversed(tails[1:]), strict=True):
                dtails.insert(0, move @ tail + factor @ dtails[0])
            dG = loss_curvature(self.logits_of(dtails, direction))
            dB, result = (dG if self.gain == 1.0 else dG * self.gain), list[Tensor]()
            for factor, move, back, tail, dtail in zip(factors, moves, backs, tails[1:], dtails[1:], strict=False):
                result.append(dB @ tail.mT + back @ dtail.mT)
                dB = move.mT @ back + factor.mT @ dB
            result.append(dB)
            for j, penalty in enumerate(self.penalties):
                if penalty:
                    result[j] = result[j] + penalty * moves[j]
            if self.bias_penalty is not None:
                result.append(dG.sum(1)[:, None] + self.bias_penalty * direction[-1])
            return tuple(result)

        return apply

    def logits_of(self, tails: list[Tensor], point: Point) -> Tensor:
        """Z from the products already formed. (C, n)"""
        Z = tails[0] if self.gain == 1.0 else tails[0] * self.gain
        return Z if self.bias_penalty is None else Z + point[-1]

    def _factors(self, point: Point) -> Point:
        return point if self.bias_penalty is None else point[:-1]

    def _tails(self, point: Point) -> list[Tensor]:
        """F_j F_{j+1} ... F_k for j = 1..k."""
        factors = self._factors(point)
        tails = [factors[-1]]
        for factor in reversed(factors[:-1]):
            tails.insert(0, factor @ tails[0])
        return tails


def squared_norm(x: Tensor) -> Tensor:
    """|x|_F^2 in one pass."""
    flat = x.reshape(-1)
    return flat @ flat


def gaussian_point(shapes: tuple[tuple[int, ...], ...], seed: int, scale: float = 1.0, device: str = "cpu") -> Point:
    """A random point with entries scale * N(0, 1), from its own generator on the CPU, so that a seed means one point anywhere."""
    generator = torch.Generator().manual_seed(seed)
    return tuple((scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(device) for shape in shapes)
