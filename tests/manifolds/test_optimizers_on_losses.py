"""The paper's scheme as Riemannian gradient descent; the libraries' optimizers on L_LS, with weight decay, on cross-entropy."""

from collections.abc import Callable
from functools import partial

import geoopt
import numpy as np
import pymanopt
import pytest
import torch
from pymanopt.optimizers import ConjugateGradient, TrustRegions

from manifolds import geoopt as geoopt_manifolds
from manifolds import normalized_features, retractions
from manifolds import pymanopt as pymanopt_manifolds
from manifolds.class_centering import ClassLayout
from tests.manifolds.losses import cross_entropy, least_squares
from tests.strategies import features
from tests.typed import gradient_of, parameter_on
from ufm.laws import discrete_singular_values as discrete
from ufm.tensor import renormalized_flow as flows

LAYOUT, P = ClassLayout.equal(4, 6), 5
LOSSES = {
    "L_LS": partial(least_squares, layout=LAYOUT),
    "L_LS + weight decay": partial(least_squares, layout=LAYOUT, lam=0.05),
    "cross-entropy": partial(cross_entropy, layout=LAYOUT),
}
GEOOPT = (geoopt_manifolds.NormalizedFeatures, geoopt_manifolds.EmbeddedNormalizedFeatures)
PYMANOPT = (pymanopt_manifolds.NormalizedFeatures, pymanopt_manifolds.EmbeddedNormalizedFeatures)


def start(layout: ClassLayout = LAYOUT, size: int = P) -> np.ndarray:
    H = features(layout, size, np.random.default_rng(0), 0.5)
    return normalized_features.renormalize(H - H.mean(-1, keepdims=True), layout)


def omega(X: np.ndarray, layout: ClassLayout = LAYOUT) -> np.ndarray:
    return np.linalg.svd(layout.means(X), compute_uv=False)[: layout.C - 1]


def descend(manifold: geoopt.Manifold, X: np.ndarray, eta: float, steps: int, loss: Callable = LOSSES["L_LS"]) -> np.ndarray:
    point = parameter_on(manifold, torch.from_numpy(X.copy()))
    optimizer = geoopt.optim.RiemannianSGD([point], lr=eta)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(point).backward()
        optimizer.step()
    return point.detach().numpy()


def test_the_torch_losses_are_the_theorys() -> None:
    X = start()
    np.testing.assert_allclose(
        float(LOSSES["L_LS"](torch.from_numpy(X))), 0.5 * np.sum(1 / (omega(X) ** 2 + LAYOUT.C)), rtol=1e-12
    )
    for lam in (0.0, 0.05):
        leaf = torch.from_numpy(X).requires_grad_(True)
        least_squares(leaf, LAYOUT, lam).backward()
        np.testing.assert_allclose(gradient_of(leaf).numpy(), flows.ls_gradient(X, LAYOUT, lam), rtol=0, atol=1e-13)


@pytest.mark.parametrize("eta", [1.0, 50.0])
def test_bundle_gradient_descent_along_the_horizontal_lift_is_the_discrete_scheme_of_the_paper(eta: float) -> None:
    """D.1 by geoopt's RiemannianSGD: the same points and the same SNR singular values after 50 steps, to 1e-12."""
    X = start()
    manifold = geoopt_manifolds.NormalizedFeatures(LAYOUT, retraction=retractions.horizontal_renormalisation)
    ours = descend(manifold, X, eta, 50)
    paper, values = X, omega(X)
    for _ in range(50):
        paper = flows.renormalize_after_step(paper, eta, partial(flows.ls_gradient, layout=LAYOUT), LAYOUT)
        values = discrete.recursion_step(values, eta, LAYOUT.C, LAYOUT.N)
    np.testing.assert_allclose(ours, paper, rtol=0, atol=1e-12)
    np.testing.assert_allclose(omega(ours), values, rtol=1e-12)


def test_bundle_gradient_descent_by_plain_renormalisation_is_eulers_method_on_the_exact_law() -> None:
    """renormalisation(X, -eta Pi G) moves class means only: omega' = omega + eta omega / (C N (C + omega^2)).

    It differs from the scheme of D.1 at second order in eta, and equals it where each mode's step is matched:
    eta' = eta / (1 - eta f omega / (C N)), one number only if the omegas are equal.
    """
    X, eta = start(), 20.0
    ours, values = descend(geoopt_manifolds.NormalizedFeatures(LAYOUT), X, eta, 50), omega(X)
    C, N = LAYOUT.C, LAYOUT.N
    for _ in range(50):
        values = values + eta * values / (C * N * (C + values**2))
    np.testing.assert_allclose(omega(ours), values, rtol=1e-12)
    np.testing.assert_allclose(LAYOUT.deviations(ours), LAYOUT.deviations(X), rtol=0, atol=1e-12)

    def gap(step: float) -> float:
        once = descend(geoopt_manifolds.NormalizedFeatures(LAYOUT), X, step, 1)
        return float(
            np.linalg.norm(once - flows.renormalize_after_step(X, step, partial(flows.ls_gradient, layout=LAYOUT), LAYOUT))
        )

    assert 1.9 < np.log2(gap(2.0) / gap(1.0)) < 2.1


def test_at_the_matching_step_plain_renormalisation_too_is_the_scheme_of_the_paper() -> None:
    """With equal omegas one step serves every mode."""
    X, C, N, eta = start(), LAYOUT.C, LAYOUT.N, 20.0
    U, values, Vt = np.linalg.svd(LAYOUT.means(X), full_matrices=False)
    level = 1.5
    X = LAYOUT.deviations(X) + LAYOUT.spread((U[:, : C - 1] * level) @ Vt[: C - 1])
    f = level / (C + level**2) ** 2
    matched = eta / (1 - eta * f * level / (C * N))
    ours = descend(geoopt_manifolds.NormalizedFeatures(LAYOUT), X, matched, 1)
    paper = flows.renormalize_after_step(X, eta, partial(flows.ls_gradient, layout=LAYOUT), LAYOUT)
    np.testing.assert_allclose(ours, paper, rtol=0, atol=1e-12)
    assert values.shape == (C,)


def test_embedded_gradient_descent_follows_proposition_2_and_the_bundle_one_does_not() -> None:
    X, eta, steps = start(), 0.5, 400
    ends = {cls: omega(descend(cls(LAYOUT), X, eta, steps)) for cls in GEOOPT}
    laws = {GEOOPT[0]: flows.RENORMALIZED_FLOW.law, GEOOPT[1]: flows.EMBEDDED_FLOW.law}
    for cls, law in laws.items():
        np.testing.assert_allclose(ends[cls], law.omega(np.array([eta * steps]), omega(X), LAYOUT.C, LAYOUT.N)[-1], rtol=2e-3)
    assert (ends[GEOOPT[0]] > 1.05 * ends[GEOOPT[1]]).all()


@pytest.mark.parametrize("name", list(LOSSES))
@pytest.mark.parametrize("cls", GEOOPT)
@pytest.mark.parametrize("optimizer_class", [geoopt.optim.RiemannianSGD, geoopt.optim.RiemannianAdam])
def test_geoopt_optimizers_lower_every_loss_on_the_manifold(name: str, cls: type, optimizer_class: type) -> None:
    point = parameter_on(cls(LAYOUT), torch.from_numpy(start()))
    optimizer = optimizer_class([point], lr=2.0 if optimizer_class is geoopt.optim.RiemannianSGD else 0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = LOSSES[name](point)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < 0.97 * losses[0]
    if optimizer_class is geoopt.optim.RiemannianSGD:
        assert (np.diff(losses) < 0).all()
    assert normalized_features.constraint_residual(point.detach(), LAYOUT) < 1e-12


def test_second_order_and_conjugate_gradient_reach_the_same_minimum_in_both_metrics() -> None:
    """A minimum does not depend on the metric. (L_LS has none, with or without decay of W: omega grows for ever.)"""
    ends = []
    for cls in PYMANOPT:
        manifold = cls(LAYOUT, P)
        problem = pymanopt.Problem(manifold, pymanopt.function.pytorch(manifold)(lambda X: LOSSES["cross-entropy"](X)))
        for optimizer in (TrustRegions(verbosity=0, min_gradient_norm=1e-8), ConjugateGradient(verbosity=0, max_iterations=400)):
            result = optimizer.run(problem, initial_point=start())
            ends.append(float(result.cost))
            assert normalized_features.constraint_residual(result.point, LAYOUT) < 1e-12
    np.testing.assert_allclose(ends, min(ends), rtol=1e-4)


@pytest.mark.parametrize("name", ["L_LS", "L_LS + weight decay"])
@pytest.mark.parametrize("cls", PYMANOPT)
def test_conjugate_gradient_and_trust_regions_lower_l_ls(cls: type, name: str) -> None:
    manifold = cls(LAYOUT, P)
    problem = pymanopt.Problem(manifold, pymanopt.function.pytorch(manifold)(lambda X: LOSSES[name](X)))
    for optimizer in (TrustRegions(verbosity=0, max_iterations=15), ConjugateGradient(verbosity=0, max_iterations=30)):
        result = optimizer.run(problem, initial_point=start())
        assert float(result.cost) < 0.2 * float(problem.cost(start()))


def walk(dtype: torch.dtype, steps: int, cls: type) -> float:
    """Largest residual, measured in float64, on a random walk of `steps` retractions."""
    layout, size = ClassLayout((4, 5, 6)), 3
    manifold, generator = cls(layout), torch.Generator().manual_seed(0)
    x = manifold.origin(size, layout.n, dtype=dtype).as_subclass(torch.Tensor)
    worst = 0.0
    for step in range(steps):
        u = manifold.proju(x, torch.randn(size, layout.n, dtype=dtype, generator=generator))
        x = manifold.retr(x, 0.1 * u)
        if step % 100 == 99:
            x = x - manifold.layout.spread(manifold.layout.means(x)) * 0.5  # the walk of the means is free: keep it near
            worst = max(worst, float(normalized_features.constraint_residual(x.double(), layout)))
    return worst


DRIFT = [(torch.float64, 1e-12), (torch.float32, 1e-4)]
WALKERS = (*GEOOPT, geoopt_manifolds.EmbeddedNormalizedFeaturesExact)


@pytest.mark.parametrize(("dtype", "allowed"), DRIFT)
@pytest.mark.parametrize("cls", WALKERS)
def test_retractions_do_not_drift(cls: type, dtype: torch.dtype, allowed: float) -> None:
    assert walk(dtype, 1000, cls) < allowed


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "allowed"), DRIFT)
@pytest.mark.parametrize("cls", WALKERS)
def test_retractions_do_not_drift_in_1e5_steps(cls: type, dtype: torch.dtype, allowed: float) -> None:
    assert walk(dtype, 100_000, cls) < allowed
