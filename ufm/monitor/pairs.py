"""Angles between all pairs of very many vectors, a tile of them at a time: 1e5 classes have 5e9 pairs."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ufm.features import measures

MOST_AT_ONCE = 2048  # vectors whose cosines are one table, of 32 MB
TILE = 256  # vectors; a tile of their cosines stays in the cache


def angles(vectors: Tensor) -> tuple[float, float]:
    """`phd_equiangular` and `phd_maximal_angle` of the columns (P, C), in memory of one tile whatever C.

    Raises ValueError where a vector is zero.
    """
    if vectors.shape[1] <= MOST_AT_ONCE:
        return measures.phd_equiangular(vectors), measures.phd_maximal_angle(vectors)
    return tiled_angles(vectors, TILE)


def tiled_angles(vectors: Tensor, tile: int) -> tuple[float, float]:
    """Std over pairs of cos(v_c, v_c') and Avg of |cos + 1/(C-1)|, tiles merged by Chan, Golub & LeVeque (1983)."""
    measures.phd_equinorm(vectors)  # raises where one of them is zero
    unit, C = vectors / (vectors * vectors).sum(0) ** 0.5, vectors.shape[1]
    count, mean, squares, distance = 0, 0.0, 0.0, 0.0
    for cosines in _tiles(unit, tile):
        n, own = len(cosines), float(cosines.mean())
        gap, total = own - mean, count + n
        squares += float(((cosines - own) ** 2).sum()) + gap * gap * count * n / total
        mean, count = mean + gap * n / total, total
        distance += float((cosines + 1 / (C - 1)).abs().sum())
    return (squares / max(count - 1, 1)) ** 0.5, distance / count


def _tiles(unit: Tensor, tile: int) -> Iterator[Tensor]:
    """The cosines of the pairs c < c', one tile after the other, flat."""
    C = unit.shape[1]
    for start in range(0, C, tile):
        rows = unit[:, start : start + tile]
        own = rows.mT @ rows
        above = torch.ones_like(own, dtype=torch.bool).triu(1)
        if own.shape[1] > 1:
            yield own[above]
        for other in range(start + tile, C, tile):
            yield (rows.mT @ unit[:, other : other + tile]).reshape(-1)
