"""What the squared-error companions share: the penalised objective and the soft threshold on its singular values."""

from dataclasses import dataclass

import numpy as np

from ufm.models.base import Model, need_positive
from ufm.models.objective.losses import SquaredError, column_weights, one_hot
from ufm.models.objective.peeled import Peeled


@dataclass(frozen=True, kw_only=True)
class Squared(Model):
    """min 1/(2n) |W H + b 1^T - Y|_F^2 + lw/2 |W|^2 + lh/2 |H|^2 (+ lb/2 |b|^2), n examples in all."""

    lambda_w: float = 1e-2
    lambda_h: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        need_positive(lambda_w=self.lambda_w, lambda_h=self.lambda_h)

    @property
    def bias_penalty(self) -> float | None:
        """None without a bias, 0 with a free one."""
        return None

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """W, H and, where there is one, b."""
        return super().shapes if self.bias_penalty is None else (*super().shapes, (self.C, 1))

    @property
    def shrinkage(self) -> np.ndarray:
        """n sqrt(lw lh / n_k), what every class loses of its singular value; at balance c = C sqrt(N lw lh). (C,)"""
        return self.layout.n * np.sqrt(self.lambda_w * self.lambda_h / np.asarray(self.layout.sizes))

    def objective(self, device: str = "cpu") -> Peeled:
        """The penalised squared error."""
        loss = SquaredError(one_hot(self.layout, device), column_weights(self.layout, 1 / self.layout.n, device))
        return Peeled(loss, (self.lambda_w, self.lambda_h), self.bias_penalty)


def thresholded(c: float) -> float:
    """c - c^2/2 below c = 1, 1/2 from there on: min over s >= 0 of (1-s)^2/2 + c s."""
    return c - c * c / 2 if c < 1 else 0.5
