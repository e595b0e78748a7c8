"""Norms, cosines and self-duality of the columns of matrices (..., P, C): what NC2 and NC3 are made of."""

import numpy as np

from ufm.arrays import ArrayT, Scalars


def norms(vectors: ArrayT) -> ArrayT:
    """||v_c|| of columns. (..., P, C) -> (..., C)"""
    return (vectors * vectors).sum(-2) ** 0.5


def pair_cosines(vectors: ArrayT) -> ArrayT:
    """cos(v_c, v_c') of the pairs c < c' of columns. (..., P, C) -> (..., C(C-1)/2)"""
    unit = vectors / norms(vectors)[..., None, :]
    first, second = np.triu_indices(vectors.shape[-1], 1)
    return (unit.mT @ unit)[..., first, second]


def sample_deviation(values: ArrayT) -> Scalars[ArrayT]:
    """Standard deviation over the last axis, its sum of squares divided by the count less one; 0 for a single value. (...)"""
    centred = values - values.mean(-1)[..., None]
    return ((centred * centred).sum(-1) / max(values.shape[-1] - 1, 1)) ** 0.5


def self_duality(a: ArrayT, b: ArrayT) -> Scalars[ArrayT]:
    """|| a / ||a||_F - b / ||b||_F ||_F^2 over the last two axes. (...)"""
    return ((_unit(a) - _unit(b)) ** 2).sum(-1).sum(-1)


def _unit(a: ArrayT) -> ArrayT:
    return a / ((a * a).sum(-1).sum(-1) ** 0.5)[..., None, None]
