"""geoopt's own per-manifold list (test_manifold_basic, test_random, test_origin, test_tensor_api, ...), on our four classes."""

import copy
import io
import pickle
from typing import Any, NamedTuple

import geoopt
import numpy as np
import pytest
import torch

from manifolds import normalized_features
from manifolds.class_centering import ClassLayout
from manifolds.geoopt import (
    EmbeddedNormalizedFeatures,
    EmbeddedNormalizedFeaturesExact,
    NormalizedFeatures,
    NormalizedFeaturesExact,
)
from tests.typed import global_state, parameter_on

LAYOUT, P = ClassLayout((3, 4)), 2
SHAPE = (P, LAYOUT.n)
CLASSES = (NormalizedFeatures, EmbeddedNormalizedFeatures, EmbeddedNormalizedFeaturesExact, NormalizedFeaturesExact)


class Case(NamedTuple):
    """Point, ambient point, tangent vector and ambient vector, as in geoopt's UnaryCase."""

    x: torch.Tensor
    ex: torch.Tensor
    v: torch.Tensor
    ev: torch.Tensor
    manifold: Any
    generator: torch.Generator


def normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


@pytest.fixture(params=CLASSES, ids=lambda cls: cls.__name__)
def manifold_class(request: pytest.FixtureRequest) -> type:
    return request.param


# two seeds of geoopt's five by default, which draw other numbers for the same statements; one where geodesics are integrated
SEEDED = [
    pytest.param(
        (cls, seed),
        id=f"{cls.__name__}-{seed}",
        marks=[pytest.mark.slow] if seed > (1 if cls is NormalizedFeaturesExact else 2) else [],
    )
    for cls in CLASSES
    for seed in (1, 2, 3, 4, 5)
]


@pytest.fixture(params=SEEDED)
def manifold_and_seed(request: pytest.FixtureRequest) -> tuple[type, int]:
    return request.param


@pytest.fixture(params=[False, True], ids=["NotScaled", "Scaled"])
def scaled(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def case(manifold_and_seed: tuple[type, int], scaled: bool) -> Case:
    manifold_class, seed = manifold_and_seed
    generator, manifold = torch.Generator().manual_seed(seed), manifold_class(LAYOUT)
    ex, ev = normal(generator, *SHAPE), normal(generator, *SHAPE)
    x = manifold.projx(ex)
    v = torch.from_numpy(manifold.metric.project(x.numpy(), ev.numpy()))
    wrapped = geoopt.Scaled(manifold, 2.0) if scaled else manifold
    on_manifold = geoopt.ManifoldTensor(x, manifold=manifold)  # type: ignore[no-matching-overload]
    return Case(on_manifold, ex, v, ev, wrapped, generator)


def stacked(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([case.x.as_subclass(torch.Tensor)] * 4), torch.stack([case.v] * 4)


def test_projection_identity(case: Case) -> None:
    np.testing.assert_allclose(case.x, case.manifold.projx(case.x), rtol=0, atol=1e-12)


def test_projection_via_assert(case: Case) -> None:
    px = case.manifold.projx(case.ex)
    case.manifold.assert_check_point_on_manifold(px, atol=1e-12, rtol=0)
    np.testing.assert_allclose(case.x.detach(), px.detach(), rtol=0, atol=1e-12)


def test_vector_projection_via_assert(case: Case) -> None:
    pv = case.manifold.proju(case.x, case.ev)
    case.manifold.assert_check_vector_on_tangent(case.x, pv, atol=1e-12, rtol=0)
    np.testing.assert_allclose(case.v, pv, rtol=0, atol=1e-12)
    np.testing.assert_allclose(case.manifold.proju(case.x, pv), pv, rtol=0, atol=1e-12)


def test_broadcast_projx(case: Case) -> None:
    X = torch.stack([case.ex] * 4)
    pX = case.manifold.projx(X)
    case.manifold.assert_check_point_on_manifold(pX)
    for x, px in zip(X, pX, strict=True):
        np.testing.assert_allclose(px, case.manifold.projx(x), rtol=0, atol=1e-12)


def test_broadcast_proju(case: Case) -> None:
    X, U = stacked(case)
    pU = case.manifold.proju(X, U)
    case.manifold.assert_check_vector_on_tangent(X, pU)
    for x, u, pu in zip(X, U, pU, strict=True):
        np.testing.assert_allclose(pu, case.manifold.proju(x, u), rtol=0, atol=1e-12)


def test_broadcast_retr(case: Case) -> None:
    X, U = stacked(case)
    Y = case.manifold.retr(X, U)
    case.manifold.assert_check_point_on_manifold(Y)
    for x, u, y in zip(X, U, Y, strict=True):
        np.testing.assert_allclose(y, case.manifold.retr(x, u), rtol=0, atol=1e-10)


def test_broadcast_transp(case: Case) -> None:
    X, U = stacked(case)
    V = case.manifold.proju(X, normal(case.generator, 4, *SHAPE))
    Y = case.manifold.retr(X, U)
    Q = case.manifold.transp_follow_retr(X, U, V)
    case.manifold.assert_check_vector_on_tangent(Y, Q)
    for x, u, v, q in zip(X, U, V, Q, strict=True):
        np.testing.assert_allclose(q, case.manifold.transp_follow_retr(x, u, v), rtol=0, atol=1e-9)


def test_reversibility(case: Case) -> None:
    X, _ = stacked(case)
    U = case.manifold.proju(X, normal(case.generator, 4, *SHAPE) / 3)
    Z, Q = case.manifold.retr_transp(X, U, U)
    X1, U1 = case.manifold.retr_transp(Z, -Q, Q)
    if case.manifold.reversible:
        np.testing.assert_allclose(X1, X, rtol=0, atol=1e-9)
        np.testing.assert_allclose(U1, U, rtol=0, atol=1e-9)
    else:  # the flag is honest the other way too
        assert float(abs(X1 - X).max()) > 1e-5


def test_logmap(case: Case) -> None:
    bundle = "bundle" in str(geoopt.utils.canonical_manifold(case.manifold).name)  # integrated geodesics
    X, _ = stacked(case)
    U = case.manifold.proju(X, normal(case.generator, *SHAPE)) * (0.3 if bundle else 1.0)
    Y = case.manifold.expmap(X, U)
    Uh = case.manifold.logmap(X, Y)
    np.testing.assert_allclose(case.manifold.expmap(X, Uh), Y, rtol=0, atol=1e-8)
    np.testing.assert_allclose(case.manifold.logmap(X, X), 0.0, rtol=0, atol=1e-9)


def test_dist(case: Case) -> None:
    tangent_norm = case.manifold.norm(case.x, case.v)
    dist = case.manifold.dist(case.x, case.manifold.expmap(case.x, case.v))
    np.testing.assert_allclose(dist, tangent_norm, rtol=1e-7)
    assert case.manifold.dist(case.x, case.x, keepdim=True).shape == (1, 1)


def test_gradient_is_that_of_the_metric(case: Case) -> None:
    G = normal(case.generator, *SHAPE)
    grad = case.manifold.egrad2rgrad(case.x, G)
    np.testing.assert_allclose(case.manifold.inner(case.x, grad, case.v), (G * case.v).sum(), rtol=0, atol=1e-10)
    assert case.manifold.inner(case.x, grad, case.v, keepdim=True).shape == (1, 1)
    assert case.manifold.component_inner(case.x, grad).shape == (1, 1)


def test_random_and_origin(manifold_class: type) -> None:
    manifold = manifold_class(LAYOUT, seed=3)
    before = torch.random.get_rng_state()
    state = global_state()
    a, b = manifold.random(3, *SHAPE, dtype=torch.float64), manifold.random(3, *SHAPE, dtype=torch.float64)
    assert a.manifold is manifold
    manifold.assert_check_point_on_manifold(a, atol=1e-12, rtol=0)
    assert float(abs(a - b).min()) > 0
    assert torch.equal(manifold.origin(*SHAPE), manifold.origin(*SHAPE))
    assert not torch.equal(manifold.origin(*SHAPE, seed=1), manifold.origin(*SHAPE))
    assert torch.equal(manifold_class(LAYOUT, seed=3).random(3, *SHAPE, dtype=torch.float64), a)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (global_state() == state).all()
    for sample in (manifold.random, manifold.origin):
        with pytest.raises(ValueError, match="requires more than"):
            sample(())
        with pytest.raises(ValueError, match="6 columns but the class sizes sum to 7"):
            sample((2, 6))
        with pytest.raises(ValueError, match="n - C = 5 < P = 6"):
            sample((6, 7))


def test_product_manifold_and_its_optimizer() -> None:
    manifold = geoopt.ProductManifold(
        (geoopt.Sphere(), 10),
        (NormalizedFeatures(LAYOUT), SHAPE),
        (EmbeddedNormalizedFeatures(LAYOUT), SHAPE),
        (geoopt.Euclidean(), 4),
    )
    sample = manifold.random(20, manifold.n_elements, dtype=torch.float64)
    manifold.assert_check_point_on_manifold(sample)
    point = parameter_on(manifold, sample[0].detach().clone())
    target = torch.randn(manifold.n_elements, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    optimizer = geoopt.optim.RiemannianAdam([point], lr=1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = ((point - target) ** 2).sum()
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    assert losses[-1] < losses[0]
    manifold.assert_check_point_on_manifold(point)


def test_scaling_compensates(manifold_class: type) -> None:
    manifold = manifold_class(LAYOUT)
    scaled = geoopt.Scaled(manifold, 2.0)
    back: Any = geoopt.Scaled(scaled, 0.5)  # declares nothing of what it passes on
    x = manifold.origin(*SHAPE, dtype=torch.float64)
    u = 0.3 * manifold.proju(x, manifold.origin(*SHAPE, dtype=torch.float64, seed=1))
    np.testing.assert_allclose(manifold.expmap(x, u), back.expmap(x, u), rtol=0, atol=1e-12)
    np.testing.assert_allclose(manifold.norm(x, u), scaled.norm(x, u), rtol=1e-12)
    y = manifold.expmap(x, u)
    np.testing.assert_allclose(2 * manifold.dist(x, y), scaled.dist(x, y), rtol=1e-9)


def test_manifolds_compare_copy_and_pickle_by_structure(manifold_class: type) -> None:
    manifold, same, other = manifold_class(LAYOUT), manifold_class(LAYOUT, seed=9), manifold_class(ClassLayout((4, 3)))
    assert manifold == same
    assert hash(manifold) == hash(same)
    assert manifold != other
    assert all(manifold != cls(LAYOUT) for cls in CLASSES if cls is not manifold_class)
    assert copy.deepcopy(manifold) == manifold == pickle.loads(pickle.dumps(manifold))
    tensor = manifold.random(*SHAPE)
    parameter_on(same, tensor)
    with pytest.raises(ValueError, match="Manifolds do not match"):
        parameter_on(other, tensor)
    assert manifold.proju(tensor, torch.ones(SHAPE)).__class__ is torch.Tensor
    parameter = geoopt.ManifoldParameter(tensor)
    for twin in (copy.copy(parameter), copy.deepcopy(parameter), pickle.loads(pickle.dumps(parameter))):
        assert isinstance(twin, geoopt.ManifoldParameter)
        assert twin.manifold == manifold
        assert torch.equal(twin, parameter)
    assert "n=7, C=2" in repr(parameter.manifold)


class Model(torch.nn.Module):
    """Features on the manifold and a linear head."""

    def __init__(self, manifold: Any) -> None:
        super().__init__()
        self.X = geoopt.ManifoldParameter(manifold.origin(*SHAPE))
        self.head = torch.nn.Linear(P, 2)

    def forward(self) -> torch.Tensor:
        return self.head(self.X.T)


def test_state_dict_is_plain_tensors_and_loads(manifold_class: type) -> None:
    model, twin = Model(manifold_class(LAYOUT)), Model(manifold_class(LAYOUT))
    assert set(model.state_dict()) == {"X", "head.weight", "head.bias"}
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    twin.load_state_dict(torch.load(buffer, weights_only=True))
    assert isinstance(twin.X, geoopt.ManifoldParameter)
    assert twin.X.manifold == manifold_class(LAYOUT)
    assert torch.equal(twin.X, model.X)


def test_class_structure_follows_dtype_and_device(manifold_class: type) -> None:
    model = Model(manifold_class(LAYOUT))
    model.double()
    u = model.X.manifold.proju(model.X, torch.ones(SHAPE, dtype=torch.float64))
    assert u.dtype == torch.float64
    assert list(model.X.manifold.buffers()) == []
    meta = torch.empty(SHAPE, device="meta")  # a second device that every machine has
    assert LAYOUT.deviations(meta).device.type == "meta"
    assert LAYOUT.spread(LAYOUT.means(meta)).device.type == "meta"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu(manifold_class: type) -> None:
    manifold = manifold_class(LAYOUT)
    x = manifold.origin(*SHAPE, dtype=torch.float64)
    u = manifold.proju(x, torch.ones_like(x))
    for name in ("retr", "expmap", "egrad2rgrad", "proju"):
        there = getattr(manifold, name)(x.cuda(), u.cuda())
        assert there.device.type == "cuda"
        np.testing.assert_allclose(there.cpu(), getattr(manifold, name)(x, u), rtol=0, atol=1e-11)
    np.testing.assert_allclose(manifold.logmap(x.cuda(), manifold.expmap(x, u / 4).cuda()).cpu(), u / 4, rtol=0, atol=1e-8)


def test_off_manifold_and_misshapen_parameters_are_refused_with_the_number(manifold_class: type) -> None:
    manifold = manifold_class(LAYOUT)
    x = manifold.origin(*SHAPE)
    far = parameter_on(manifold, 2 * x)  # the constructor asks for the shape, as geoopt's contract says
    with pytest.raises(ValueError, match=r"= 4\.2\d+e\+00 > .* project it first"):
        manifold.assert_check_point_on_manifold(far)
    assert not manifold.check_point_on_manifold(far)
    with pytest.raises(ValueError, match=r"project it first: manifold\.proju\(x, u\)"):
        manifold.assert_check_vector_on_tangent(x, x)
    with pytest.raises(ValueError, match="8 columns but the class sizes sum to 7"):
        parameter_on(manifold, torch.ones(2, 8))
    with pytest.raises(ValueError, match="the manifold is empty"):
        parameter_on(manifold, torch.ones(6, 7))
    assert not manifold.check_vector_on_tangent(x, x)
    with pytest.raises(ValueError, match="directions are lost"):
        manifold.projx(torch.zeros(SHAPE))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(manifold_class: type, dtype: torch.dtype) -> None:
    manifold = manifold_class(LAYOUT)
    x = manifold.origin(*SHAPE)
    half, u = x.to(dtype), 0.1 * torch.ones(SHAPE)
    for name in ("retr", "proju", "egrad2rgrad"):
        exact = getattr(manifold, name)(half.float(), u.to(dtype).float())
        ours = getattr(manifold, name)(half, u.to(dtype))
        assert ours.dtype == dtype
        np.testing.assert_array_equal(ours.float(), exact.to(dtype).float())
    parameter_on(manifold, half)  # feasible to the rounding of its storage


def test_autocast_does_not_touch_the_geometry(manifold_class: type) -> None:
    manifold = manifold_class(LAYOUT)
    x = manifold.origin(*SHAPE)
    u = manifold.proju(x, torch.ones(SHAPE))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = manifold.retr(x, u)
    assert inside.dtype == torch.float32
    np.testing.assert_array_equal(inside, manifold.retr(x, u))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("cls", [NormalizedFeatures, EmbeddedNormalizedFeatures])
def test_rank_loss_raises_but_is_nan_where_numbers_cannot_be_looked_at(cls: type) -> None:
    """Inside torch.compile and torch.vmap no number has a value yet: there a step that loses rank gives NaN in every entry."""
    manifold = cls(LAYOUT)
    x = manifold.origin(*SHAPE, dtype=torch.float64).as_subclass(torch.Tensor)
    direction = torch.tensor([[0.6], [0.8]], dtype=torch.float64)
    u = -direction @ direction.T @ x  # one direction of two, lost but for rounding
    with pytest.raises(ValueError, match=f"1 of {P} directions are lost"):
        manifold.retr(x, u)
    compiled = torch.compile(manifold.retr, fullgraph=True, backend="eager")
    lost = torch.vmap(manifold.retr, in_dims=(None, 0))(x, torch.stack([u, 0 * x]))
    assert torch.isnan(lost[0]).all()
    assert torch.isnan(compiled(x, u)).all()
    np.testing.assert_allclose(lost[1], x, rtol=0, atol=1e-12)  # and its neighbours in the batch are right


# torch's own: dynamo instantiates the autograd.Function that it traces
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("cls", [NormalizedFeatures, pytest.param(EmbeddedNormalizedFeatures, marks=pytest.mark.slow)])
def test_compile_whole_graph_and_vmap(cls: type) -> None:
    manifold = cls(LAYOUT)
    x = manifold.origin(*SHAPE, dtype=torch.float64).as_subclass(torch.Tensor)
    G = torch.randn(*SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def step(x: torch.Tensor, G: torch.Tensor) -> torch.Tensor:
        return manifold.retr(x, -0.1 * manifold.egrad2rgrad(x, G))

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    np.testing.assert_allclose(compiled(x, G), step(x, G), rtol=0, atol=1e-12)
    leaf = x.clone().requires_grad_(True)
    compiled(leaf, G).pow(3).sum().backward()
    np.testing.assert_allclose(leaf.grad, torch.func.grad(lambda x: step(x, G).pow(3).sum())(x), rtol=0, atol=1e-10)
    batch = torch.stack([G, 2 * G, -G])
    np.testing.assert_allclose(torch.vmap(step, in_dims=(None, 0))(x, batch)[1], step(x, 2 * G), rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.xfail(
    torch.__version__.startswith("2.6."), reason="torch 2.6 traces no subclass of Parameter, so no ManifoldParameter", strict=True
)
def test_a_compiled_training_step_of_a_module_equals_the_plain_one() -> None:
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = Model(NormalizedFeatures(LAYOUT))
        forward = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
        optimizer = geoopt.optim.RiemannianAdam(model.parameters(), lr=1e-2)
        labels = torch.from_numpy(LAYOUT.labels)
        for _ in range(5):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(forward(), labels)
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


OPTIMIZERS = [
    (geoopt.optim.RiemannianSGD, {"lr": 0.1}),
    (geoopt.optim.RiemannianSGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    (geoopt.optim.RiemannianAdam, {"lr": 0.05}),
    (geoopt.optim.RiemannianAdam, {"lr": 0.05, "amsgrad": True, "stabilize": 10}),
]


def steps(manifold_class: type) -> int:
    """Fewer where each step integrates a geodesic."""
    return 8 if manifold_class is NormalizedFeaturesExact else 150


@pytest.mark.parametrize(("optimizer_class", "options"), OPTIMIZERS)
def test_optimizers_converge_to_the_nearest_point(manifold_class: type, optimizer_class: type, options: dict) -> None:
    """The minimum of ||X - T||^2 / 2 is known: nearest_point(T). Momentum starts non-tangent and must do no harm."""
    from manifolds.retractions import nearest_point

    manifold = manifold_class(LAYOUT)
    target = torch.randn(*SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 1
    expected = nearest_point(target, LAYOUT)
    start = manifold.retr(expected, 0.3 * torch.ones(SHAPE, dtype=torch.float64)).detach()
    x = parameter_on(manifold, start)
    optimizer = optimizer_class([x], **options)
    initial = float(abs(start - expected).max())
    for _ in range(steps(manifold_class)):
        optimizer.zero_grad()
        (((x - target) ** 2).sum() / 2).backward()
        optimizer.step()
        assert float(normalized_features.constraint_residual(x.detach(), LAYOUT)) < 1e-13
    final = float(abs(x.detach() - expected).max())
    assert final < (0.95 * initial if manifold_class is NormalizedFeaturesExact else 1e-2)


@pytest.mark.filterwarnings("ignore::geoopt.optim.rlinesearch.LineSearchWarning")  # it says so when there is nothing to gain
def test_line_search_converges(manifold_class: type) -> None:
    from geoopt.optim import RiemannianLineSearch

    from manifolds.retractions import nearest_point

    if manifold_class is NormalizedFeaturesExact:
        pytest.skip("transport along a searched geodesic for each trial step; the other three classes cover the contract")
    manifold = manifold_class(LAYOUT)
    target = torch.randn(*SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 1
    expected = nearest_point(target, LAYOUT)
    x = parameter_on(manifold, manifold.retr(expected, 0.3 * torch.ones(SHAPE, dtype=torch.float64)).detach())
    optimizer = RiemannianLineSearch([x], cg_method="pr")

    def closure() -> float:
        optimizer.zero_grad()
        loss = ((x - target) ** 2).sum() / 2
        loss.backward()
        return loss.item()

    for _ in range(15):
        optimizer.step(closure)
        if float(abs(x.detach() - expected).max()) < 1e-4:
            return  # geoopt divides by zero once its gradient is
    pytest.fail("no convergence in 15 line searches")


def test_reversible_manifold_serves_the_hamiltonian_sampler() -> None:
    manifold = EmbeddedNormalizedFeaturesExact(LAYOUT)

    class Density(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = geoopt.ManifoldParameter(manifold.origin(*SHAPE, dtype=torch.float64))

        def forward(self) -> torch.Tensor:
            return -(self.x**2).sum()

    density = Density()
    torch.manual_seed(0)
    sampler = geoopt.samplers.RHMC(density.parameters(), epsilon=0.05, n_steps=3)
    start = density.x.detach().clone()
    for _ in range(10):
        sampler.step(density)
    assert float(normalized_features.constraint_residual(density.x.detach(), LAYOUT)) < 1e-13
    assert not torch.equal(start, density.x.detach())
