"""Ergen & Pilanci 2020 (arXiv 2002.09773): two peeled layers, batch normalisation and ReLU between them, squared error."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ufm.models import simplex
from ufm.models.base import Facts, Framed, Quantities, Solved, need_positive
from ufm.models.minimised import Minimised
from ufm.models.objective.feasible import Feasible, Flat, NonNegative
from ufm.models.objective.losses import SquaredError, column_weights, one_hot
from ufm.models.objective.peeled import Peeled, Point
from ufm.models.sizes import AnySizes
from ufm.models.solvers.contract import Solver
from ufm.models.solvers.flat import bounded_lbfgs
from ufm.models.solvers.projected_gradient import spectral_projected_gradient


def batch_normalized_value(W: Tensor, V: Tensor, g: Tensor, a: Tensor, Y: Tensor, beta: float) -> Tensor:
    """1/2 |W (g u + a/sqrt n)_+ - Y|_F^2 + beta/2 (|g|^2 + |a|^2 + |W|^2), u_j the centred and unit-norm row j of V (P, n)."""
    centred = V - V.mean(1, keepdim=True)
    u = centred / centred.norm(dim=1, keepdim=True)
    H = (g * u + a / V.shape[1] ** 0.5).clamp(min=0)
    return ((W @ H - Y) ** 2).sum() / 2 + beta / 2 * sum((t * t).sum() for t in (g, a, W))


def unfold(H: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """V, g and a with g u + a/sqrt n = H: g = |H_j - mean|, a = sqrt n mean. (P, n) -> (P, n), (P, 1), (P, 1)

    A neuron that is constant has g = 0 and any u: its V is a centred unit vector.
    """
    mean = H.mean(1, keepdim=True)
    g = (H - mean).norm(dim=1, keepdim=True)
    any_direction = torch.eye(1, H.shape[1], dtype=H.dtype, device=H.device)
    return torch.where(g > 0, H - mean, any_direction), g, mean * H.shape[1] ** 0.5


@dataclass(frozen=True, kw_only=True)
class ErgenPilanci(Framed, AnySizes, Minimised):
    """min 1/2 |W (BN_{g,a}(V))_+ - Y|_F^2 + beta/2 (|g|^2 + |a|^2 + |W|^2) over W, V, g, a with P >= C neurons.

    Logits sum_c (1 - beta/sqrt n_c)_+ y_c e_c^T: class c drops out exactly at beta >= sqrt n_c. One direction a class,
    h_c ~ y_c/|y_c|, firing on class c only: orthogonal class means, a simplex ETF once centred;
    g_c/a_c = |y_c - mean|/(sum y_c/sqrt n). Minimum sum_c beta sqrt n_c - beta^2/2 where beta < sqrt n_c, n_c/2 otherwise.
    The solve runs over x_j = g_j u_j + a_j/sqrt n, any vector with |x_j|^2 = g_j^2 + a_j^2, and so over x_j >= 0: a negative
    entry adds penalty and nothing else. The minimum is then measured in W, V, g and a. Batch normalisation here has unit norm;
    with unit variance g and a are rescaled by sqrt n.
    """

    facts: ClassVar[Facts] = Facts(
        name="ergen-pilanci",
        paper="Ergen & Pilanci 2020, arXiv 2002.09773",
        loss="squared error (sum over examples)",
        constraint="batch normalisation and ReLU, beta-decay on g, a and W",
        theory="logits (1 - beta/sqrt(n_c))_+ y_c; class c drops out at beta >= sqrt(n_c); orthogonal class means",
        domain="P >= C neurons, beta > 0; unequal classes too",
        needs="one penalty (beta) covers W and the normalisation",
    )
    solvers: ClassVar[Mapping[str, Solver]] = {"lbfgs": bounded_lbfgs, "projected-gradient": spectral_projected_gradient}
    C: int = 3
    N: int = 4
    P: int = 12
    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        need_positive(beta=self.beta)

    @property
    def kept(self) -> np.ndarray:
        """(1 - beta/sqrt n_c)_+, the logit that every class keeps. (C,)"""
        return np.maximum(1 - self.beta / np.sqrt(self.layout.sizes), 0)

    def starts(self, seed: int, device: str = "cpu") -> list[Point]:
        """Four: with few neurons, one that serves no class is a local minimum."""
        return [self.start(seed + 1_000_003 * k, device) for k in range(4)]

    def check_domain(self) -> None:
        """P >= C neurons."""
        if self.P < self.C:
            raise ValueError(f"P = {self.P} < C = {self.C}: every class needs a neuron of its own; use P >= {self.C}")

    @property
    def feasible(self) -> Feasible:
        """W is free, the pre-activations are not negative."""
        return (Flat(), NonNegative())

    def objective(self, device: str = "cpu") -> Peeled:
        """The penalised squared error in W and x."""
        return Peeled(
            SquaredError(one_hot(self.layout, device), column_weights(self.layout, 1.0, device)), (self.beta, self.beta)
        )

    def value(self, point: Point) -> float:
        """The objective in W, V, g and a."""
        W, H = point
        return float(batch_normalized_value(W, *unfold(H), one_hot(self.layout, str(W.device)), self.beta))

    def predicted(self) -> Quantities:
        """Minimum, logits of every class and of others, and |g|/|a| of the neurons of each living class."""
        sizes = np.asarray(self.layout.sizes, dtype=np.float64)
        alive = self.beta < np.sqrt(sizes)
        terms = np.where(alive, self.beta * np.sqrt(sizes) - self.beta**2 / 2, sizes / 2)
        ratio = np.sqrt(self.layout.n / sizes - 1)
        shape: Quantities = {"NC1": 0.0, "NC2": 0.0, "NC3": 0.0} if alive.all() and self.layout.balanced else {}
        scale: Quantities = {"scale_over_shift": ratio[alive].tolist()} if alive.any() else {}
        logits = {"logits": self.kept.tolist(), "logits_spread": 0.0, "logits_off_diagonal": 0.0}
        return {"minimum": float(terms.sum()), **logits, **scale, **shape}

    def measured(self, solved: Solved) -> Quantities:
        """The same at the lowest of the restarts."""
        W, H = solved.point
        _, g, a = unfold(H)
        owner, alive = self.layout.means(H).argmax(1), np.flatnonzero(self.kept > 0)  # the class that a neuron fires on
        ratios = [float(g[owner == c].norm() / a[owner == c].norm()) for c in alive.tolist()]
        shape = self.collapse(solved.point) if len(alive) == self.C and self.layout.balanced else {}
        scale: Quantities = {"scale_over_shift": ratios} if ratios else {}
        return {
            "minimum": self.value(solved.point),
            **simplex.diagonal_logits(W @ H, self.layout),
            **scale,
            **shape,
        }
