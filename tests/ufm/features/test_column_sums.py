"""NC0 on unconstrained features of any sizes: W, b and H trained by the optimizers of torch, against the recursion alone."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from ufm.features.column_sums import ColumnSums, cross_entropy_step

LR, DECAY, STEPS = 0.05, 0.1, 20


@st.composite
def layers(draw: st.DrawFn, fewest: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """W (C, P), b (C,), H (P, n) and labels (n,), C, P and n pairwise distinct, classes of any sizes."""
    C = draw(st.integers(fewest, 6))
    P = draw(st.integers(1, 8).filter(lambda P: P != C))
    n = draw(st.integers(C, 12).filter(lambda n: n not in (C, P)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    W, b, H = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((C, P), (C,), (P, n)))
    labels = torch.cat([torch.arange(C), torch.randint(C, (n - C,), generator=generator)])
    return W.requires_grad_(), b.requires_grad_(), H.requires_grad_(), labels


def train(
    problem: tuple[torch.Tensor, ...], optimizer: torch.optim.Optimizer, smoothing: float = 0.0
) -> Iterator[tuple[torch.Tensor, float]]:
    """1^T W after every step on half of the examples in turn, the rate falling tenfold halfway, and the rate of the step."""
    W, b, H, labels = problem
    for step in range(STEPS):
        rate = LR if step < STEPS // 2 else LR / 10
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = slice(step % 2, None, 2)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy((W @ H + b[:, None]).mT[rows], labels[rows], label_smoothing=smoothing)
        loss.backward()
        optimizer.step()
        yield W.detach().sum(0), rate


def departures(problem: tuple[torch.Tensor, ...], optimizer: torch.optim.Optimizer) -> np.ndarray:
    """How far 1^T W is from the recursion after every step, over its first size. (STEPS,)"""
    state = ColumnSums(problem[0].detach().sum(0))
    size, gaps = float(state.sums.norm()), list[float]()
    assume(size > 0.1)
    for sums, rate in train(problem, optimizer):
        state = cross_entropy_step(state, rate, DECAY)
        gaps.append(float((sums - state.sums).norm()) / size)
    return np.array(gaps)


@given(layers(), st.sampled_from([0.0, 0.2]), st.sampled_from([0.0, 0.9]), st.booleans())
def test_nc0_is_a_recursion_without_data_and_labels_for_any_sizes(
    problem: tuple[torch.Tensor, ...], smoothing: float, momentum: float, nesterov: bool
) -> None:
    nesterov = nesterov and momentum > 0
    sgd = torch.optim.SGD(problem[:3], lr=LR, momentum=momentum, weight_decay=DECAY, nesterov=nesterov)
    state = ColumnSums(problem[0].detach().sum(0))
    for sums, rate in train(problem, sgd, smoothing):
        state = cross_entropy_step(state, rate, DECAY, momentum, nesterov)
        assert torch.allclose(sums, state.sums, rtol=0, atol=1e-13)


class SignDescent(torch.optim.Optimizer):
    """Steps of the rate along the sign of the gradient with its decay."""

    def __init__(self, parameters: object) -> None:
        super().__init__(parameters, {"lr": LR})  # type: ignore[arg-type]

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                assert p.grad is not None
                p -= group["lr"] * torch.sign(p.grad + DECAY * p)


ADAPTIVE = {
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=LR, weight_decay=DECAY),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=LR, weight_decay=DECAY),
    "sign": SignDescent,
}


@pytest.mark.parametrize("name", ADAPTIVE)
@given(problem=layers(fewest=3))
def test_adam_adamw_and_signs_leave_the_recursion(name: str, problem: tuple[torch.Tensor, ...]) -> None:
    assert departures(problem, ADAPTIVE[name](problem[:3])).max() > 1e-3


@given(layers().filter(lambda problem: len(problem[0]) == 2))
def test_of_two_classes_adamw_keeps_the_recursion(problem: tuple[torch.Tensor, ...]) -> None:
    """The gradients of two rows are each other's negatives, so their rescaled steps cancel, and decay acts apart from them."""
    assert departures(problem, ADAPTIVE["AdamW"](problem[:3])).max() < 1e-12
