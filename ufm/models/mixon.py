"""Mixon, Parshall & Pi 2020 (arXiv 2011.11619): gradient flow of the squared error from a small start, no penalty."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ufm.models import simplex
from ufm.models.base import Facts, Quantities, Solved, need_etf, need_positive
from ufm.models.integrated import Integrated
from ufm.models.objective.losses import SquaredError, column_weights, one_hot
from ufm.models.objective.peeled import Peeled, Point, gaussian_point
from ufm.models.solvers.gradient_flow import gradient_flow

SMALL_SCALE = 0.01  # from this scale on the linearised phase no longer separates the modes
LINEAR_TIME = 2.0  # time, in 1/sqrt N, at which flow and linearisation are compared
SUBSPACE_SPREAD = 8.0  # ratio of the largest to the smallest singular value of the start on the invariant subspace


@dataclass(frozen=True, kw_only=True)
class Mixon(Integrated):
    """Gradient flow of 1/2 |W H + b 1^T - Y|_F^2: W' = -R H^T, H' = -W^T R, b' = -R 1, R = W H + b 1^T - Y.

    From entries of size `scale` -> 0 the flow first follows its linearisation at (0, 0, 1/C), which carries it next to the
    invariant subspace S = {1^T W = 0, H = N^{-1/2} (W (x) 1_N)^T, b = 1/C}, and then its law on S,
    sigma_j^2(t) = sqrt N / (1 + (sqrt N/sigma_j(0)^2 - 1) exp(-2 sqrt N t)) with frozen singular vectors, to strong neural
    collapse: W W^T = sqrt N (I - 11^T/C). W^T W - H H^T is conserved. From a large start the within-class part of H survives.
    """

    facts: ClassVar[Facts] = Facts(
        name="mixon",
        paper="Mixon, Parshall & Pi 2020, arXiv 2011.11619",
        loss="squared error, free bias (sum over examples)",
        constraint="none: gradient flow from a start of size scale",
        theory="scale -> 0: W W^T = sqrt(N)(I - 11^T/C), H = W^T/sqrt(N), b = 1/C; logistic singular values on S",
        domain="P >= C - 1, scale > 0; exact as scale -> 0",
        needs="it is a flow without penalties and with equal classes",
    )
    N: int = 9
    scale: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        need_positive(scale=self.scale)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """W, H and b."""
        return (*super().shapes, (self.C, 1))

    @property
    def rate(self) -> float:
        """sqrt N: the growth rate of the linearised flow, and half the rate at which the law on S settles."""
        return float(np.sqrt(self.N))

    @property
    def duration(self) -> float:
        """Time to grow from the scale to order one, plus enough to settle; a large start settles at its own slow rate."""
        settle = 25.0 if self.scale < SMALL_SCALE else 400.0
        return (max(np.log(np.sqrt(self.rate) / self.scale), 0.0) + settle) / self.rate

    def check_domain(self) -> None:
        """P >= C - 1."""
        need_etf(self.C, self.P)

    @property
    def times(self) -> np.ndarray:
        """From the start until collapse has settled."""
        return np.linspace(0.0, self.duration, 121)

    def velocity(self, point: Point) -> Point:
        """Minus the gradient of the loss."""
        return tuple(-g for g in self.objective(str(point[0].device)).value_and_gradient(point)[1])

    def value(self, point: Point) -> float:
        """The summed squared error."""
        return float(self.objective(str(point[0].device)).value_and_gradient(point)[0])

    def objective(self, device: str = "cpu") -> Peeled:
        """The summed squared error with a free bias."""
        loss = SquaredError(one_hot(self.layout, device), column_weights(self.layout, 1.0, device))
        return Peeled(loss, bias_penalty=0.0)

    def start(self, seed: int, device: str = "cpu") -> Point:
        """Gaussian entries of the given scale in W and H, b = 0."""
        W, H, b = gaussian_point(self.shapes, seed, self.scale, device)
        return W, H, 0 * b

    def subspace_start(self, seed: int, device: str = "cpu") -> Point:
        """A random point of S, its C - 1 singular values spread around their limit by a factor SUBSPACE_SPREAD."""
        K = self.C - 1
        (U, V) = gaussian_point(((self.C, K), (self.P, K)), seed, device=device)
        U, V = (torch.linalg.qr(A)[0] for A in (U - U.mean(0), V))
        W = (U * torch.as_tensor(self.subspace_singular_values, device=device)) @ V.mT
        return W, self.layout.spread(W.mT) / self.rate, torch.full((self.C, 1), 1 / self.C, dtype=W.dtype, device=device)

    @property
    def subspace_singular_values(self) -> np.ndarray:
        """sigma_j(0) of the start on S, descending. (C-1,)"""
        return np.sqrt(self.rate) * np.geomspace(np.sqrt(SUBSPACE_SPREAD), 1 / np.sqrt(SUBSPACE_SPREAD), self.C - 1)

    def law(self, t: np.ndarray, sigma0: np.ndarray) -> np.ndarray:
        """sigma_j(t) on S. t (T,), sigma0 (K,) -> (T, K)"""
        decay = np.exp(-2 * self.rate * np.asarray(t, dtype=np.float64))[:, None]
        return np.sqrt(self.rate / (1 + (self.rate / sigma0**2 - 1) * decay))

    def solve(self, seed: int, device: str = "cpu") -> Solved:
        """Integrate the flow from the small start, again with b = 1/C while it is linear, and from a point of S."""
        path = gradient_flow(self.objective(device), self.start(seed, device), self.times)
        on_subspace = gradient_flow(self.objective(device), self.subspace_start(seed, device), self.subspace_times)
        values = [torch.linalg.svdvals(point[0])[: self.C - 1].tolist() for point in on_subspace]
        extra: Quantities = {
            "linearised": self.distance_from_linear(seed, device),
            "subspace_law": np.asarray(values).ravel().tolist(),
        }
        return Solved(path[-1], path, self.times, "time t", extra, seed)

    def distance_from_linear(self, seed: int, device: str = "cpu") -> float:
        """Relative distance of the flow from its linearisation, the larger of W's and H's, from b = 1/C at LINEAR_TIME/sqrt N."""
        W, H, b = self.start(seed, device)
        start, t = (W, H, b + 1 / self.C), LINEAR_TIME / self.rate
        flow, linear = gradient_flow(self.objective(device), start, np.array([0.0, t]))[-1], self.linearised(t, start)
        return max(float((x - y).norm() / x.norm()) for x, y in zip(flow[:2], linear[:2], strict=True))

    @property
    def subspace_times(self) -> np.ndarray:
        """When the law on S is compared."""
        return np.linspace(0.0, 2.0, 9) / self.rate

    def predicted(self) -> Quantities:
        """Strong collapse and a linear first phase, in the limit of a small start, and the law on S at nine times (by rows)."""
        return {
            "minimum": 0.0,
            "singular_values": [float(np.sqrt(self.rate))] * (self.C - 1),
            "gram_defect": 0.0,
            "bias": [1 / self.C] * self.C,
            **{"NC1": 0.0, "NC2": 0.0, "NC3": 0.0},
            "linearised": 0.0,
            "subspace_law": self.law(self.subspace_times, self.subspace_singular_values).ravel().tolist(),
        }

    def measured(self, solved: Solved) -> Quantities:
        """The same where the flow ended; `gram_defect` is max |W W^T - sqrt N (I - 11^T/C)|."""
        W, _, b = solved.point
        gram = W @ W.mT - self.rate * simplex.centred_identity(self.C, W)
        return {
            "minimum": self.value(solved.point),
            "singular_values": torch.linalg.svdvals(W)[: self.C - 1].tolist(),
            "gram_defect": float(gram.abs().max()),
            "bias": b[:, 0].tolist(),
            **self.collapse(solved.point),
            **solved.extra,
        }

    def linearised(self, t: float, start: Point) -> Point:
        """The flow linearised at (0, 0, 1/C) in closed form, b = 1/C + exp(-C N t) (b(0) - 1/C) to first order.

        With Pc = I - 11^T/C and Yt = Pc Y: (Pc W +- Yt H^T/sqrt N)/2 grow and decay like exp(+- sqrt N t); 1^T W and the part of
        H off the rows of Yt stay.
        """
        W, H, b = start
        Yt = one_hot(self.layout, str(W.device)) - 1 / self.C
        A, B = W - W.mean(0), Yt @ H.mT / self.rate
        grow, decay = (A + B) / 2 * np.exp(self.rate * t), (A - B) / 2 * np.exp(-self.rate * t)
        moved: Tensor = grow - decay - B
        bias = 1 / self.C + float(np.exp(-self.C * self.N * t)) * (b - 1 / self.C)
        return W - A + grow + decay, H + moved.mT @ Yt / self.rate, bias
