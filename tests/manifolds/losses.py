"""The losses of the theory as torch functions of features X (P, n), for optimizers that differentiate them."""

import torch

from manifolds.class_centering import ClassLayout


def least_squares(X: torch.Tensor, layout: ClassLayout, lam: float = 0.0) -> torch.Tensor:
    """min over W, b of ||W X + b 1^T - Y||^2 / 2n + lam ||W||^2 / 2: L_LS, constant on fibres for lam = 0."""
    Y = torch.eye(layout.C, dtype=X.dtype)[torch.from_numpy(layout.labels)].T
    X, Y = X - X.mean(-1, keepdim=True), Y - Y.mean(-1, keepdim=True)
    B = Y @ X.T / layout.n
    total = X @ X.T / layout.n + lam * torch.eye(X.shape[-2], dtype=X.dtype)
    return ((Y * Y).sum() / layout.n - (B * torch.linalg.solve(total, B.T).T).sum()) / 2


def cross_entropy(X: torch.Tensor, layout: ClassLayout, lam: float = 1e-2) -> torch.Tensor:
    """Cross-entropy of logits W X with W the simplex ETF on the first C axes, and weight decay lam ||X||^2 / 2n on features."""
    C, P = layout.C, X.shape[-2]
    W = torch.zeros(C, P, dtype=X.dtype)
    W[:, :C] = torch.eye(C, dtype=X.dtype) - 1 / C
    labels = torch.from_numpy(layout.labels)
    return torch.nn.functional.cross_entropy((W @ X).T, labels) + lam * (X * X).sum() / (2 * layout.n)
