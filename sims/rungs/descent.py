"""Gradient descent on features that are part free, part made by a network, with the classifier at least squares or trained.

    H = f(x) + E,   f a float64 network, E (n, P) an offset of every example,   Theta = Theta_f + (rate of the offsets) I,

the rate of the offsets in units of the mean diagonal of Theta_f. Steps are those of the loss 1/2 Ave ||W h + b - y||^2.
Networks whose classifier is trained with them are the training backend's (`sims.train`); this is what it cannot do.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from manifolds.class_centering import ClassLayout
from sims.training.velocity import evaluated
from ufm.arrays import as_numpy
from ufm.features.least_squares import ls_classifier
from ufm.features.snr import renormalized_features
from ufm.features.statistics import statistics_of

POWER_STEPS, TRACE_PROBES = 30, 8


@dataclass(frozen=True)
class Descent:
    """What is descended and how.

    offsets      rate of the offsets relative to the network's kernel; inf: they alone move; 0: the network alone
    rate_ratio   kappa of the trained W and b (kappa / n times the rate of the features), None: least squares before every step
    renormalize  Sigma_W = I after every step (the scheme of D.1)
    decay_w, decay_h   1/2 decay_w ||W||^2 and 1/2 decay_h Ave ||h||^2 beside the loss
    momentum     rates are divided by 1 / (1 - momentum), so that the clock stays
    batch        examples a step, None for all
    drops        shares of the steps after which the rates fall tenfold
    lam          lambda of the least-squares W
    step         rate, in units of the inverse of the largest curvature of the loss at the start
    """

    offsets: float = np.inf
    rate_ratio: float | None = None
    renormalize: bool = False
    decay_w: float = 0.0
    decay_h: float = 0.0
    momentum: float = 0.0
    batch: int | None = None
    drops: tuple[float, ...] = ()
    lam: float = 0.0
    step: float = 0.002

    def __post_init__(self) -> None:
        if self.renormalize and (self.rate_ratio is not None or self.offsets != np.inf or self.batch is not None):
            raise ValueError("only free features with W at least squares and whole steps are renormalized")
        if self.rate_ratio is None and self.batch is not None:
            raise ValueError("mini-batches need a trained W: that of least squares is of all examples")
        if not self.offsets >= 0 or not 0 <= self.momentum < 1:
            raise ValueError(
                f"offsets = {self.offsets}, momentum = {self.momentum}: the first >= 0, the second in [0, 1) is needed"
            )


class FeatureDescent:
    """The state: network f, offsets E (n, P), W (C, P) and b (C,), and their velocities. `step(share)` moves it by one step.

    Examples come in class blocks.
    """

    def __init__(self, how: Descent, body: nn.Module, x: Tensor, labels: Tensor, seed: int = 0) -> None:
        self.how, self.body, self.x, self.labels = how, body.double(), x.double(), labels
        self.n, self.C = len(labels), int(labels.max()) + 1
        self.Y = nn.functional.one_hot(labels, self.C).double()
        self.moving = [p for p in self.body.parameters() if p.requires_grad] if how.offsets != np.inf else []
        with torch.no_grad():
            self.fixed = self.body(self.x)  # of a network that does not move
        self.E = torch.zeros_like(self.fixed)
        self.rng = np.random.default_rng(seed)
        if how.renormalize:
            self._renormalize()
        self.W, self.b = self._least_squares(self.features())
        self.kernel_scale = self._kernel_scale() if self.moving else 1.0
        self.rate = how.step / self._curvature()
        self.buffers = [torch.zeros_like(p) for p in (*self.moving, self.E, self.W, self.b)]

    def features(self) -> Tensor:
        """H. (n, P)"""
        with torch.no_grad(), evaluated(self.body):
            return (self.body(self.x) if self.moving else self.fixed) + self.E

    @property
    def offset_rate(self) -> float:
        """What is added to the kernel of the network: rate of the offsets over that of its parameters."""
        return 1.0 if not self.moving else self.how.offsets * self.kernel_scale

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every example is used once."""
        return 1 if self.how.batch is None else self.n // self.how.batch

    def step(self, share: float) -> None:
        """One step; share: that of all steps that are done, which decides the rate."""
        rows, count = self._rows(), self.how.batch or self.n
        x, E, Y = (part if rows is None else part[rows] for part in (self.x, self.E, self.Y))
        H = self.body(x) + E if self.moving else (self.fixed if rows is None else self.fixed[rows]) + E
        made, H = H, H.detach()
        residual = H @ self.W.T + self.b - Y
        G = (residual @ self.W + self.how.decay_h * H) / count
        gradients = list(torch.autograd.grad(made, self.moving, G)) if self.moving else []
        wide = torch.zeros_like(self.E)
        wide[slice(None) if rows is None else rows] = self.offset_rate * G
        gradients.append(wide)
        kappa = 0.0 if self.how.rate_ratio is None else self.how.rate_ratio / self.n
        gradients += [kappa * (residual.T @ H / count + self.how.decay_w * self.W), kappa * residual.mean(0)]
        rate = self.rate * (1 - self.how.momentum) * 0.1 ** sum(share >= drop for drop in self.how.drops)
        with torch.no_grad():
            for p, buffer, gradient in zip((*self.moving, self.E, self.W, self.b), self.buffers, gradients, strict=True):
                buffer.mul_(self.how.momentum).add_(gradient)
                p.sub_(rate * buffer)
        if self.how.renormalize:
            self._renormalize()
        if self.how.rate_ratio is None:
            self.W, self.b = self._least_squares(self.features())

    def gradient(self) -> Tensor:
        """dL/dH of all examples, without the decay. (n, P)"""
        H = self.features()
        return (H @ self.W.T + self.b - self.Y) @ self.W / self.n

    def _rows(self) -> Tensor | None:
        if self.how.batch is None:
            return None
        return torch.from_numpy(np.sort(self.rng.choice(self.n, self.how.batch, replace=False)))

    def _least_squares(self, H: Tensor) -> tuple[Tensor, Tensor]:
        W, b = ls_classifier(statistics_of(as_numpy(H), as_numpy(self.labels), self.C), self.how.lam)
        return torch.from_numpy(np.ascontiguousarray(W)), torch.from_numpy(np.ascontiguousarray(b))

    def _renormalize(self) -> None:
        layout = ClassLayout.of_labels(as_numpy(self.labels))
        X, _ = renormalized_features(as_numpy(self.features()).T, layout)
        self.E = torch.from_numpy(np.ascontiguousarray(X.T)) - self.fixed

    def _kernel_scale(self) -> float:
        """The mean of the diagonal of the network's kernel, by random probes."""
        generator = torch.Generator().manual_seed(0)
        total = 0.0
        with evaluated(self.body):
            for _ in range(TRACE_PROBES):
                probe = torch.randint(0, 2, self.E.shape, generator=generator).double() * 2 - 1
                gradients = torch.autograd.grad(self.body(self.x), self.moving, probe)
                total += sum(float(g.square().sum()) for g in gradients)
        return total / TRACE_PROBES / self.E.numel()

    def _curvature(self) -> float:
        """The largest of that of the features, by the power method, and that of the trained W."""
        u = torch.randn(self.Y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        value = 0.0
        for _ in range(POWER_STEPS if self.moving else 0):
            u = u / u.norm()
            u = self._through_kernel(u @ self.W) @ self.W.T / self.n
            value = float(u.norm())
        if not self.moving:
            value = float(torch.linalg.matrix_norm(self.W, 2)) ** 2 / self.n
        if self.how.rate_ratio is not None:
            H = torch.cat([self.features(), torch.ones(self.n, 1, dtype=torch.float64)], 1)
            value = max(value, self.how.rate_ratio / self.n * float(torch.linalg.matrix_norm(H, 2)) ** 2 / self.n)
        return value

    def _through_kernel(self, pull: Tensor) -> Tensor:
        """(Theta_f + offset_rate I) pull, by a finite difference of f along its vector-Jacobian product. (n, P)"""
        with evaluated(self.body):
            gradients = torch.autograd.grad(self.body(self.x), self.moving, pull)
            length = float(torch.stack([g.square().sum() for g in gradients]).sum().sqrt())
            if not length:
                return self.offset_rate * pull
            h = 1e-6 / length
            with torch.no_grad():
                before = self.body(self.x)
                for p, g in zip(self.moving, gradients, strict=True):
                    p.add_(h * g)
                moved = (self.body(self.x) - before) / h
                for p, g in zip(self.moving, gradients, strict=True):
                    p.sub_(h * g)
        return moved + self.offset_rate * pull
