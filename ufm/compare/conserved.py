"""What a flow of the features conserves, over all epochs that are stored: how far it has changed, besides jitter and a factor.

A(r) = Sigma_W + S S^T / r, S = M diag(q), q = sqrt(pi): Sigma_T for r = 1, Sigma_W for r = inf. Two views of A_t against A_0:

entries       A_t / c_t - A_0 over ||A_0||, in the basis of the features: all directions, the largest weigh most
class means   C_t / c_t - I over sqrt(K), C_t = N'^{1/2} N^{-1} N'^{1/2}, with N = S_t^T A_t^{-1} S_t, which gives omega, and N' =
              S_t^T A_0^{-1} S_t, what it would be had A stayed: the directions that matter to the SNR, in any basis

with the common factor c_t nearest to the change, that of feature decay where it is at most 1. The second needs C x C matrices:
N = G (I + G / r)^{-1}, G = S_t^T Sigma_W^{-1} S_t, and N' = F - X^T (r I + G_0)^{-1} X with F and X of `ConservedProducts`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from manifolds.representation import short_repr
from ufm.compare.coordinates import Entry, LayerBelow, factor_of, frame_of, white_means

STRETCHES = 4  # that the epochs of a run are averaged in, a single epoch each where there are fewer than twice as many
MOST_LOOKED_AT = 30  # of more, so many are looked at, spread evenly: the products of entries grow with their square
DEVIATIONS = 2.0  # standard deviations of its jitter by which a single epoch may lie farther off


@dataclass(frozen=True, eq=False, repr=False)
class ConservedProducts:
    """Of the epochs of a run, Sigma_t that of epoch t: G = S_t^T Sigma_t^{-1} S_t, F = S_t^T Sigma_0^{-1} S_t and X = S_0^T
    Sigma_0^{-1} S_t, (T, C, C) each; the inner products of all Sigma_t and all S_t S_t^T, in this order. (2 T, 2 T)
    """

    G: np.ndarray
    F: np.ndarray
    X: np.ndarray
    entries: np.ndarray
    __repr__ = short_repr


def conserved_products(entries: Sequence[Entry], whole: Sequence[Entry] | None = None) -> ConservedProducts:
    """From the class statistics of several epochs in one basis, for the inner products those in all directions (`whole`) where
    Sigma_W has not the whole range. Raises ValueError where it is singular in the basis.
    """
    rows = np.unique(np.round(np.linspace(0, len(entries) - 1, min(len(entries), MOST_LOOKED_AT))).astype(int))
    kept = [entries[k] for k in rows]
    first, S = factor_of(kept[0].sigma_w), [entry.M * np.sqrt(entry.priors) for entry in kept]
    fixed = [white_means(first, means) for means in S]
    own = [white_means(factor_of(entry.sigma_w), means) for entry, means in zip(kept, S, strict=True)]
    G, F = (np.array([white.T @ white for white in whites]) for whites in (own, fixed))
    X = np.array([fixed[0].T @ white for white in fixed])
    products = _inner_products(kept if whole is None else [whole[k] for k in rows])
    return ConservedProducts(G, F, X, products)


def _inner_products(entries: Sequence[Entry]) -> np.ndarray:
    T, sigmas = len(entries), [entry.sigma_w for entry in entries]
    S = [entry.M * np.sqrt(entry.priors) for entry in entries]
    side_by_side = np.hstack(S)
    products = np.empty((2 * T, 2 * T))
    for s in range(T):
        products[s, :T] = [float(np.vdot(sigmas[s], sigma)) for sigma in sigmas]
        products[s, T:] = ((sigmas[s] @ side_by_side) * side_by_side).sum(0).reshape(T, -1).sum(1)
        products[T + s, T:] = ((S[s].T @ side_by_side) ** 2).sum(0).reshape(T, -1).sum(1)
    products[T:, :T] = products[:T, T:].T
    return products


def change_of_entries(products: ConservedProducts, r: float) -> tuple[float, float]:
    """The common factor of A(r) at the last epoch, and by how much of its norm it has changed besides one (`_factor`)."""
    T = len(products.G)
    parts = np.array([1.0, 1 / r])
    A = np.einsum("i,isjt,j->st", parts, products.entries.reshape(2, T, 2, T), parts)
    factor = A[0] / A[0, 0]
    c = _factor(factor, r)
    one = A / np.outer(c, c) - A[0] / c - (A[0] / c)[:, None] + A[0, 0]
    return float(c[-1]), largest_change(one / A[0, 0])


def change_seen_by_class_means(products: ConservedProducts, r: float) -> float:
    """By how much A(r) has changed in the directions of the class means, besides a common factor (`_factor`).

    Infinite where the class means have lost a direction of the start.
    """
    G0, one = products.G[0], np.eye(products.G.shape[1])
    frame = frame_of(G0)
    N, kept = products.G, products.F
    if np.isfinite(r):
        N = N @ np.linalg.inv(one + N / r)
        kept = kept - products.X.mT @ np.linalg.solve(r * one + G0, products.X)
    N, kept = (frame.T @ x @ frame for x in (N, kept))
    values, vectors = np.linalg.eigh((kept + kept.mT) / 2)
    if not (values > 0).all() or not (np.linalg.eigvalsh((N + N.mT) / 2) > 0).all():
        return np.inf
    half = (vectors * np.sqrt(values)[:, None]) @ vectors.mT
    C = half @ np.linalg.solve(N, half)
    K = C.shape[1]
    c = _factor(np.trace(C, axis1=1, axis2=2) / K, r)
    moved = (C / c[:, None, None] - np.eye(K)).reshape(len(C), -1)
    return largest_change(moved @ moved.T / K)


def change_of_layer(first: LayerBelow, last: LayerBelow, priors: np.ndarray) -> float:
    """By how much of its norm A A^T has changed besides the factor of weight decay, at most 1, which is the flow's at another
    clock; or Sigma_W or the class means of the layer below, whichever most.
    """
    q, before, after = np.sqrt(priors), first.A @ first.A.T, last.A @ last.A.T
    decay = min(float(np.vdot(before, after) / np.vdot(before, before)), 1.0)
    pairs = ((before, after / decay), (first.sigma_w, last.sigma_w), (first.M * q, last.M * q))
    return max(float(np.linalg.norm(after - before) / np.linalg.norm(before)) for before, after in pairs)


def _factor(c: np.ndarray, r: float) -> np.ndarray:
    """The common factor a flow may have: of feature decay, which enlarges nothing; for Sigma_W alone (r = inf) of any size:
    the share of the class means in the growth of log omega tells it.
    """
    return np.minimum(c, 1.0) if np.isfinite(r) else c


def largest_change(inner: np.ndarray) -> float:
    """The largest change since the first of T epochs, from the inner products (T, T) of what each is off by.

    The epochs jitter: their variance is that of the second differences, which a steady change leaves alone (a sixth of the mean
    square). In the means of consecutive epochs, whose noise averages out, the change is what stands out of the jitter: squared
    difference less the variance that jitter gives it. It cannot be known better than to the standard deviation of that noise,
    which is therefore the least that is returned. A single epoch counts by what is beyond DEVIATIONS of its own.
    """
    T = len(inner)
    differ = np.diff(np.eye(T), n=min(2, T - 1), axis=0)
    jitter = float(np.einsum("is,st,it->i", differ, inner, differ).mean() / (differ[0] ** 2).sum())
    single = _squared_distances(inner).max() ** 0.5 - DEVIATIONS * (2 * max(jitter, 0.0)) ** 0.5
    edges = np.linspace(0, T, (STRETCHES if T >= 2 * STRETCHES else T) + 1).astype(int)
    means = np.array([(np.arange(T) >= low) & (np.arange(T) < high) for low, high in pairwise(edges)]) / np.diff(edges)[:, None]
    noise = jitter * (1 / np.diff(edges) + 1 / edges[1])[1:]
    standing = (_squared_distances(means @ inner @ means.T)[1:] - noise).max()
    return float(max(single, max(standing, noise.max(), 0.0) ** 0.5))


def _squared_distances(inner: np.ndarray) -> np.ndarray:
    """Squared distances from the first of what has these inner products."""
    own = np.diagonal(inner)
    return np.maximum(own + own[0] - 2 * inner[0], 0.0)
