"""Distances of a classifier W (C, P) and features H (P, n) from the simplex ETF and from the orthogonal frame."""

import numpy as np
import torch
from torch import Tensor

from manifolds.class_centering import ClassLayout
from ufm.features.vectors import pair_cosines, self_duality


def simplex_bound(C: int, margin: float) -> float:
    """log(1 + (C-1) e^{-margin}): cross-entropy where every logit of a wrong class lies `margin` below the right one."""
    return float(np.log1p((C - 1) * np.exp(-margin)))


def centred_identity(C: int, like: Tensor) -> Tensor:
    """I - 11^T/C, the Gram matrix of a simplex ETF up to scale. (C, C)"""
    return identity(C, like) - 1 / C


def identity(C: int, like: Tensor) -> Tensor:
    """I, the Gram matrix of an orthogonal frame up to scale. (C, C)"""
    return torch.eye(C, dtype=like.dtype, device=like.device)


def within_share(H: Tensor, layout: ClassLayout) -> float:
    """|H - class means|^2 / |H|^2: 0 at NC1, at most 1."""
    return float(layout.deviations(H).norm() ** 2 / H.norm() ** 2)


def gram_defect(A: Tensor, target: Tensor) -> float:
    """C max |A A^T / tr(A A^T) - target / tr target|: 0 where the rows of A (C, P) have the target's Gram matrix up to size."""
    gram = A @ A.mT
    return float((gram / gram.trace() - target / target.trace()).abs().max() * len(target))


def collapse(W: Tensor, H: Tensor, layout: ClassLayout, target: Tensor) -> dict[str, float]:
    """Defects of NC1, NC2 and NC3, each 0 at collapse; `target` is the class means' Gram matrix up to size. (C, C)

    Class means are not centred: all models here predict a mean of zero with the ETF, and a frame has none.
    """
    M = layout.means(H)
    return {"NC1": within_share(H, layout), "NC2": gram_defect(M.mT, target), "NC3": float(self_duality(W, M.mT))}


def extreme_cosines(A: Tensor) -> list[float]:
    """The smallest and the largest cosine between different rows of A."""
    values = pair_cosines(A.mT)
    return [float(values.min()), float(values.max())]


def right_logits(Z: Tensor, layout: ClassLayout) -> Tensor:
    """The logit of its own class in every column. (C, n) -> (1, n)"""
    return Z.gather(0, torch.as_tensor(layout.labels, device=Z.device)[None])


def wrong(layout: ClassLayout, like: Tensor) -> Tensor:
    """Where a logit belongs to another class than its column. (C, n)"""
    return torch.arange(layout.C, device=like.device)[:, None] != torch.as_tensor(layout.labels, device=like.device)


def logit_gap(Z: Tensor, layout: ClassLayout) -> list[float]:
    """The smallest and the largest difference between a right logit and a wrong one. Z (C, n)"""
    gaps = (right_logits(Z, layout) - Z)[wrong(layout, Z)]
    return [float(gaps.min()), float(gaps.max())]


def logit_range(Z: Tensor, layout: ClassLayout) -> list[float]:
    """The smallest and the largest right logit, then the smallest and the largest wrong one. Z (C, n)"""
    right, others = right_logits(Z, layout), Z[wrong(layout, Z)]
    return [float(v) for v in (right.min(), right.max(), others.min(), others.max())]


def diagonal_logits(Z: Tensor, layout: ClassLayout) -> dict[str, float | list[float]]:
    """For logits that should be diag(s) Y: mean right logit of every class, their spread inside a class, largest wrong one."""
    right = right_logits(Z, layout)
    means = layout.means(right)
    return {
        "logits": means[0].tolist(),
        "logits_spread": float((right - layout.spread(means)).abs().max()),
        "logits_off_diagonal": float(Z[wrong(layout, Z)].abs().max()),
    }
