"""What is done to states with more features than a covariance can hold: a fixed linear map to few, whose omega are lower bounds.

A reduction is linear, so by the theorem no omega of the reduced features exceeds that of the whole ones. How much is lost depends
on the data: for a random k-dimensional view of a signal spread evenly over P whitened dimensions the share kept of omega^2 is
Beta(k/2, (P-k)/2), k / P on average; `halved` serves to measure on the data themselves what a sketch half as wide loses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
import torch
from torch import Tensor

from manifolds.linalg import ArrayT
from manifolds.representation import short_repr
from ufm.features.statistics import ClassStatistics

LIMIT = 512
Shapes = Sequence[tuple[int, ...]]


@dataclass(frozen=True, repr=False)
class Sketch:
    """States beyond `limit` features as signed sums of disjoint random groups, `limit` of them: a linear map, orthogonal rows.

    One map for one number of features and one seed.
    """

    limit: int = LIMIT
    seed: int = 0
    _maps: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False, compare=False)
    __repr__ = short_repr

    def __post_init__(self) -> None:
        if self.limit < 2:
            raise ValueError(f"limit = {self.limit}: at least 2 features must be kept")

    def keeps(self, shapes: Shapes) -> bool:
        """Whether a state of tensors of these shapes (b, ...) is left whole."""
        return sum(prod(shape[1:]) for shape in shapes) <= self.limit

    def __call__(self, state: Sequence[Tensor]) -> Tensor:
        """float64 rows (b, min(P, limit)) of tensors (b, ...) side by side."""
        flat = torch.cat([tensor.reshape(len(tensor), -1) for tensor in state], 1)
        P = flat.shape[1]
        if self.limit >= P:
            return flat.double()
        if P not in self._maps:
            self._maps[P] = self._draw(P)
        order, sign = (a.to(flat.device) for a in self._maps[P])
        width = -(-P // self.limit)
        mixed = torch.nn.functional.pad(flat[:, order] * sign, (0, width * self.limit - P))
        return mixed.reshape(len(flat), width, self.limit).sum(1, dtype=torch.float64) / width**0.5

    def _draw(self, P: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, P))
        return torch.from_numpy(rng.permutation(P)), torch.from_numpy(rng.choice([-1.0, 1.0], P)).float()


@dataclass(frozen=True)
class ChannelMeans:
    """Maps (b, channels, ...) of states beyond `limit` features as their means over positions, sketched where still too many.

    With `always`, maps of smaller states too: then the rows of one network are reduced alike, and where its linear operations
    commute with the mean over positions, the channel means have a ledger of their own.
    With `on_cpu` the rows are brought to the memory of the CPU: statistics of few channels, for which a GPU is waited for
    more often than it works.
    """

    limit: int = LIMIT
    seed: int = 0
    always: bool = False
    on_cpu: bool = False

    def __post_init__(self) -> None:
        Sketch(self.limit)

    def keeps(self, shapes: Shapes) -> bool:
        """Whether a state of tensors of these shapes (b, ...) is left whole."""
        if self.always and any(len(shape) > 2 for shape in shapes):
            return False
        return Sketch(self.limit).keeps(shapes)

    def __call__(self, state: Sequence[Tensor]) -> Tensor:
        """float64 rows (b, k), k <= limit, of tensors (b, ...) side by side."""
        if not self.keeps([tuple(tensor.shape) for tensor in state]):
            state = [t.flatten(2).mean(2, dtype=torch.float64) if t.ndim > 2 else t for t in state]
        rows = Sketch(self.limit, self.seed)(state)
        return rows.cpu() if self.on_cpu else rows


StateReduction = Sketch | ChannelMeans


def halved(stats: ClassStatistics[ArrayT]) -> ClassStatistics[ArrayT]:
    """The statistics of the sums of pairs of features (1, 2), (3, 4), ...: a sketch half as wide, of the sketch."""
    P = stats.P - stats.P % 2
    means = stats.means[:P].reshape(P // 2, 2, -1).sum(1)
    sigma = stats.sigma_w[:P, :P].reshape(P // 2, 2, P // 2, 2).sum(3).sum(1)
    rounding = None if stats.rounding is None else stats.rounding[:P].reshape(P // 2, 2, -1).sum(1)
    return replace(stats, means=means, sigma_w=sigma, rounding=rounding)
