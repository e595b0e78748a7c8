"""What models of a deep linear head share: W_M ... W_1 on free features, all layers P wide."""

from dataclasses import dataclass

import torch
from torch import Tensor

from manifolds.class_centering import whole_number
from ufm.models.base import Model
from ufm.models.objective.peeled import Point

START_SIZE = 1.5  # singular values of a start: of the order of those of a class that is kept
START_NOISE = 0.01  # entries of a start off the directions of its classes


@dataclass(frozen=True, kw_only=True)
class DeepHead(Model):
    """A model with `layers` = M factors W_M (C, P), W_{M-1}..W_1 (P, P) before its features H."""

    layers: int = 2
    lambda_w: float = 5e-3
    lambda_h: float = 5e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", whole_number(self.layers, "layers"))
        if self.layers < 1:
            raise ValueError(f"layers = {self.layers}: needs at least one linear layer")

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """W_M (C, P), W_{M-1}..W_1 (P, P) and H."""
        return ((self.C, self.P), *((self.P, self.P),) * (self.layers - 1), (self.P, self.layout.n))

    @property
    def penalties(self) -> tuple[float, ...]:
        """lw of every factor, and lh."""
        return (*[self.lambda_w] * self.layers, self.lambda_h)

    def classifier_and_features(self, point: Point) -> tuple[Tensor, Tensor]:
        """The product of all layers, and H."""
        W = point[0]
        for layer in point[1:-1]:
            W = W @ layer
        return W, point[-1]


def semi_orthogonal(point: Point, sizes: tuple[float, ...]) -> Point:
    """The polar factor of every tensor of a point, times its size."""
    parts = (torch.linalg.svd(t, full_matrices=False) for t in point)
    return tuple(s * U @ Vt for s, (U, _, Vt) in zip(sizes, parts, strict=True))


def squared_norms(point: Point) -> dict[str, list[float] | float]:
    """|W_i|^2 of every factor, and |H|^2."""
    *factors, H = (float(t.norm() ** 2) for t in point)
    return {"W_squared_norms": factors, "H_squared_norm": H}
