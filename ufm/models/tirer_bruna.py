"""Tirer & Bruna 2022 (arXiv 2202.08087): the penalised squared error without a bias and with a free one."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ufm.models import simplex
from ufm.models.base import Facts, Framed, Quantities, Solved, need_etf, need_frame
from ufm.models.sizes import AnySizes
from ufm.models.solvers.flat import FLAT_SOLVERS
from ufm.models.squared import Squared


@dataclass(frozen=True, kw_only=True)
class BiasFree(Framed, AnySizes, Squared):
    """min 1/(2n) |W H - Y|_F^2 + lw/2 |W|^2 + lh/2 |H|^2.

    W H = diag(s) Y with s_k = (1 - n sqrt(lw lh / n_k))_+: class k stays on its own orthogonal direction, |w_k|^2 =
    sqrt(lh n_k/lw) s_k, |h_k|^2 = sqrt(lw/(lh n_k)) s_k. Equal classes: an orthogonal frame, minimum
    c - c^2/2, c = C sqrt(N lw lh).
    """

    facts: ClassVar[Facts] = Facts(
        name="mse-bias-free",
        paper="Tirer & Bruna 2022, arXiv 2202.08087",
        loss="squared error, no bias",
        constraint="weight decay on W and H",
        theory="W H = diag(s) Y, an orthogonal frame with s_k = (1 - n sqrt(lw lh/n_k))_+",
        domain="P >= C, lw, lh > 0; unequal classes too",
        needs="there is no bias",
    )
    solvers = FLAT_SOLVERS

    def check_domain(self) -> None:
        """P >= C."""
        need_frame(self.C, self.P)

    def predicted(self) -> Quantities:
        """Minimum, squared lengths of the classifiers and of the class means, shrunken diagonal of the logits."""
        best, first = self.optimum, np.cumsum([0, *self.layout.sizes[:-1]])  # of every class
        lengths = {
            "classifier_squared_norms": best.classifier_gram.diagonal().tolist(),
            "feature_squared_norms": best.feature_gram.diagonal()[first].tolist(),
        }
        logits = {"logits": best.logits[range(self.C), first].tolist(), "logits_spread": 0.0, "logits_off_diagonal": 0.0}
        return {"minimum": best.minimum, **lengths, **logits, **self._shape(0.0)}

    def _shape(self, value: float) -> Quantities:
        """NC1..NC3 where the classes are equal and have not vanished."""
        return {"NC1": value, "NC2": value, "NC3": value} if self.layout.balanced and self.shrinkage.max() < 1 else {}

    def measured(self, solved: Solved) -> Quantities:
        """The same at the solution."""
        W, H = solved.point
        M = self.layout.means(H)
        return {
            "minimum": self.value(solved.point),
            "classifier_squared_norms": (W * W).sum(1).tolist(),
            "feature_squared_norms": (M * M).sum(0).tolist(),
            **simplex.diagonal_logits(W @ H, self.layout),
            **{name: value for name, value in self.collapse(solved.point).items() if name in self._shape(0.0)},
        }


@dataclass(frozen=True, kw_only=True)
class FreeBias(Squared):
    """min 1/(2n) |W H + b 1^T - Y|_F^2 + lw/2 |W|^2 + lh/2 |H|^2, b free.

    W H = (1-c)_+ (Y - 1/C), a simplex ETF, b = 1/C, minimum (C-1)/C (c - c^2/2) with c = C sqrt(N lw lh),
    (C-1)/(2C) for c >= 1.
    """

    facts: ClassVar[Facts] = Facts(
        name="mse-free-bias",
        paper="Tirer & Bruna 2022, arXiv 2202.08087",
        loss="squared error, free bias",
        constraint="weight decay on W and H",
        theory="W H = (1-c)_+ (Y - 1/C), a simplex ETF, b = 1/C",
        domain="P >= C - 1, lw, lh > 0",
        needs="the bias is free and the closed form has equal classes",
    )
    solvers = FLAT_SOLVERS

    @property
    def bias_penalty(self) -> float:
        """The bias is free."""
        return 0.0

    def check_domain(self) -> None:
        """P >= C - 1."""
        need_etf(self.C, self.P)

    def predicted(self) -> Quantities:
        """Minimum, smallest and largest right and wrong logit, bias, size of W, collapse."""
        c, C = float(self.shrinkage[0]), self.C
        best, s = self.optimum, max(1 - c, 0.0)
        shape = {"NC1": 0.0, "NC2": 0.0, "NC3": 0.0} if c < 1 else {}
        return {
            "minimum": best.minimum,
            "logits": [s * (1 - 1 / C)] * 2 + [-s / C] * 2,
            "bias": best.bias.tolist(),
            "W_squared_norm": float(np.trace(best.classifier_gram)),
            **shape,
        }

    def measured(self, solved: Solved) -> Quantities:
        """The same at the solution; the logits are those of W H."""
        W, H, b = solved.point
        shape = self.collapse(solved.point) if self.shrinkage[0] < 1 else {}
        logits = simplex.logit_range(W @ H, self.layout)
        common: Quantities = {"minimum": self.value(solved.point), "logits": logits, "bias": b[:, 0].tolist()}
        return {**common, "W_squared_norm": float(W.norm() ** 2), **shape}
