"""Around a class mean every decision is the one made at it: within which radius, so that rows inside need no scores.

For scores s_c(h) = w_c . h + b_c, with k the best at the mean mu,
s_k(h) - s_c(h) >= s_k(mu) - s_c(mu) - ||w_k - w_c|| ||h - mu||: the certified radius is the least of
(s_k(mu) - s_c(mu)) / ||w_k - w_c|| over the other classes. For the nearest class mean, w_c = 2 mu_c and b_c = -||mu_c||^2, it
is half the distance to the next mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manifolds.representation import short_repr
from ufm.features import nearest_class_mean

SINGLE, DOUBLE = torch.finfo(torch.float32), torch.finfo(torch.float64)
PAIRS_AT_ONCE = 2**18  # of points and classes: 2 MB a matrix


@dataclass(frozen=True, eq=False, repr=False)
class LinearScores:
    """x -> weights x + offsets, float64; of two offsets the difference is off by at most `rounding`. (C, P), (C,), ()"""

    weights: Tensor
    offsets: Tensor
    rounding: Tensor
    __repr__ = short_repr


@dataclass(frozen=True, eq=False, repr=False)
class Decided:
    """For every row the best class, and whether that is certain. (n,), (n,)"""

    best: Tensor
    certain: Tensor
    __repr__ = short_repr


class CertifiedDecisions:
    """What linear scores (several) decide inside of the certified radii around points (P, K), float64.

    Point k belongs to the rows of label `classes[k]` (k itself); a row of another class is only less likely to be inside.
    """

    def __init__(self, points: Tensor, classes: Tensor | None, scores: Sequence[LinearScores]) -> None:
        self._points = points.mT.float()
        self._longest = torch.linalg.vector_norm(points, dim=0).max()
        self._radii = [certified_radii(points, linear) for linear in scores]
        self._slots: Tensor | None = None
        if classes is not None:
            self._slots = torch.zeros(int(classes.max()) + 1, dtype=torch.int64, device=classes.device)
            self._slots[classes] = torch.arange(len(classes), device=classes.device)

    def __call__(self, x: Tensor, labels: Tensor) -> list[Decided]:
        """The decisions of every linear score on float32 rows x (n, P)."""
        slots = labels if self._slots is None else self._slots[labels]
        distances = torch.linalg.vector_norm(self._points[slots].sub_(x), dim=1)
        # x, the points and each of P squares are rounded, and squares below `tiny` may vanish
        furthest = distances + (x.shape[1] + 8) * (SINGLE.eps * (distances + self._longest) + SINGLE.tiny**0.5)
        return [Decided(best[slots], furthest < radii[slots]) for best, radii in self._radii]


def certified_radii(points: Tensor, scores: LinearScores) -> tuple[Tensor, Tensor]:
    """The best class at every point (P, K) and the radius around it in which no other is as good. (K,), (K,), float64."""
    weights, offsets = scores.weights, scores.offsets
    best = torch.zeros(points.shape[1], dtype=torch.int64, device=points.device)
    radii = torch.zeros(points.shape[1], dtype=torch.float64, device=points.device)
    squares, lengths = (weights * weights).sum(1), torch.linalg.vector_norm(points, dim=0)
    rounding = (len(points) + 8) * DOUBLE.eps
    step = max(PAIRS_AT_ONCE // len(weights), nearest_class_mean.LEAST_ROWS)
    for start in range(0, len(radii), step):
        piece = slice(start, start + step)
        values = torch.addmm(offsets, points[:, piece].mT, weights.mT)
        highest, best[piece] = values.max(1)
        own = best[piece]
        gaps = torch.addmm(squares, weights[own], weights.mT, alpha=-2).add_(squares[own][:, None])  # ||w_k - w_c||^2
        gaps = gaps.add_(rounding * 4 * squares.max()).clamp_(min=DOUBLE.tiny).sqrt_()
        unsure = rounding * 4 * (lengths[piece] * squares.max().sqrt() + offsets.abs().max()) + scores.rounding
        margins = values.neg_().add_((highest - unsure)[:, None])
        radii[piece] = margins.div_(gaps).scatter_(1, own[:, None], torch.inf).amin(1)
    return best, radii
