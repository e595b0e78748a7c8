"""Linear maps of all the kinds that a network has, as matrices, and an oracle of G that shares nothing with the code."""

import numpy as np
import torch
from hypothesis import strategies as st

from manifolds.class_centering import ClassLayout
from ufm.features.statistics import ClassStatistics, statistics_of
from ufm.ledger.discrimination import Discrimination, discrimination

EPS = float(np.finfo(np.float64).eps)
KINDS = ("dense", "wide", "low rank", "mask", "pool", "convolution", "batch norm", "permutation", "repeat")


def labels_of(layout: ClassLayout) -> np.ndarray:
    return np.repeat(np.arange(layout.C), layout.sizes)


def form_of(H: np.ndarray, layout: ClassLayout) -> Discrimination:
    return discrimination(statistics_of(H.T, labels_of(layout), layout.C), EPS)


def statistics(H: np.ndarray, layout: ClassLayout) -> ClassStatistics:
    return statistics_of(H.T, labels_of(layout), layout.C)


def dense_form(H: np.ndarray, layout: ClassLayout) -> np.ndarray:
    """Mbar^T Sigma_W^{-1} Mbar from loops over classes and a solve."""
    y = labels_of(layout)
    mu = H.mean(1)
    M = np.stack([H[:, y == c].mean(1) - mu for c in range(layout.C)], 1)
    sigma = sum((H[:, i] - M[:, y[i]] - mu)[:, None] * (H[:, i] - M[:, y[i]] - mu) for i in range(len(y))) / len(y)
    return M.T @ np.linalg.solve(sigma, M)


def matrix(kind: str, P: int, rng: np.random.Generator) -> np.ndarray:
    """A (P', P) of a kind; all but 'batch norm', 'permutation', 'wide' and 'repeat' may lose something."""
    if kind == "dense":
        return rng.standard_normal((max(P - 1, 1), P))
    if kind == "wide":
        return rng.standard_normal((P + 3, P))
    if kind == "low rank":
        r = max(P // 2, 1)
        return rng.standard_normal((P + 2, r)) @ rng.standard_normal((r, P))
    if kind == "mask":
        return np.diag((np.arange(P) != rng.integers(P)).astype(float)) if P > 1 else np.eye(P)
    if kind == "pool":
        return np.kron(np.eye(-(-P // 2)), [[0.5, 0.5]])[:, :P]
    if kind == "convolution":
        layer = torch.nn.Conv1d(1, 2, 3, padding=1, bias=False).double()
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(rng.standard_normal((2, 1, 3))))
            return layer(torch.eye(P).double()[:, None, :]).flatten(1).T.numpy()
    if kind == "batch norm":
        return np.diag(rng.uniform(0.1, 10, P) * rng.choice([-1, 1], P))
    if kind == "permutation":
        return np.eye(P)[rng.permutation(P)]
    return np.concatenate([np.eye(P), np.eye(P)])


kinds = st.sampled_from(KINDS)
INVERTIBLE = ("wide", "batch norm", "permutation", "repeat")
