"""Norms, cosines and self-duality of the columns of matrices (..., P, C): what NC2 and NC3 are made of."""

import math
from typing import Any

import numpy as np

from manifolds.linalg import detached, namespace
from ufm.arrays import ArrayT, Scalars, Weights, check_scale

WEIGHTS = "weights W"  # as refusals name them
MOST_COSINES = 2**20  # cosines held at once: 8 MB


def norms(vectors: ArrayT) -> ArrayT:
    """||v_c|| of columns. (..., P, C) -> (..., C)"""
    return (vectors * vectors).sum(-2) ** 0.5


def unit_vectors(vectors: ArrayT) -> ArrayT:
    """v_c / ||v_c|| of columns. (..., P, C) -> (..., P, C)"""
    return vectors / norms(vectors)[..., None, :]


def unit_rows(vectors: ArrayT, refusal: str) -> ArrayT:
    """v_i / ||v_i|| of rows (n, P), whose squares may overflow their dtype. Raises ValueError(refusal) where one is zero."""
    largest = namespace(vectors).amax(abs(vectors), -1)[:, None]
    if not float(largest.min()) > 0:
        raise ValueError(refusal)
    scaled = vectors / largest
    return scaled / (scaled * scaled).sum(-1)[:, None] ** 0.5


def unit_matrix(a: ArrayT, what: str) -> ArrayT:
    """a / ||a||_F, whose squares may overflow or vanish. Raises ValueError where a is zero, and for NaN or infinite entries."""
    largest = abs(a).max()
    if not float(largest) < float("inf"):
        raise ValueError(f"{what} have NaN or infinite entries")
    if not float(largest) > 0:
        raise ValueError(f"{what} are zero: they have no direction")
    scaled = a / largest
    return scaled / (scaled * scaled).sum() ** 0.5


def unit_weights(W: Weights[ArrayT]) -> Weights[ArrayT]:
    """W / ||W||_F of W (C, P), no torch record for derivatives. Raises ValueError for other shapes, and as `unit_matrix`."""
    W = detached(W)
    if W.ndim != 2 or 0 in W.shape:
        raise ValueError(f"W has shape {tuple(W.shape)}: (C, P) is needed, one row a class")
    return unit_matrix(W, WEIGHTS)


def nonzero_columns(vectors: ArrayT) -> ArrayT:
    """The columns (P, C) themselves. Raises ValueError where one is zero, and for no finite matrix."""
    vectors = detached(vectors)
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise ValueError(f"vectors have shape {tuple(vectors.shape)}: (P, C) is needed, one column a class")
    largest = float(abs(vectors).max())
    if math.isnan(largest):
        raise ValueError("a vector has NaN entries")
    check_scale(largest, "entries of vectors")
    if not float(norms(vectors).min()) > 0:
        raise ValueError("a vector is zero: its angle and the measures built on it are not defined")
    return vectors


def pair_cosines(vectors: ArrayT) -> ArrayT:
    """cos(v_c, v_c') of the pairs c < c' of columns. (..., P, C) -> (..., C(C-1)/2)"""
    unit = unit_vectors(vectors)
    first, second = np.triu_indices(vectors.shape[-1], 1)
    return (unit.mT @ unit)[..., first, second]


def maximal_angle(vectors: ArrayT, at_a_time: int = MOST_COSINES) -> Scalars[ArrayT]:
    """Avg_{c != c'} |cos(v_c, v_c') + 1/(C-1)| of columns, P C^2 operations, all of them products. (..., P, C) -> (...)

    Two tiles of columns at a time, so that `at_a_time` cosines are in memory whatever C.
    """
    C = vectors.shape[-1]
    unit, target = unit_vectors(vectors), 1 / (C - 1)
    tile = max(1, math.isqrt(at_a_time // max(math.prod(vectors.shape[:-2]), 1)))
    total = 0 * unit[..., 0, 0]
    for start in range(0, C, tile):
        rows = unit[..., start : start + tile].mT
        own = rows @ rows.mT
        own += target
        own.reshape(*own.shape[:-2], -1)[..., :: own.shape[-1] + 1] = 0.0  # the diagonal
        total = total + _absolute_sum(own) / 2
        for other in range(start + tile, C, tile):
            cosines = rows @ unit[..., other : other + tile]
            cosines += target
            total = total + _absolute_sum(cosines)
    return total / (C * (C - 1) / 2)


def sample_deviation(values: ArrayT) -> Scalars[ArrayT]:
    """Standard deviation over the last axis, its sum of squares divided by the count less one; 0 for a single value. (...)"""
    centred = values - values.mean(-1)[..., None]
    return ((centred * centred).sum(-1) / max(values.shape[-1] - 1, 1)) ** 0.5


def self_duality(a: ArrayT, b: ArrayT) -> Scalars[ArrayT]:
    """|| a / ||a||_F - b / ||b||_F ||_F^2 over the last two axes. (...)"""
    return ((_unit_matrices(a) - _unit_matrices(b)) ** 2).sum(-1).sum(-1)


def _unit_matrices(a: ArrayT) -> ArrayT:
    return a / ((a * a).sum(-1).sum(-1) ** 0.5)[..., None, None]


def _absolute_sum(values: Any) -> Any:
    """sum |values| over the last two axes, computed in place. (..., m, k) -> (...)"""
    return (np.abs(values, out=values) if namespace(values) is np else values.abs_()).sum((-2, -1))
