"""What geoopt, pymanopt and torch users rely on: drifted parameters survive, seeds are fresh, wrong arguments are refused."""

import copy
import io
import pickle
import warnings
from typing import Any

import geoopt
import numpy as np
import pymanopt
import pytest
import scipy.linalg
import torch
from pymanopt.manifolds import Product

from manifolds import geoopt as geoopt_manifolds
from manifolds import pymanopt as pymanopt_manifolds
from manifolds import retractions
from manifolds.class_centering import ClassLayout
from manifolds.metrics import BundleMetric, EmbeddedMetric
from tests.manifolds.points import LAYOUT, P, point
from tests.typed import gradient_of, parameter_on

CLASSES = (
    geoopt_manifolds.NormalizedFeatures,
    geoopt_manifolds.EmbeddedNormalizedFeatures,
    geoopt_manifolds.NormalizedFeaturesExact,
    geoopt_manifolds.EmbeddedNormalizedFeaturesExact,
)
PYMANOPT = (pymanopt_manifolds.NormalizedFeatures, pymanopt_manifolds.EmbeddedNormalizedFeatures)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_drifted_parameter_is_copied_pickled_averaged_and_loaded(cls: type) -> None:
    """A checkpoint must not be lost because its parameter left the manifold by 1e-3."""
    model = torch.nn.Module()
    model.x = x = parameter_on(cls(LAYOUT), torch.from_numpy(point()))
    with torch.no_grad():
        x.mul_(1.01)
    assert not x.manifold.check_point_on_manifold(x)
    twins = [copy.deepcopy(model).x, copy.copy(x), pickle.loads(pickle.dumps(x))]
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    twins.append(average.module.x)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    twins.append(torch.load(buffer, weights_only=False).x)
    for twin in twins:
        assert isinstance(twin, geoopt.ManifoldParameter)
        assert twin.manifold == x.manifold
        torch.testing.assert_close(twin.detach(), x.detach(), rtol=0, atol=0)


def test_storage_rounding_counts_every_feature() -> None:
    """All entries rounded the same way: the residual grows with sqrt(P), and is rounding all the same."""
    H = scipy.linalg.hadamard(256)
    layout = ClassLayout((128, 128))
    means_free = H[(H @ layout.spread(np.eye(2)).T == 0).all(1)][:64]
    for cls in CLASSES[:2]:
        x = torch.from_numpy(means_free.astype(np.float32)) * (1 - torch.finfo(torch.float16).eps)
        manifold = cls(layout)
        assert manifold.check_point_on_manifold(x.half(), atol=0, rtol=0)
        assert not manifold.check_point_on_manifold(x, atol=0, rtol=0)  # in float32 it is no rounding


def test_tangency_is_judged_by_the_sizes_of_both() -> None:
    manifold = geoopt_manifolds.EmbeddedNormalizedFeatures(LAYOUT)
    X = point()
    X = torch.from_numpy(X + LAYOUT.spread(1e6 * np.ones((P, LAYOUT.C))))
    U = manifold.proju(X, torch.randn(X.shape, dtype=X.dtype, generator=torch.Generator().manual_seed(0)) * 1e6)
    assert manifold.check_vector_on_tangent(X, U)
    assert not manifold.check_vector_on_tangent(X, U + 1e4 * LAYOUT.deviations(X))


@pytest.mark.parametrize("cls", CLASSES[:2])
def test_seeds_are_fresh_unless_given_and_generators_are_taken(cls: type) -> None:
    a, b = cls(LAYOUT).random(P, LAYOUT.n), cls(LAYOUT).random(P, LAYOUT.n)
    assert not torch.equal(a, b)
    c, d = (cls(LAYOUT, seed=seed).random(P, LAYOUT.n) for seed in (5, np.random.default_rng(5)))
    assert torch.equal(c, d)
    for other in PYMANOPT:
        left, right = Product([other(LAYOUT, P), other(LAYOUT, P)]).random_point()
        assert not np.array_equal(left, right)
        x, y = (other(LAYOUT, P, seed=seed).random_point() for seed in (5, np.random.default_rng(5)))
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("cls", CLASSES[:2])
@pytest.mark.parametrize("step", ["gradient_step", "projected_step"])
def test_a_scaled_manifold_scales_whole_steps(cls: type, step: str) -> None:
    """To first order for the projected one, as everywhere."""
    base, x = cls(LAYOUT), torch.from_numpy(point())
    scaled: Any = geoopt.Scaled(base, 2.0)  # declares nothing of what it passes on
    G = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(getattr(scaled, step)(x, G, 0.25), getattr(base, step)(x, G, 0.125), rtol=0, atol=1e-14)
    if step == "gradient_step":
        expected = scaled.retr(x, -0.25 * scaled.egrad2rgrad(x, G))
        torch.testing.assert_close(scaled.gradient_step(x, G, 0.25), expected, rtol=0, atol=1e-12)


def test_retractions_are_taken_by_name_as_functions_and_nothing_else() -> None:
    for cls, extra in [(c, ()) for c in CLASSES[:2]] + [(c, (P,)) for c in PYMANOPT]:
        for name, retraction in retractions.RETRACTIONS.items():
            by_name, by_value = cls(LAYOUT, *extra, retraction=name), cls(LAYOUT, *extra, retraction=retraction)
            assert by_name._retraction is by_value._retraction
        with pytest.raises(ValueError, match="'qr' is none of"):
            cls(LAYOUT, *extra, retraction="qr")


@pytest.mark.parametrize("cls", [*CLASSES, EmbeddedMetric, BundleMetric])
@pytest.mark.parametrize("layout", [(5, 7, 6), "566", None, 18])
def test_what_is_no_layout_is_refused(cls: type, layout: Any) -> None:
    with pytest.raises(ValueError, match="give a ClassLayout"):
        cls(layout)


def test_sizes_that_are_no_whole_numbers_are_refused() -> None:
    for sizes in ((3.5, 4), (3.0, 4), "34"):
        with pytest.raises(ValueError, match=r"the size of class 0 is .*: a whole number is needed"):
            ClassLayout(sizes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"N is 2\.5"):
        ClassLayout.equal(3, 2.5)  # type: ignore[arg-type]
    assert ClassLayout(np.array([3, 4])).sizes == (3, 4)  # type: ignore[arg-type]
    classes: Any = PYMANOPT  # given wrong types on purpose
    for cls in classes:
        with pytest.raises(ValueError, match="P = 0 features"):
            cls(LAYOUT, 0)
        with pytest.raises(ValueError, match=r"P is 4\.0"):
            cls(LAYOUT, 4.0)
        with pytest.raises(ValueError, match=r"copies is 1\.5"):
            cls(LAYOUT, P, copies=1.5)
        with pytest.raises(ValueError, match="give a ClassLayout"):
            cls((3, 4), 2)


@pytest.mark.parametrize("retraction", retractions.RETRACTIONS.values(), ids=lambda r: r.name)
def test_forward_mode_and_hessians_go_through_every_retraction(retraction: retractions.Retraction) -> None:
    X = torch.from_numpy(point())
    generator = torch.Generator().manual_seed(0)
    U, W, weights = (torch.randn(X.shape, dtype=X.dtype, generator=generator) for _ in range(3))

    def loss(u: torch.Tensor) -> torch.Tensor:
        return (retraction(X, u.reshape(X.shape), LAYOUT) ** 3 * weights).sum()

    for wrt in (0, 1):  # along the vector, and along the point
        inputs = (X, 0.1 * U)

        def move(z: torch.Tensor, wrt: int = wrt, inputs: tuple[torch.Tensor, torch.Tensor] = inputs) -> torch.Tensor:
            return retraction(inputs[0], z, LAYOUT) if wrt else retraction(z, inputs[1], LAYOUT)

        forward = torch.func.jvp(move, (inputs[wrt],), (W,))[1]
        leaf = inputs[wrt].clone().requires_grad_(True)
        (move(leaf) * weights).sum().backward()
        torch.testing.assert_close((forward * weights).sum(), (gradient_of(leaf) * W).sum(), rtol=1e-10, atol=1e-10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.func's own, about vmap without a rule
        H = torch.func.hessian(loss)(0.1 * U.reshape(-1))
        forwards = torch.func.jacfwd(torch.func.jacfwd(loss))(0.1 * U.reshape(-1))
    twice = torch.autograd.functional.hessian(loss, 0.1 * U.reshape(-1))
    torch.testing.assert_close(H, twice, rtol=0, atol=1e-10)
    torch.testing.assert_close(H, H.T, rtol=0, atol=1e-10)
    torch.testing.assert_close(forwards, H, rtol=0, atol=1e-10)


def test_classes_of_both_libraries_stand_side_by_side_however_they_are_imported() -> None:
    import manifolds
    import manifolds.geoopt
    from manifolds.geoopt import NormalizedFeatures
    from manifolds.pymanopt import NormalizedFeatures as PymanoptFeatures

    assert manifolds.geoopt.NormalizedFeatures is geoopt_manifolds.NormalizedFeatures is NormalizedFeatures
    assert manifolds.pymanopt.NormalizedFeatures is pymanopt_manifolds.NormalizedFeatures is PymanoptFeatures
    assert (NormalizedFeatures.__module__, PymanoptFeatures.__module__) == ("manifolds.geoopt", "manifolds.pymanopt")
    features, theirs = manifolds.geoopt.NormalizedFeatures(LAYOUT), manifolds.pymanopt.NormalizedFeatures(LAYOUT, P)
    assert isinstance(features, geoopt.Manifold)
    assert isinstance(theirs, pymanopt.manifolds.manifold.Manifold)
    assert theirs.dim == P * LAYOUT.n - P * (P + 1) // 2
