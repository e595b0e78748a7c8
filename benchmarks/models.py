"""`python -m benchmarks.models`: whole solves of the models against plain torch on the same problems, as ratios.

Ours is `model.solve`: objective, every start, the solver to round-off, the recorded path. Plain is torch.optim.LBFGS (strong
Wolfe) with autograd from one start, constraints divided out as a user would write them, stopped as soon as its value is within
ACCURACY of the exact minimum, which ours has to reach too. Flows: the same scipy integrator over autograd's gradient.
Processor seconds on one thread, both in turn from the same seeded starts; the ratio is the median over PAIRS of plain over
ours, so above 1 ours is faster. Where plain does not come within ACCURACY, both are compared at the accuracy that is printed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from ufm.models.any_target import AnyTarget
from ufm.models.base import Model
from ufm.models.dang import DeepLinear
from ufm.models.e_wojtowytsch import EWojtowytsch
from ufm.models.ergen_pilanci import ErgenPilanci, batch_normalized_value, unfold
from ufm.models.fang import Fang
from ufm.models.garrod_keating import DeepCrossEntropy
from ufm.models.han_papyan_donoho import CentralPath
from ufm.models.joint_decay import JointDecay
from ufm.models.lu_steinerberger import LuSteinerberger
from ufm.models.mixon import Mixon
from ufm.models.objective.losses import one_hot
from ufm.models.objective.peeled import Point
from ufm.models.poggio_liao import PoggioLiao
from ufm.models.solvers.gradient_flow import gradient_flow
from ufm.models.tirer_bruna import BiasFree, FreeBias
from ufm.models.zhou import DecayedBias
from ufm.models.zhou_losses import FocalLoss, LabelSmoothing
from ufm.models.zhu import Zhu
from ufm.tensor.integrate import integrate_scipy

ACCURACY = 1e-10
PAIRS = 9
SMALL, LARGE = {"C": 5, "N": 7, "P": 9}, {"C": 10, "N": 50, "P": 30}
Loss = Callable[..., Tensor]
Decayed = Zhu | BiasFree | FreeBias | DecayedBias | DeepLinear | DeepCrossEntropy | AnyTarget


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


def smoothed(model: LabelSmoothing) -> Callable[[Tensor], Tensor]:
    """torch's cross-entropy with its own label smoothing."""
    y = labels(model)
    return lambda Z: torch.nn.functional.cross_entropy(Z.T, y, label_smoothing=model.smoothing)


def focal(model: FocalLoss) -> Callable[[Tensor], Tensor]:
    """Mean of (1 - p)^gamma times the cross-entropy."""
    y = labels(model)

    def value(Z: Tensor) -> Tensor:
        surprise = torch.nn.functional.cross_entropy(Z.T, y, reduction="none")
        return ((-torch.expm1(-surprise)) ** model.gamma * surprise).mean()

    return value


def to_targets(model: AnyTarget) -> Callable[[Tensor], Tensor]:
    """Mean over examples of half the squared error to any targets."""
    Y = torch.as_tensor(model.Y)
    return lambda Z: ((Z - Y) ** 2).sum() / (2 * model.layout.n)


def spheres(model: LuSteinerberger) -> Loss:
    """Unit rows and columns by division."""
    loss = cross_entropy(model)
    return lambda W, H: loss(model.temperature * (W / W.norm(dim=1, keepdim=True)) @ (H / H.norm(dim=0)))


def balls(model: EWojtowytsch) -> Loss:
    """The spectral ball as chol(W W^T + eps I)^-1 W, whose singular values are below 1, the unit balls by division."""
    loss, ridge = cross_entropy(model), 1e-3 * torch.eye(model.C, dtype=torch.float64)  # the fastest of eps = 1, .1, ... 1e-6

    def value(W: Tensor, H: Tensor) -> Tensor:
        inside = torch.linalg.solve_triangular(torch.linalg.cholesky(W @ W.mT + ridge), W, upper=False)
        return loss(inside @ (H / H.norm(dim=0)))

    return value


def normalized(model: PoggioLiao) -> Loss:
    """Frobenius norms by division."""
    Y = one_hot(model.layout) - 1 / model.C

    def value(W: Tensor, H: Tensor, r: Tensor) -> Tensor:
        rho = model.unit * r
        return ((rho * (W / W.norm()) @ (H / H.norm()) - Y) ** 2).sum() / 2 + model.lambda_w / 2 * (rho**2).sum()

    return value


def energies(model: Fang) -> Loss:
    """Both energies by division, the class sizes as weights."""
    y, weights = labels(model), torch.as_tensor(model.priors * model.C)

    def loss(Z: Tensor) -> Tensor:
        return (torch.nn.functional.cross_entropy(Z.T, y, reduction="none") * weights[y]).mean()

    return lambda W, H: loss(model.budget * model.N**0.5 * (W / W.norm()) @ (H / H.norm()))


def decayed(loss: Callable[[Tensor], Tensor], model: Decayed, bias: float) -> Loss:
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


def problems(sizes: dict[str, Any]) -> list[tuple[Model, Loss]]:
    """The minimisations."""
    C = sizes["C"]
    weak: dict[str, Any] = {"lambda_w": 0.1 / (C * sizes["N"] ** 0.5), "lambda_h": 0.1 / (C * sizes["N"] ** 0.5)}
    zhu, free, biased, bias_free = (
        Zhu(**sizes, **weak),
        FreeBias(**sizes, **weak),
        DecayedBias(**sizes, **weak),
        BiasFree(**sizes, **weak),
    )
    deep = DeepLinear(**sizes, lambda_w=2e-3, lambda_h=2e-3)
    # ours starts along every structure too; plain starts at the random point alone
    deep_ce = DeepCrossEntropy(C=min(C, 6), N=sizes["N"], P=sizes["P"], lambda_w=2e-3, lambda_h=2e-3)
    lu, ball, norm = LuSteinerberger(C=C, N=1, P=sizes["P"]), EWojtowytsch(**sizes), PoggioLiao(**sizes)
    fang, unequal = Fang(**sizes), Fang(**sizes, majority=2, imbalance=3.0)
    smooth, focused = LabelSmoothing(**sizes, **weak), FocalLoss(**sizes, **weak)
    regression = AnyTarget(**sizes, lambda_w=1e-3, lambda_h=1e-3)
    ergen = ErgenPilanci(C=C, N=sizes["N"], P=sizes["P"], beta=0.5)
    return [
        (lu, spheres(lu)),
        (ball, balls(ball)),
        (norm, normalized(norm)),
        (ergen, folded(ergen)),
        (fang, energies(fang)),
        (unequal, energies(unequal)),
        (zhu, decayed(cross_entropy(zhu), zhu, zhu.lambda_b)),
        (bias_free, decayed(squared(bias_free), bias_free, 0.0)),
        (free, decayed(squared(free), free, 0.0)),
        (biased, decayed(squared(biased), biased, biased.lambda_b)),
        (deep, decayed(squared(deep), deep, 0.0)),
        (deep_ce, decayed(cross_entropy(deep_ce), deep_ce, 0.0)),
        (smooth, decayed(smoothed(smooth), smooth, smooth.lambda_b)),
        (focused, decayed(focal(focused), focused, focused.lambda_b)),
        (regression, decayed(to_targets(regression), regression, 0.0)),
    ]


@dataclass(frozen=True)
class Timed:
    """Median processor seconds of both, median and quartiles of plain over ours, and how far above the minimum each ended."""

    ours: float
    plain: float
    ratio: float
    low: float
    high: float
    ours_above: float
    plain_above: float


def plain(loss: Loss, start: Point, goal: float) -> tuple[float, float]:
    """Seconds of torch's L-BFGS until a value of at most `goal`, infinite where it gives up, and the lowest value seen."""
    leaves = [t.clone().requires_grad_() for t in start]
    how = {"history_size": 20, "max_iter": 3000, "max_eval": 6000, "tolerance_grad": 0.0, "tolerance_change": 0.0}
    optimizer, lowest = torch.optim.LBFGS(leaves, line_search_fn="strong_wolfe", **how), float("inf")

    def closure() -> Tensor:
        nonlocal lowest
        optimizer.zero_grad()
        value = loss(*leaves)
        lowest = min(lowest, value.item())
        if lowest <= goal:
            raise Reached
        value.backward()
        return value

    began = time.process_time()
    try:
        optimizer.step(closure)
    except Reached:
        return time.process_time() - began, lowest
    return float("inf"), lowest


def timed(model: Model, loss: Loss, accuracy: float = ACCURACY) -> Timed:
    """Whole solves of ours and plain runs, in turn from the same points; the first pair warms up."""
    minimum, pairs = float(np.asarray(model.predicted()["minimum"])), []
    for seed in range(PAIRS + 1):
        start = model.start(seed)
        unfolded = (start[0], *unfold(start[1])) if isinstance(model, ErgenPilanci) else start
        began = time.process_time()
        solution = model.solve(seed)
        mine = time.process_time() - began
        theirs, lowest = plain(loss, unfolded, minimum + accuracy)
        pairs.append((mine, theirs, model.value(solution.point) - minimum, lowest - minimum))
    mine, theirs, above, plain_above = zip(*pairs[1:], strict=True)
    if max(above) > accuracy:
        raise RuntimeError(f"{model.facts.name} ended {max(above):.1e} above its minimum")
    low, middle, high = quantiles([b / a for a, b in zip(mine, theirs, strict=True)], n=4)
    return Timed(median(mine), median(theirs), middle, low, high, max(above), max(plain_above))


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


def timed_law(model: JointDecay) -> tuple[float, float]:
    """Median seconds of law (e) at its 41 times and of scipy's RK45 on (W, H), rtol 1e-6; they agree to 1e-4 or it raises."""
    Y, n, wd, t, times = one_hot(model.layout).numpy(), model.layout.n, model.weight_decay, model.times, []
    for seed in range(PAIRS):
        W, H = (x.numpy() for x in model.start(seed))

        def descent(_: float, x: np.ndarray) -> np.ndarray:
            A, B = x[: W.size].reshape(W.shape), x[W.size :].reshape(H.shape)  # noqa: B023
            R = (A @ B - Y) / n
            return -np.concatenate([(R @ B.T + wd * A).ravel(), (A.T @ R + wd * B).ravel()])

        began = time.process_time()
        law = model.law((torch.from_numpy(W), torch.from_numpy(H)))
        logits = np.stack([law.logits(at / n) for at in t])
        middle = time.process_time()
        x = solve_ivp(descent, (0.0, t[-1]), np.concatenate([W.ravel(), H.ravel()]), t_eval=t, rtol=1e-6, atol=1e-9).y
        times.append((middle - began, time.process_time() - middle))
        end = x[: W.size, -1].reshape(W.shape) @ x[W.size :, -1].reshape(H.shape)
        if not abs(logits[-1] - end).max() <= 1e-4:
            raise RuntimeError(f"law and integration differ by {abs(logits[-1] - end).max():.1e}: the comparison is void")
    return median(a for a, _ in times), median(b for _, b in times)


def autograd_flow(model: Mixon | CentralPath, seed: int) -> None:
    """What a user would write: autograd's gradient of the loss, projected where there is a manifold."""
    from manifolds.normalized_features import oblique_projection

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

    x0 = torch.cat([t.reshape(-1) for t in start]).numpy()
    solve_ivp(lambda _, x: descent(x), (0.0, model.duration), x0, method="DOP853", rtol=1e-11, atol=1e-14 * abs(x0).max())


def main() -> None:
    """Print one table."""
    torch.set_num_threads(1)
    print(f"whole solves; plain = torch L-BFGS to {ACCURACY:.0e} above the minimum; medians of {PAIRS} pairs, one thread")
    for sizes in (SMALL, LARGE):
        print(f"\nC = {sizes['C']}, N = {sizes['N']}, P = {sizes['P']}")
        for model, loss in problems(sizes):
            name = model.facts.name + (", unequal" if getattr(model, "majority", 0) else "")
            pair, accuracy = timed(model, loss), ACCURACY
            if pair.plain == float("inf"):  # once more, to where plain came
                accuracy = 2 * pair.plain_above
                pair = timed(model, loss, accuracy)
            print(
                f"{name:>18}  ours {pair.ours * 1e3:7.1f} ms  plain {pair.plain * 1e3:7.1f} ms  ratio {pair.ratio:6.2f} "
                f"({pair.low:.2f} to {pair.high:.2f})  ours {pair.ours_above:.0e} above the minimum, plain to {accuracy:.0e}",
                flush=True,
            )
    print("\nflows; plain = the same integrator over autograd's gradient")
    for flow in (CentralPath(C=5, N=7, P=9), Mixon(C=5, N=9, P=7)):
        mine, theirs = timed_flow(flow)
        print(f"{flow.facts.name:>18}  ours {mine * 1e3:7.1f} ms  plain {theirs * 1e3:7.1f} ms  ratio {theirs / mine:6.2f}")
    print("\nclosed law at 41 times; plain = scipy's RK45 on (W, H)")
    for sizes in (SMALL, LARGE):
        mine, theirs = timed_law(JointDecay(C=sizes["C"], N=sizes["N"], P=sizes["P"]))
        name = f"joint-decay {sizes['C']}, {sizes['N']}, {sizes['P']}"
        print(f"{name:>22}  ours {mine * 1e3:7.1f} ms  plain {theirs * 1e3:7.1f} ms  ratio {theirs / mine:6.2f}")


if __name__ == "__main__":
    main()
