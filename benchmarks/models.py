"""`python -m benchmarks.models`: the models' solves against plain torch on the same problems, as ratios.

Minimisations: torch.optim.LBFGS with autograd, constraints divided out as a user would write them, from the same seeded point,
both stopped as soon as the objective is within ACCURACY of the exact minimum. Flows: the same scipy integrator over autograd's
gradient. One thread, medians of REPEATS runs in turn, in one process; a ratio above 1 says how many times longer the plain
version takes.
"""

import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from torch import Tensor

from ufm.integrate import integrate_scipy
from ufm.models.base import Model
from ufm.models.central_path import CentralPath
from ufm.models.dang import DeepLinear
from ufm.models.e_wojtowytsch import EWojtowytsch
from ufm.models.ergen_pilanci import ErgenPilanci, batch_normalized_value, unfold
from ufm.models.fang import Fang
from ufm.models.gradient_flow import gradient_flow
from ufm.models.losses import one_hot
from ufm.models.lu_steinerberger import LuSteinerberger
from ufm.models.mixon import Mixon
from ufm.models.peeled import Point
from ufm.models.poggio_liao import PoggioLiao
from ufm.models.tirer_bruna import BiasFree, FreeBias
from ufm.models.zhou import DecayedBias
from ufm.models.zhu import Zhu

ACCURACY = 1e-10
REPEATS = 5
SMALL, LARGE = {"C": 5, "N": 7, "P": 9}, {"C": 10, "N": 50, "P": 30}
Loss = Callable[..., Tensor]


class Reached(Exception):
    """The objective came within ACCURACY of the minimum."""


def labels(model: Model) -> Tensor:
    """Class of every column. (n,)"""
    return torch.as_tensor(model.layout.labels)


def cross_entropy(model: Model) -> Callable[[Tensor], Tensor]:
    """torch's mean cross-entropy of logits (C, n)."""
    y = labels(model)
    return lambda Z: torch.nn.functional.cross_entropy(Z.T, y)


def squared(model: Model) -> Callable[[Tensor], Tensor]:
    """Mean over examples of half the squared error of logits (C, n)."""
    Y = one_hot(model.layout)
    return lambda Z: ((Z - Y) ** 2).sum() / (2 * model.layout.n)


def spheres(model: LuSteinerberger) -> Loss:
    """Unit rows and columns by division."""
    loss = cross_entropy(model)
    return lambda W, H: loss(model.temperature * (W / W.norm(dim=1, keepdim=True)) @ (H / H.norm(dim=0)))


def balls(model: EWojtowytsch) -> Loss:
    """Both balls by division with the larger of 1 and the norm."""
    loss = cross_entropy(model)
    return lambda W, H: loss((W / torch.linalg.matrix_norm(W, 2).clamp(min=1)) @ (H / H.norm(dim=0).clamp(min=1)))


def normalized(model: PoggioLiao) -> Loss:
    """Frobenius norms by division."""
    Y = one_hot(model.layout) - 1 / model.C

    def value(W: Tensor, H: Tensor, r: Tensor) -> Tensor:
        rho = model.unit * r
        return ((rho * (W / W.norm()) @ (H / H.norm()) - Y) ** 2).sum() / 2 + model.lambda_w / 2 * (rho**2).sum()

    return value


def energies(model: Fang) -> Loss:
    """Both energies by division."""
    loss = cross_entropy(model)
    return lambda W, H: loss(model.budget * model.N**0.5 * (W / W.norm()) @ (H / H.norm()))


def decayed(loss: Callable[[Tensor], Tensor], model: Zhu | BiasFree | FreeBias | DecayedBias | DeepLinear, bias: float) -> Loss:
    """A product of factors, then perhaps a bias, all with weight decay."""

    def value(*point: Tensor) -> Tensor:
        factors, b = (point[:-1], point[-1]) if point[-1].shape == (model.C, 1) else (point, None)
        penalty = model.lambda_w / 2 * sum((f**2).sum() for f in factors[:-1]) + model.lambda_h / 2 * (factors[-1] ** 2).sum()
        Z = torch.linalg.multi_dot(factors)
        return loss(Z if b is None else Z + b) + penalty + (0.0 if b is None else bias / 2 * (b**2).sum())

    return value


def folded(model: ErgenPilanci) -> Loss:
    """Batch normalisation and ReLU through autograd."""
    Y = one_hot(model.layout)
    return lambda W, V, g, a: batch_normalized_value(W, V, g, a, Y, model.beta)


def problems(sizes: dict[str, int]) -> list[tuple[Model, Loss]]:
    """The minimisations."""
    C = sizes["C"]
    weak = {"lambda_w": 0.1 / (C * sizes["N"] ** 0.5), "lambda_h": 0.1 / (C * sizes["N"] ** 0.5)}
    zhu, free, biased, bias_free = (
        Zhu(**sizes, **weak),
        FreeBias(**sizes, **weak),
        DecayedBias(**sizes, **weak),
        BiasFree(**sizes, **weak),
    )
    deep = DeepLinear(**sizes, lambda_w=2e-3, lambda_h=2e-3)
    lu, ball, norm = LuSteinerberger(C=C, N=1, P=sizes["P"]), EWojtowytsch(**sizes), PoggioLiao(**sizes)
    fang, ergen = Fang(**sizes), ErgenPilanci(C=C, N=sizes["N"], P=sizes["P"], beta=0.5)
    return [
        (lu, spheres(lu)),
        (ball, balls(ball)),
        (norm, normalized(norm)),
        (ergen, folded(ergen)),
        (fang, energies(fang)),
        (zhu, decayed(cross_entropy(zhu), zhu, zhu.lambda_b)),
        (bias_free, decayed(squared(bias_free), bias_free, 0.0)),
        (free, decayed(squared(free), free, 0.0)),
        (biased, decayed(squared(biased), biased, biased.lambda_b)),
        (deep, decayed(squared(deep), deep, 0.0)),
    ]


class Watched:
    """An objective that raises Reached at its minimum."""

    def __init__(self, model: Model) -> None:
        self.inner, self.goal = model.objective(), float(np.asarray(model.predicted()["minimum"])) + ACCURACY

    def value_and_gradient(self, point: Point) -> tuple[Tensor, Point]:
        """As inside."""
        value, gradient = self.inner.value_and_gradient(point)
        if float(value) <= self.goal:
            raise Reached
        return value, gradient

    def curvature_at(self, point: Point) -> Callable[[Point], Point]:
        """As inside."""
        return self.inner.curvature_at(point)


def ours(model: Model, start: Point) -> float:
    """Seconds of the model's default solver until the minimum is reached, infinite where it is not."""
    solver, objective = next(iter(model.solvers.values())), Watched(model)
    began = time.process_time()
    try:
        solver(objective, model.feasible, start, None)
    except Reached:
        return time.process_time() - began
    except RuntimeError:
        pass
    return float("inf")


def plain(loss: Loss, start: Point, goal: float) -> float:
    """Seconds of torch's L-BFGS until the same value is reached, infinite where it is not."""
    leaves = [t.clone().requires_grad_() for t in start]
    how = {"history_size": 20, "max_iter": 20_000, "max_eval": 40_000, "tolerance_grad": 0.0, "tolerance_change": 0.0}
    optimizer = torch.optim.LBFGS(leaves, line_search_fn="strong_wolfe", **how)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(*leaves)
        if value.item() <= goal + ACCURACY:
            raise Reached
        value.backward()
        return value

    began = time.process_time()
    try:
        optimizer.step(closure)
    except Reached:
        return time.process_time() - began
    return float("inf")


def timed_minimum(model: Model, loss: Loss) -> tuple[float, float]:
    """Median seconds of both, run in turn from the same points (other seeds each time)."""
    goal = float(np.asarray(model.predicted()["minimum"]))
    times: list[tuple[float, float]] = []
    for seed in range(REPEATS + 1):
        start = model.start(seed)
        unfolded = (start[0], *unfold(start[1])) if isinstance(model, ErgenPilanci) else start
        times.append((ours(model, start), plain(loss, unfolded, goal)))
    return median(a for a, _ in times[1:]), median(b for _, b in times[1:])  # the first run warms up


def timed_flow(model: Mixon | CentralPath) -> tuple[float, float]:
    """Median seconds of the model's integration and of the same integrator over autograd's gradient."""
    times = []
    for seed in range(3):
        began = time.process_time()
        autograd_flow(model, seed)
        middle = time.process_time()
        if isinstance(model, CentralPath):
            model.solve(seed)
        else:
            gradient_flow(model.objective(), model.start(seed), np.array([0.0, model.duration]))
        times.append((time.process_time() - middle, middle - began))
    return median(a for a, _ in times), median(b for _, b in times)


def autograd_flow(model: Mixon | CentralPath, seed: int) -> None:
    """What a user would write: autograd's gradient of the loss, projected where there is a manifold."""
    from manifolds.geometry import oblique_projection

    start = model.start(seed)
    if isinstance(model, CentralPath):
        layout = model.layout
        Y = one_hot(layout)

        def velocity(x: np.ndarray) -> np.ndarray:
            X = torch.from_numpy(x).requires_grad_()
            M = layout.means(X.detach())
            W = torch.linalg.solve(M @ M.mT / model.C + torch.eye(model.P, dtype=X.dtype), M / model.C).mT
            loss = ((W @ X + 1 / model.C - Y) ** 2).sum() / (2 * layout.n)  # the envelope theorem: W is held
            (G,) = torch.autograd.grad(loss, X)
            return -oblique_projection(X.detach(), G, layout).numpy()

        integrate_scipy(velocity, start[0].numpy(), model.times, tolerance=1e-11)
        return
    shapes = [t.shape for t in start]
    sizes, Y = [t.numel() for t in start], one_hot(model.layout)

    def descent(x: np.ndarray) -> np.ndarray:
        leaves = [t.view(s).requires_grad_() for t, s in zip(torch.from_numpy(x).split(sizes), shapes, strict=True)]
        gradient = torch.autograd.grad(((leaves[0] @ leaves[1] + leaves[2] - Y) ** 2).sum() / 2, leaves)
        return -torch.cat([g.reshape(-1) for g in gradient]).numpy()

    from scipy.integrate import solve_ivp

    x0 = torch.cat([t.reshape(-1) for t in start]).numpy()
    solve_ivp(lambda _, x: descent(x), (0.0, model.duration), x0, method="DOP853", rtol=1e-11, atol=1e-14 * abs(x0).max())


def main() -> None:
    """Print one table."""
    torch.set_num_threads(1)
    print(
        f"seconds to {ACCURACY:.0e} above the exact minimum, one thread, medians of {REPEATS}; plain = torch L-BFGS with autograd"
    )
    for sizes in (SMALL, LARGE):
        print(f"\nC = {sizes['C']}, N = {sizes['N']}, P = {sizes['P']}")
        for model, loss in problems(sizes):
            mine, theirs = timed_minimum(model, loss)
            print(f"{model.facts.name:>18}  {mine:8.4f} s   plain {theirs:8.4f} s   ratio {theirs / mine:6.2f}")
    print("\nflows; plain = the same integrator over autograd's gradient")
    for flow in (CentralPath(C=5, N=7, P=9), Mixon(C=5, N=9, P=7)):
        mine, theirs = timed_flow(flow)
        print(f"{flow.facts.name:>18}  {mine:8.4f} s   plain {theirs:8.4f} s   ratio {theirs / mine:6.2f}")


if __name__ == "__main__":
    main()
