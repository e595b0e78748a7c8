"""The penalised squared error with any targets: regression, class encodings, noisy labels, unequal classes, one theorem."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from ufm.arrays import as_numpy
from ufm.features.regression_collapse import andriopoulos_nrc1, andriopoulos_nrc2, andriopoulos_nrc3
from ufm.models.base import Facts, Quantities, Solved
from ufm.models.objective.losses import SquaredError, column_weights
from ufm.models.objective.peeled import Peeled, Point
from ufm.models.sizes import AnySizes
from ufm.models.solvers.flat import FLAT_SOLVERS
from ufm.models.squared import Optimum, Squared

KINDS = ("regression", "encodings", "noisy-labels", "classes")
BIASES = {"free": 0.0, "none": None}


@dataclass(frozen=True, kw_only=True)
class AnyTarget(AnySizes, Squared):
    """min 1/(2n) |W H + b 1^T - Y|_F^2 + lw/2 |W|^2 + lh/2 |H|^2 for targets Y (C, n) of four kinds, b free or absent.

    W H = U (S - tau)_+ V^T with Y - b 1^T = U S V^T, tau = n sqrt(lw lh), b the mean of the targets: `ufm.models.squared.Optimum`
    has all of it, for targets of one's own too. In the covariance of the targets, with c = n lw lh:
    W W^T = sqrt(n lh/lw) [Sigma^{1/2} - sqrt(c) I]_+, the collapse NRC1 to NRC3 of regression.
    """

    facts: ClassVar[Facts] = Facts(
        name="mse-any-target",
        paper="Andriopoulos, Dong, Guo, Zhao & Ross 2024, arXiv 2409.04180",
        loss="squared error, any targets",
        constraint="weight decay on W and H",
        theory="W H = U (S - n sqrt(lw lh))_+ V^T of the targets Y - b 1^T = U S V^T; W W^T ~ [Sigma^{1/2} - sqrt(c) I]_+",
        domain="lw, lh > 0; any P unless it cuts through equal singular values",
        needs="targets, bias and noise choose its problem, the penalties are on W and H",
    )
    solvers = FLAT_SOLVERS
    C: int = 3
    targets: str = "regression"
    bias: str = "free"
    noise: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets not in KINDS:
            raise ValueError(f"targets = {self.targets}: unknown here; choose from {', '.join(KINDS)}")
        if self.bias not in BIASES:
            raise ValueError(f"bias = {self.bias}: unknown here; choose from {', '.join(BIASES)}")
        if not 0 <= self.noise < 1:
            raise ValueError(f"noise = {self.noise}: the share of labels that are wrong must be at least 0 and below 1")

    @property
    def bias_penalty(self) -> float | None:
        """0 with a free bias, None without one."""
        return BIASES[self.bias]

    @property
    def Y(self) -> np.ndarray:
        """The targets: Gaussian of unequal scales, Gaussian codes of the classes, partly wrong labels, or labels. (C, n)"""
        rng, labels = np.random.default_rng(0), np.asarray(self.layout.labels)
        if self.targets == "regression":
            return np.geomspace(1, 0.3, self.C)[:, None] * rng.standard_normal((self.C, self.layout.n)) + 0.5
        if self.targets == "encodings":
            return rng.standard_normal((self.C, self.C))[:, labels]
        if self.targets == "noisy-labels":
            wrong = rng.random(len(labels)) < self.noise
            labels = np.where(wrong, (labels + rng.integers(1, self.C, len(labels))) % self.C, labels)
        return np.eye(self.C)[:, labels]

    @property
    def optimum(self) -> Optimum:
        """The minimum for these targets."""
        return Optimum.of(self.Y, self.lambda_w, self.lambda_h, self.P, free_bias=self.bias_penalty == 0)

    def check_domain(self) -> None:
        """P does not cut through equal singular values."""
        best = self.optimum
        if not best.margin > 1e-6:
            raise ValueError(
                f"P = {self.P} cuts through equal singular values of the targets: the minimiser is not determined; "
                f"use P >= {int((best.kept > 0).sum()) + 1} or unequal sizes"
            )

    def objective(self, device: str = "cpu") -> Peeled:
        """The penalised squared error to the targets."""
        loss = SquaredError(torch.as_tensor(self.Y, device=device), column_weights(self.layout, 1 / self.layout.n, device))
        return Peeled(loss, (self.lambda_w, self.lambda_h), self.bias_penalty)

    def predicted(self) -> Quantities:
        """Minimum, singular values of the logits, W W^T (by rows), bias, distance of the logits, and NRC1 to NRC3."""
        best = self.optimum
        return {
            "minimum": best.minimum,
            "singular_values": best.kept[: min(self.C, self.P)].tolist(),
            "classifier_gram": best.classifier_gram.ravel().tolist(),
            "bias": best.bias.tolist(),
            "logits_moved": 0.0,
            **(dict.fromkeys(("NRC1", "NRC2", "NRC3"), 0.0) if self.collapses else {}),
        }

    @property
    def collapses(self) -> bool:
        """Whether NRC1 to NRC3 are 0 at the optimum: a free bias, enough features, and none of them on the mean of all."""
        lengths = ((self.optimum.V * self.optimum.kept) ** 2).sum(1)
        return self.bias_penalty == 0 and bool(np.isinf(self.optimum.margin)) and bool(lengths.min() > 1e-12 * lengths.max())

    def measured(self, solved: Solved) -> Quantities:
        """The same at the solution."""
        W, H = solved.point[:2]
        b = solved.point[2][:, 0] if self.bias_penalty == 0 else W.new_zeros(self.C)
        Z = as_numpy(W @ H)
        return {
            "minimum": self.value(solved.point),
            "singular_values": np.linalg.svd(Z, compute_uv=False)[: min(self.C, self.P)].tolist(),
            "classifier_gram": (W @ W.mT).ravel().tolist(),
            "bias": b.tolist(),
            "logits_moved": float(np.abs(Z - self.optimum.logits).max()),
            **self.collapse(solved.point),
        }

    def collapse(self, point: Point) -> dict[str, float]:
        """NRC1 to NRC3 against the thresholded covariance of the targets; nothing where they are not 0 at the optimum."""
        W, H = (as_numpy(t) for t in point[:2])
        if not self.collapses:
            return {}
        c = self.layout.n * self.lambda_w * self.lambda_h
        nrc3 = andriopoulos_nrc3(W, self.Y.T, c)
        return {"NRC1": andriopoulos_nrc1(H.T, self.C), "NRC2": andriopoulos_nrc2(H.T, W), "NRC3": nrc3}
