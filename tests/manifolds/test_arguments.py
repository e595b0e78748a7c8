"""Arguments that do not go together are refused by name, with the way out; nothing is broadcast or computed in silence."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from manifolds import geoopt as geoopt_manifolds
from manifolds import normalized_features, retractions, steps
from manifolds.class_centering import ClassLayout
from manifolds.generalized import GeneralizedStiefelMetric
from manifolds.matrix_form import MatrixForm
from manifolds.metrics import BundleMetric, EmbeddedMetric
from manifolds.renormalized_gradient_step import renormalized_step
from manifolds.sampling import random_point
from tests.manifolds.points import LAYOUT, P, point

METRICS = (EmbeddedMetric(LAYOUT), BundleMetric(LAYOUT), GeneralizedStiefelMetric(MatrixForm.of_matrix(np.eye(LAYOUT.n))))
LARGE = ClassLayout.equal(4, 300)  # through torch, not through numpy


def ambient() -> np.ndarray:
    """A matrix of the shape of `point`."""
    return np.random.default_rng(1).standard_normal((P, LAYOUT.n))


def tensors(layout: ClassLayout, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A point and an ambient matrix."""
    X = random_point(layout, rows, 0)
    return torch.from_numpy(X), torch.from_numpy(np.random.default_rng(1).standard_normal(X.shape))


@pytest.mark.parametrize(("layout", "rows"), [(LAYOUT, P), (LARGE, 20)])
@pytest.mark.parametrize("cls", [geoopt_manifolds.NormalizedFeatures, geoopt_manifolds.EmbeddedNormalizedFeatures])
@pytest.mark.parametrize(
    ("convert", "named"),
    [
        (lambda Z: Z.numpy(), "numpy array of float64"),
        (lambda Z: Z.float(), "torch tensor of float32 on cpu"),
        (lambda Z: Z.to("meta"), "torch tensor of float64 on meta"),
        (lambda Z: Z.long(), "torch tensor of int64 on cpu.*double"),
        (lambda Z: Z.tolist(), "a list"),
    ],
    ids=["numpy", "float32", "device", "integers", "list"],
)
def test_a_vector_of_another_kind_than_its_point_is_named(cls, layout, rows: int, convert: Callable, named: str) -> None:
    manifold, (X, Z) = cls(layout), tensors(layout, rows)
    for call in (manifold.proju, manifold.egrad2rgrad, lambda X, U: manifold.retr_transp(X, Z, U)):
        with pytest.raises(ValueError, match=named):
            call(X, convert(Z))


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: type(metric).__name__)
@pytest.mark.parametrize("shape", [(1, LAYOUT.n), (LAYOUT.n,), (P, 1), (P + 1, LAYOUT.n), ()], ids=str)
def test_a_vector_of_other_rows_or_columns_is_not_broadcast(metric, shape: tuple[int, ...]) -> None:
    X, U = metric.random_point(P, np.random.default_rng(0)), np.ones(shape)
    calls = [metric.project, metric.gradient, metric.exp, lambda X, U: metric.retract(X, U, "polar")]
    if not isinstance(metric, EmbeddedMetric):  # whose inner product does not look at X
        calls.append(lambda X, U: metric.inner(X, U, U))
    for call in calls:
        with pytest.raises(ValueError, match=r"X has .*; each is \(\.\.\., P, n\)"):
            call(X, U)


def test_steps_take_a_gradient_of_the_shape_of_the_point_only() -> None:
    X = point()
    for step in (
        lambda G: steps.gradient_step(X, G, 0.1, EmbeddedMetric(LAYOUT)),
        lambda G: steps.projected_step(X, G, 0.1, EmbeddedMetric(LAYOUT)),
        lambda G: renormalized_step(X, G, 0.1, LAYOUT),
    ):
        with pytest.raises(ValueError, match="G has"):
            step(ambient()[:1])
        assert step(np.stack([ambient()] * 2)).shape == (2, *X.shape)  # leading axes may differ


def test_complex_features_are_refused() -> None:
    Z = ambient() + 0.1j
    for array in (Z, torch.from_numpy(Z)):
        for function in (normalized_features.renormalize, retractions.nearest_point):
            with pytest.raises(ValueError, match="is real"):
                function(array, LAYOUT)
    with pytest.raises(ValueError, match="Z is of complex128: the manifold is real"):
        EmbeddedMetric(LAYOUT).project(point(), Z)


def test_a_layout_and_a_matrix_are_asked_for_by_name() -> None:
    wrong: Any = LAYOUT.sizes
    for call in (
        lambda: normalized_features.renormalize(ambient(), wrong),
        lambda: normalized_features.dimension(wrong, 2),
        lambda: random_point(wrong, 2, 0),
    ):
        with pytest.raises(ValueError, match=r"layout is \(.*give a ClassLayout"):
            call()
    with pytest.raises(ValueError, match=r"X is a numpy array of float64, shape \(.*,\): a matrix"):
        normalized_features.renormalize(ambient()[0], LAYOUT)
    size: Any = 2.5
    for call in (lambda: normalized_features.dimension(LAYOUT, size), lambda: random_point(LAYOUT, size, 0)):
        with pytest.raises(ValueError, match=r"P is 2\.5: a whole number is needed"):
            call()


def test_an_error_that_is_not_of_the_arguments_stays_what_it_is() -> None:
    def broken(X, U, layout):
        raise RuntimeError("of the caller's own")

    with pytest.raises(RuntimeError, match="of the caller's own"):
        METRICS[2].retract(METRICS[2].random_point(P, np.random.default_rng(0)), ambient(), broken)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: type(metric).__name__)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_no_geodesic_goes_to_what_is_not_finite(metric, bad: float) -> None:
    X = metric.random_point(P, np.random.default_rng(0))
    Y = X.copy()
    Y[1, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinite") as refused:
        metric.log(X, Y)
    assert not isinstance(refused.value, np.linalg.LinAlgError)
    if isinstance(metric, BundleMetric) and np.isnan(bad):  # of an infinite one numpy itself warns
        with pytest.raises(ValueError, match="NaN or infinite"):
            metric.exp(X, Y)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: type(metric).__name__)
@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_a_batch_of_none_is_mapped_to_one(metric, convert) -> None:
    none = convert(np.zeros((0, P, LAYOUT.n)))
    X = convert(metric.random_point(P, np.random.default_rng(0)))
    for move in (lambda X, U: metric.retract(X, U, "polar"), lambda X, U: metric.retract(X, U, "cholesky"), metric.exp):
        assert move(X, none).shape == none.shape


def test_random_points_say_what_they_are_drawn_from() -> None:
    manifold = geoopt_manifolds.NormalizedFeatures(LAYOUT)
    wrong: Any = torch.Generator()
    with pytest.raises(ValueError, match=r"numpy\.random\.Generator or None is needed; of a torch\.Generator t take"):
        manifold.random(P, LAYOUT.n, generator=wrong)
    with pytest.raises(ValueError, match="rng is -1: a whole number from 0"):
        geoopt_manifolds.NormalizedFeatures(LAYOUT, seed=-1)
    for dtype in (torch.int64, torch.complex128, "float64"):
        with pytest.raises(ValueError, match="needs a real floating-point one"):
            manifold.random(P, LAYOUT.n, dtype=dtype)  # type: ignore[arg-type]


def test_class_sizes_and_labels_are_whole_numbers() -> None:
    size: Any = 5
    with pytest.raises(ValueError, match=r"C = 0 class in 5: .*give all sizes"):
        ClassLayout(size)
    for labels in ([0.0, 0, 1], ["a", "b"], [False, True]):
        with pytest.raises(ValueError, match=r"labels of shape .* must be a sequence of whole numbers"):
            ClassLayout.of_labels(labels)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="column 2 has class 0 after class 1"):
        ClassLayout.of_labels(np.array([0, 1, 0], dtype=np.uint8))  # whose difference is 255
