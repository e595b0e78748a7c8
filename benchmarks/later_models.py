"""Solves of seli, softmax-codes and block-kernel beside what one would write with scipy or torch."""

from collections.abc import Iterator

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from benchmarks.rows import Row, agree, seconds
from benchmarks.timing import Paired, paired
from ufm.arrays import as_numpy
from ufm.features.margins import jiang_one_vs_rest_margin
from ufm.models.jiang import SoftmaxCodes
from ufm.models.seleznova import BlockKernel
from ufm.models.thrampoulidis import Seli

PAIRS = 5
TEMPERATURE = 20.0  # of the cross-entropy whose minimiser stands for the code; at 100 most starts do not move


def seli() -> Iterator[Row]:
    """The interpolation of unequal classes: scipy's SLSQP on W and the features of all examples, with derivatives."""
    model = Seli(C=4, P=5, sizes=(12, 6, 4, 3))
    y, (C, P, n) = np.asarray(model.layout.labels), (model.C, model.P, model.layout.n)
    start = np.concatenate([as_numpy(t).ravel() for t in model.start(0)])
    columns = np.arange(n)

    def excess(x: np.ndarray) -> np.ndarray:
        Z = x[: C * P].reshape(C, P) @ x[C * P :].reshape(P, n)
        return np.delete((Z[y, columns] - Z - 1).T.ravel(), columns * C + y)

    def slopes(x: np.ndarray) -> np.ndarray:
        W, H = x[: C * P].reshape(C, P), x[C * P :].reshape(P, n)
        dW, dH = np.zeros((n, C, C, P)), np.zeros((n, C, P, n))
        dW[columns, :, y] = H.T[:, None]
        dW[:, np.arange(C), np.arange(C)] -= H.T[:, None]
        dH[columns, :, :, columns] = W[y][:, None] - W
        whole = np.concatenate([dW.reshape(n * C, -1), dH.reshape(n * C, -1)], 1)
        return np.delete(whole, columns * C + y, 0)

    def by_scipy() -> float:
        constraint = {"type": "ineq", "fun": excess, "jac": slopes}
        how = {"ftol": 1e-12, "maxiter": 1000}
        run = minimize(lambda x: x @ x / 2, start, jac=lambda x: x, method="SLSQP", constraints=constraint, options=how)
        return float(run.fun)

    minimum = float(np.asarray(model.predicted()["minimum"]))
    agree(np.array([model.value(model.solve(0).point)]), np.array([minimum]), 1e-9)
    agree(np.array([by_scipy()]), np.array([minimum]), 1e-6)
    times = paired(lambda: model.solve(0), by_scipy, PAIRS)
    yield _row(f"solve of seli, classes of {', '.join(map(str, model.layout.sizes))}, P = {P}", "SLSQP on every example", times)


def softmax_codes() -> Iterator[Row]:
    """The largest margin on spheres: torch's L-BFGS on the cross-entropy at a low temperature, which stops short of it."""
    model = SoftmaxCodes(C=7, N=4, P=4)
    y = torch.as_tensor(model.layout.labels)

    def by_torch() -> float:
        return max(descended(start) for start in model.starts(0))

    def descended(start: tuple[torch.Tensor, ...]) -> float:
        W, H = (t.clone().requires_grad_() for t in start)
        how = {"max_iter": 2000, "history_size": 20, "tolerance_grad": 1e-12, "tolerance_change": 0.0}
        optimizer = torch.optim.LBFGS([W, H], line_search_fn="strong_wolfe", **how)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            Z = TEMPERATURE * (W / W.norm(dim=1, keepdim=True)) @ (H / H.norm(dim=0))
            loss = torch.nn.functional.cross_entropy(Z.T, y)
            loss.backward()
            return loss

        optimizer.step(closure)
        return jiang_one_vs_rest_margin((W / W.norm(dim=1, keepdim=True)).detach())

    agree(np.array([-model.value(model.solve(0).point)]), np.array([model.largest]), 1e-8)
    short, times = model.largest - by_torch(), paired(lambda: model.solve(0), by_torch, PAIRS)
    beside = (
        f"L-BFGS on the cross-entropy at temperature {TEMPERATURE:g}, the same starts, whose best margin is {short:.1e} short"
    )
    yield _row(f"solve of softmax-codes from six starts, C = {model.C}, P = {model.P}, margin to 1e-8", beside, times)


def block_kernel() -> Iterator[Row]:
    """The closed law of collapsed features: scipy's DOP853 on (W, H, b) with the kernel as an n x n matrix."""
    model = BlockKernel(C=10, N=50, P=30)
    start, labels = model.start(0), np.asarray(model.layout.labels)
    parts, Y = [as_numpy(t) for t in start], np.eye(model.C)[:, labels]
    same = labels[:, None] == labels
    Theta = np.where(same, model.kernel_class, model.kernel_other) + model.single_rate * np.eye(model.layout.n)
    ends, shrink = np.cumsum([x.size for x in parts]), float(np.sqrt(model.class_rate / model.N))

    def descent(_: float, x: np.ndarray) -> np.ndarray:
        W, H, b = (piece.reshape(like.shape) for piece, like in zip(np.split(x, ends[:-1]), parts, strict=True))
        R = W @ H + b - Y
        return -np.concatenate([(R @ H.T).ravel(), (W.T @ R @ Theta).ravel(), R.sum(1)])

    def by_scipy() -> np.ndarray:
        x0 = np.concatenate([x.ravel() for x in parts])
        times = model.times
        x = solve_ivp(descent, times[[0, -1]], x0, method="DOP853", t_eval=times, rtol=1e-9, atol=1e-12).y[:, -1]
        W, H, _ = np.split(x, ends[:-1])
        return W.reshape(parts[0].shape) @ H.reshape(parts[1].shape)[:, :: model.N]

    def by_law() -> np.ndarray:
        law = model.law(start)
        return np.stack([shrink * law.logits(model.class_rate * float(t)) for t in model.times])[-1]

    agree(2 + by_law(), 2 + by_scipy(), 1e-6)
    times = paired(by_law, by_scipy, PAIRS)
    yield _row("law of block-kernel at 41 times, C = 10, N = 50, P = 30", "DOP853 on (W, H, b), rtol 1e-9", times)


def _row(what: str, beside: str, times: Paired) -> Row:
    spread = f"{1 / times.ratio:,.2g} x faster ({1 / times.high:,.2g} to {1 / times.low:,.2g})"
    return Row(what, seconds(times.ours), f"{beside}: {seconds(times.other)}", spread)


SECTIONS = (seli, softmax_codes, block_kernel)
