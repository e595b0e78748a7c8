"""The variance-reduced step: linear where stochastic gradient descent stalls, on manifolds of geoopt and of this package."""

import copy
from collections.abc import Callable
from typing import Any

import geoopt
import numpy as np
import pytest
import torch

from manifolds import geoopt as geoopt_manifolds
from manifolds.class_centering import ClassLayout
from manifolds.optimizers.svrg import RiemannianSVRG

LAYOUT = ClassLayout((5, 7, 6))
Parameter: Any = geoopt.ManifoldParameter
Losses = list[Callable[[], torch.Tensor]]


def parameter(values: np.ndarray, manifold: Any) -> Any:
    return Parameter(torch.from_numpy(values), manifold=manifold)


def rows_along(seed: int, count: int, n: int, p: int) -> np.ndarray:
    """Rows near p axes in turn."""
    return 0.3 * np.random.default_rng(seed).standard_normal((count, n)) + 1.5 * np.eye(n)[np.arange(count) % p]


def principal_component(count: int = 12, n: int = 6) -> tuple[list[Any], Losses, float]:
    """-(a_i . x)^2 on the sphere."""
    A = rows_along(0, count, n, 1)
    x = parameter(np.ones(n) / n**0.5, geoopt.Sphere())
    rows = torch.from_numpy(A)
    losses: Losses = [lambda a=a: -((a @ x) ** 2) for a in rows]
    return [x], losses, -float(np.linalg.eigvalsh(A.T @ A / count)[-1])


def principal_subspace(count: int = 12, n: int = 6, p: int = 2) -> tuple[list[Any], Losses, float]:
    """-|a_i X|^2 on Stiefel, beside a plain vector with |v - b_i|^2."""
    A, B = rows_along(1, count, n, p), np.random.default_rng(1).standard_normal((count, 3))
    X, v = (
        parameter(np.linalg.qr(np.ones((n, 1)) + np.eye(n)[:, :p])[0], geoopt.EuclideanStiefel()),
        torch.nn.Parameter(torch.zeros(3, dtype=torch.float64)),
    )
    losses: Losses = [
        lambda a=a, b=b: -((a @ X) ** 2).sum() + ((v - b) ** 2).sum()
        for a, b in zip(torch.from_numpy(A), torch.from_numpy(B), strict=True)
    ]
    least = -np.linalg.eigvalsh(A.T @ A / count)[-p:].sum() + B.var(0).sum()
    return [X, v], losses, float(least)


def on_product(count: int = 12, n: int = 5) -> tuple[list[Any], Losses, float]:
    """-(a_i . x)^2 + |v - b_i|^2 on Sphere x R^3 as one parameter."""
    A, B = rows_along(2, count, n, 1), np.random.default_rng(2).standard_normal((count, 3))
    manifold = geoopt.ProductManifold((geoopt.Sphere(), n), (geoopt.Euclidean(1), 3))
    z = parameter(np.concatenate([np.ones(n) / n**0.5, np.zeros(3)]), manifold)
    losses: Losses = [
        lambda a=a, b=b: -((a @ z[:n]) ** 2) + ((z[n:] - b) ** 2).sum()
        for a, b in zip(torch.from_numpy(A), torch.from_numpy(B), strict=True)
    ]
    return [z], losses, float(-np.linalg.eigvalsh(A.T @ A / count)[-1] + B.var(0).sum())


def nearest_features(kind: str, count: int = 12, P: int = 3) -> tuple[list[Any], Losses, float]:
    """|X - Z_i|^2 / 2n on the normalized features: the nearest point to the mean of the Z_i."""
    rng = np.random.default_rng(3)
    Z = rng.standard_normal((count, P, LAYOUT.n)) + LAYOUT.spread(rng.standard_normal((P, LAYOUT.C)))
    classes = {"embedded": geoopt_manifolds.EmbeddedNormalizedFeatures, "bundle": geoopt_manifolds.NormalizedFeatures}
    manifold = classes[kind](LAYOUT)
    X = Parameter(manifold.origin(P, LAYOUT.n, dtype=torch.float64), manifold=manifold)
    targets = torch.from_numpy(Z)
    losses: Losses = [lambda target=target: ((X - target) ** 2).sum() / (2 * LAYOUT.n) for target in targets]
    mean = Z.mean(0)
    values = np.linalg.svd(LAYOUT.deviations(mean), compute_uv=False)
    nearest = np.sum((values - LAYOUT.n**0.5) ** 2) / (2 * LAYOUT.n)
    spread = (np.sum(Z**2) / count - np.sum(mean**2)) / (2 * LAYOUT.n)
    return [X], losses, float(nearest + spread)


def turned_features(count: int = 12, P: int = 2) -> tuple[list[Any], Losses, float]:
    """<X, X S_i> / 2n on the quotient by O(P), no coupling of means and deviations: the lowest eigenvectors of mean S_i."""
    rng, n = np.random.default_rng(4), LAYOUT.n
    center = LAYOUT.deviations(np.eye(n))
    noise = 0.1 * center @ rng.standard_normal((count, n, n)) @ center
    low = np.linalg.qr(center @ rng.standard_normal((n, P)))[0]
    S = np.eye(n) - 0.8 * low @ low.T + (noise + noise.mT) / 2
    manifold = geoopt_manifolds.OrthogonalQuotient(geoopt_manifolds.EmbeddedNormalizedFeatures(LAYOUT))
    X = Parameter(manifold.origin(P, n, dtype=torch.float64), manifold=manifold)
    losses: Losses = [lambda s=s: (X * (X @ s)).sum() / (2 * n) for s in torch.from_numpy(S)]
    values, vectors = np.linalg.eigh(center)
    basis = vectors[:, values > 0.5]
    return [X], losses, float(np.linalg.eigvalsh(basis.T @ S.mean(0) @ basis)[:P].sum() / 2)


CASES: dict[str, tuple[Callable[[], tuple[list[Any], Losses, float]], float]] = {
    "sphere": (principal_component, 0.05),
    "stiefel and a plain parameter": (principal_subspace, 0.05),
    "product": (on_product, 0.05),
    "embedded": (lambda: nearest_features("embedded"), 6.0),
    "bundle": (lambda: nearest_features("bundle"), 6.0),
    "quotient": (turned_features, 8.0),
}


def whole(losses: Losses) -> torch.Tensor:
    return torch.stack([loss() for loss in losses]).mean()


def mean_of(losses: Losses) -> float:
    with torch.no_grad():
        return float(whole(losses))


def excess_after_epochs(make: Callable, rate: float, epochs: int, reduced: bool) -> list[float]:
    """The mean loss less its least after each epoch of count steps, with anchors or without."""
    parameters, losses, least = make()
    rng = np.random.default_rng(5)
    optimizer: Any = RiemannianSVRG(parameters, lr=rate) if reduced else geoopt.optim.RiemannianSGD(parameters, lr=rate)
    excesses = []
    for _ in range(epochs):
        if reduced:
            optimizer.anchor(lambda: whole(losses).backward())
        for i in rng.integers(len(losses), size=2 * len(losses)):
            if reduced:
                optimizer.step(lambda i=i: losses[i]().backward())
            else:
                optimizer.zero_grad()
                losses[i]().backward()
                optimizer.step()
        excesses.append(mean_of(losses) - least)
    return excesses


@pytest.mark.parametrize("name", CASES)
def test_a_fixed_rate_converges_linearly_where_descent_stalls(name: str) -> None:
    make, rate = CASES[name]
    reduced = excess_after_epochs(make, rate, 8, reduced=True)
    stalled = excess_after_epochs(make, rate, 4, reduced=False)
    assert reduced[-1] < 1e-2 * reduced[5] < 1e-4 * reduced[2], reduced
    assert min(stalled) > 1e-3, stalled


def anchored(rate: float = 0.05) -> tuple[Any, RiemannianSVRG, Losses]:
    """A point on the sphere, some steps from its anchor."""
    (x,), losses, _ = principal_component()
    optimizer = RiemannianSVRG([x], lr=rate)
    optimizer.anchor(lambda: whole(losses).backward())
    for loss in losses[:3]:
        optimizer.step(lambda loss=loss: loss().backward())
    return x, optimizer, losses


def test_the_mean_of_the_steps_is_the_gradient() -> None:
    """Over all batches, v has the mean grad f(x), whatever the anchor: measured by tiny steps from one point."""
    x, optimizer, losses = anchored()
    start, rate = x.detach().clone(), 1e-7
    optimizer.param_groups[0]["lr"] = rate
    velocities = []
    for loss in losses:
        with torch.no_grad():
            x.copy_(start)
        optimizer.step(lambda loss=loss: loss().backward())
        velocities.append((start - x.detach()) / rate)
    with torch.no_grad():
        x.copy_(start)
    optimizer.zero_grad()
    whole(losses).backward()
    expected = x.manifold.egrad2rgrad(x.detach(), x.grad)
    assert torch.allclose(torch.stack(velocities).mean(0), expected, atol=1e-6)


def test_a_copy_goes_on_alike() -> None:
    x, optimizer, losses = anchored()
    saved = copy.deepcopy(optimizer.state_dict())
    start = x.detach().clone()
    optimizer.step(lambda: losses[5]().backward())
    (y,), others, _ = principal_component()
    with torch.no_grad():
        y.copy_(start)
    other = RiemannianSVRG([y], lr=0.3)
    other.load_state_dict(saved)
    other.step(lambda: others[5]().backward())
    assert torch.equal(x.detach(), y.detach())


def test_both_evaluations_see_the_same_random_numbers_and_the_caller_sees_one() -> None:
    x, optimizer, _ = anchored()
    drawn = []

    def closure() -> None:
        drawn.append(torch.rand(3, dtype=torch.float64))
        (x[:3] @ drawn[-1]).backward()

    torch.manual_seed(7)
    optimizer.step(closure)
    after = torch.rand(1)
    torch.manual_seed(7)
    torch.rand(3, dtype=torch.float64)
    assert torch.equal(*drawn)
    assert torch.equal(after, torch.rand(1))


def test_an_interrupted_step_leaves_the_point() -> None:
    x, optimizer, _ = anchored()
    before = x.detach().clone()

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(interrupted)
    assert torch.equal(x.detach(), before)


def test_a_closures_value_is_that_of_the_point_before_the_step() -> None:
    x, optimizer, losses = anchored()

    def closure() -> float:
        value = losses[0]()
        value.backward()
        return value.item()

    before = losses[0]().item()
    assert optimizer.step(closure) == before
    assert optimizer.anchor(closure) == losses[0]().item()
    assert torch.equal(optimizer.state[x]["anchor"], x.detach())


def test_a_batch_that_does_not_see_a_parameter_moves_it_by_the_anchors_gradient() -> None:
    seen, unseen = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = RiemannianSVRG([seen, unseen], lr=0.5)
    optimizer.anchor(lambda: (seen.sum() + 2 * unseen.sum()).backward())
    optimizer.step(lambda: seen.sum().backward())
    assert torch.equal(unseen.detach(), torch.zeros(2))
    assert torch.equal(seen.detach(), torch.full((2,), 0.5))


def test_parameters_are_stabilized() -> None:
    x = parameter(np.array([1.0, 0.0, 0.0]), geoopt.SphereExact())
    optimizer = RiemannianSVRG([x], lr=1e-3, stabilize=2)
    optimizer.anchor(lambda: x[1].backward())
    with torch.no_grad():
        x.mul_(1 + 1e-6)
    optimizer.step(lambda: x[1].backward())
    assert abs(float(x.detach().norm()) - 1) > 1e-7
    optimizer.step(lambda: x[1].backward())
    assert abs(float(x.detach().norm()) - 1) < 1e-12


def test_what_cannot_be_done_is_refused() -> None:
    x = torch.nn.Parameter(torch.ones(2))
    y = torch.nn.Parameter(torch.ones(3))
    for rate in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="learning rate"):
            RiemannianSVRG([x], lr=rate)
    optimizer = RiemannianSVRG([x, y], lr=0.1)
    with pytest.raises(RuntimeError, match="call anchor"):
        optimizer.step(lambda: x.sum().backward())
    optimizer.anchor(lambda: x.sum().backward())
    with pytest.raises(RuntimeError, match="none at the anchor"):
        optimizer.step(lambda: (x.sum() + y.sum()).backward())
