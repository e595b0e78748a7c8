"""Norms, cosines and self-duality of the columns of matrices (..., P, C): what NC2 and NC3 are made of."""

import math

import numpy as np

from ufm.arrays import ArrayT, Scalars

AT_A_TIME = 2**21  # cosines held at once: 16 MB


def norms(vectors: ArrayT) -> ArrayT:
    """||v_c|| of columns. (..., P, C) -> (..., C)"""
    return (vectors * vectors).sum(-2) ** 0.5


def pair_cosines(vectors: ArrayT) -> ArrayT:
    """cos(v_c, v_c') of the pairs c < c' of columns. (..., P, C) -> (..., C(C-1)/2)"""
    unit = vectors / norms(vectors)[..., None, :]
    first, second = np.triu_indices(vectors.shape[-1], 1)
    return (unit.mT @ unit)[..., first, second]


def maximal_angle(vectors: ArrayT, at_a_time: int = AT_A_TIME) -> Scalars[ArrayT]:
    """Avg_{c != c'} |cos(v_c, v_c') + 1/(C-1)| of columns, `at_a_time` cosines in memory whatever C. (..., P, C) -> (...)"""
    C = vectors.shape[-1]
    unit, target = vectors / norms(vectors)[..., None, :], 1 / (C - 1)
    rows = max(1, at_a_time // max(math.prod(vectors.shape[:-2]) * C, 1))
    total = 0 * unit[..., 0, 0]
    for start in range(0, C, rows):
        tile = unit[..., start : start + rows].mT
        own, first, second = tile @ tile.mT, *np.triu_indices(tile.shape[-2], 1)
        total = total + abs(own[..., first, second] + target).sum(-1)
        total = total + abs(tile @ unit[..., start + rows :] + target).sum(-1).sum(-1)
    return total / (C * (C - 1) / 2)


def sample_deviation(values: ArrayT) -> Scalars[ArrayT]:
    """Standard deviation over the last axis, its sum of squares divided by the count less one; 0 for a single value. (...)"""
    centred = values - values.mean(-1)[..., None]
    return ((centred * centred).sum(-1) / max(values.shape[-1] - 1, 1)) ** 0.5


def self_duality(a: ArrayT, b: ArrayT) -> Scalars[ArrayT]:
    """|| a / ||a||_F - b / ||b||_F ||_F^2 over the last two axes. (...)"""
    return ((_unit(a) - _unit(b)) ** 2).sum(-1).sum(-1)


def _unit(a: ArrayT) -> ArrayT:
    return a / ((a * a).sum(-1).sum(-1) ** 0.5)[..., None, None]
