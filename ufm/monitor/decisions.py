"""What the network and the nearest class mean decide, counted.

Rows close to their class mean are decided with it, the others by products in float32, and by float64 where those cannot tell.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ufm.features import nearest_class_mean
from ufm.features.ranges import Classifier
from ufm.monitor.certified import DOUBLE, SINGLE, CertifiedDecisions, Decided, LinearScores

TF32_EPSILON, BFLOAT16_EPSILON = 2.0**-10, 2.0**-7
FEW_CLASSES = 64  # whose scores cost little more than one distance


@dataclass(frozen=True)
class Decisions:
    """Counts of examples: the network is wrong; it and the nearest class mean disagree; the class of that mean is wrong."""

    wrong: int = 0
    disagreements: int = 0
    wrong_by_mean: int = 0

    def __add__(self, other: "Decisions") -> "Decisions":
        return Decisions(
            self.wrong + other.wrong, self.disagreements + other.disagreements, self.wrong_by_mean + other.wrong_by_mean
        )


@dataclass(frozen=True, eq=False)
class _Scores:
    """x -> weights x + offsets in float32, weights (K, P), and what bounds their rounding: the largest length and offset."""

    weights: Tensor
    offsets: Tensor
    longest: Tensor
    largest: Tensor
    rounding: Tensor

    @classmethod
    def of(cls, linear: LinearScores) -> "_Scores":
        longest, largest = torch.linalg.vector_norm(linear.weights, dim=1).max(), linear.offsets.abs().max()
        return cls(linear.weights.float(), linear.offsets.float(), longest, largest, linear.rounding)

    def best(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The best of K for every row x (n, P), and which rows have a second best within the rounding of both scores. (n,), (n,)

        A sum of P products in any order is off by at most P u of the product of the lengths, u = eps / 2; so are x and the
        weights by u each, and the offset.
        """
        K, P = self.weights.shape
        indices, gaps = torch.zeros(len(x), dtype=torch.int64, device=x.device), torch.zeros_like(x[:, 0])
        for start in range(0, len(x), nearest_class_mean.rows_at_a_time(K)):
            piece = slice(start, start + nearest_class_mean.rows_at_a_time(K))
            scores = torch.addmm(self.offsets, x[piece], self.weights.mT)
            values, indices[piece] = scores.max(1)
            gaps[piece] = values - scores.scatter_(1, indices[piece][:, None], -torch.inf).amax(1)
        lengths = torch.linalg.vector_norm(x, dim=1)
        rounding = (P + 8) * (SINGLE.eps * (lengths * self.longest + self.largest) + SINGLE.tiny)
        return indices, ~(gaps > 2 * rounding + self.rounding)  # not <=, so that what overflows is not trusted either


class Decider:
    """Counts the decisions of a classifier (None: of the class means alone) and of the class means (P, K) on rows of features.

    Column k of the means is that of class `classes[k]` (k itself). The decisions are those of float64.
    """

    def __init__(self, classifier: Classifier | None, means: Tensor, classes: Tensor | None = None) -> None:
        self._classifier, self._means, self._classes = classifier, means, classes
        self._centre = means.mean(1).float()  # a number of float32, so that a row of float32 less it is rounded once
        self._scores = [_Scores.of(linear) for linear in self._linear_scores()]
        self._certified: CertifiedDecisions | None = None
        self._seen = 0

    def __call__(self, rows: Tensor, labels: Tensor) -> Decisions:
        """The counts of rows (n, P) of any float dtype with labels (n,). Without a classifier the first two are 0."""
        labels = labels.long()  # those of the user's own loader: uint8 would be a mask
        wide = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
        with torch.autocast(rows.device.type, enabled=False):
            x = (wide - self._centre.to(wide.dtype)).float()
            certified = self._certified_decisions(x, labels)
            nearest = self._decided(0, x, rows, lambda H: nearest_class_mean.nearest_mean(H, self._means), certified)
            nearest = nearest if self._classes is None else self._classes[nearest]
            wrong_by_mean = int((nearest != labels).sum())
            if self._classifier is None:
                return Decisions(0, 0, wrong_by_mean)
            network = self._decided(1, x, rows, self._of_network, certified)
        return Decisions(int((network != labels).sum()), int((network != nearest).sum()), wrong_by_mean)

    def _linear_scores(self) -> list[LinearScores]:
        """Of the nearest class mean, and of the network where it is known, for rows less the centre."""
        M = self._means - self._centre[:, None]
        scores = [LinearScores(2 * M.mT, -(M * M).sum(0), torch.zeros_like(M[0, 0]))]
        if self._classifier is not None:
            W, b, centre = self._classifier.W, self._classifier.b, self._centre.double()
            largest = torch.linalg.vector_norm(W, dim=1).max() * torch.linalg.vector_norm(centre) + b.abs().max()
            # b + W centre cancels far from the origin, as b + W h does in float64: where that is all, it decides
            scores.append(LinearScores(W, b + W @ centre, 4 * (len(M) + 8) * DOUBLE.eps * largest))
        return scores

    def _certified_decisions(self, x: Tensor, labels: Tensor) -> list[Decided] | None:
        """What needs no scores; None until there have been so many rows that K^2 products are few beside theirs."""
        K = self._means.shape[1]
        self._seen += len(x)
        if self._certified is None and K >= FEW_CLASSES and self._seen >= 4 * K:
            points = self._means - self._centre[:, None]
            self._certified = CertifiedDecisions(points, self._classes, self._linear_scores())
        return None if self._certified is None else self._certified(x, labels)

    def _decided(
        self, which: int, x: Tensor, rows: Tensor, exact: Callable[[Tensor], Tensor], certified: list[Decided] | None
    ) -> Tensor:
        """The best class of every row: certified, by scores in float32, or by exact ones where those cannot tell."""
        if certified is not None:
            known = certified[which]
            left = (~known.certain).nonzero()[:, 0]
            decided = self._decided(which, x[left], rows[left], exact, None) if len(left) else left
            return known.best.index_copy(0, left, decided)
        if single_product_epsilon() > SINGLE.eps:
            return exact(rows.double())
        best, doubtful = self._scores[which].best(x)
        again = doubtful.nonzero()[:, 0]
        return best.index_copy(0, again, exact(rows[again].double())) if len(again) else best

    def _of_network(self, rows: Tensor) -> Tensor:
        assert self._classifier is not None
        W, b = self._classifier.W, self._classifier.b
        scores = (torch.addmm(b, H, W.mT) for H in rows.split(nearest_class_mean.rows_at_a_time(len(W))))
        return torch.cat([score.argmax(1) for score in scores])


def single_product_epsilon() -> float:
    """The epsilon of the factors of float32 products: that of TF32 or bfloat16 where the user has chosen these for them."""
    if not hasattr(torch.backends, "fp32_precision"):  # torch before 2.9
        return {"highest": SINGLE.eps, "high": TF32_EPSILON}.get(torch.get_float32_matmul_precision(), BFLOAT16_EPSILON)
    backends: Any = torch.backends
    chosen = {place.fp32_precision for place in (backends, backends.mkldnn.matmul, backends.cuda.matmul)}
    if chosen <= {"none", "ieee"}:
        return SINGLE.eps
    return TF32_EPSILON if chosen <= {"none", "ieee", "tf32"} else BFLOAT16_EPSILON
