"""Every map of the manifold against the golden files: 50 digits of mpmath, from formulas of their own."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from mpmath import matrix as Matrix
from mpmath import mp, mpf

from manifolds import normalized_features, transports
from manifolds.bundle.connection import horizontal
from manifolds.class_centering import ClassLayout
from manifolds.metrics import BundleMetric, EmbeddedMetric
from manifolds.retractions import RETRACTIONS
from tests.golden import generate

METRICS = {"embedded": EmbeddedMetric, "bundle": BundleMetric}
GOLDEN: dict[str, dict[str, Any]] = {
    name: json.loads((generate.HERE / f"{name}.json").read_text(encoding="utf-8")) for name in generate.CASES
}
MAPS: dict[str, Callable[[ClassLayout, dict[str, Any]], Any]] = {
    "orthogonal_projection_Z": lambda layout, a: normalized_features.orthogonal_projection(a["X"], a["Z"], layout),
    "oblique_projection_Z": lambda layout, a: normalized_features.oblique_projection(a["X"], a["Z"], layout),
    "oblique_projection_adjoint_Z": lambda layout, a: normalized_features.oblique_projection_adjoint(a["X"], a["Z"], layout),
    "horizontal_Z": lambda layout, a: horizontal(a["X"], a["Z"], layout),
}
for _metric, _class in METRICS.items():
    MAPS |= {
        f"{_metric}_gradient": lambda layout, a, m=_class: m(layout).gradient(a["X"], a["L"] + a["X"] @ a["Q"]),
        f"{_metric}_hessian_U": lambda layout, a, m=_class: m(layout).hessian(
            a["X"], a["L"] + a["X"] @ a["Q"], a["U"] @ a["Q"], a["U"]
        ),
        f"{_metric}_exp_U": lambda layout, a, m=_class: m(layout).exp(a["X"], a["U"]),
        f"{_metric}_velocity_U": lambda layout, a, m=_class: m(layout).geodesic_transport(a["X"], a["U"], a["U"])[1],
        f"{_metric}_parallel_transport_W": lambda layout, a, m=_class: m(layout).geodesic_transport(a["X"], a["U"], a["W"])[1],
    }
for _retraction in RETRACTIONS:
    _name = _retraction.replace(" ", "_")
    MAPS |= {
        f"{_name}_U": lambda layout, a, r=_retraction: RETRACTIONS[r](a["X"], a["U"], layout),
        f"{_name}_transport_W": lambda layout, a, r=_retraction: transports.differentiated_transport(
            a["X"], a["U"], a["W"], layout, r
        ),
    }
INTEGRATED = {"bundle_exp_U", "bundle_velocity_U", "bundle_parallel_transport_W"}  # until two orders agree to 16 eps
GIVEN = {"X", "Z", "U", "W", "L", "Q"}


def arrays(case: str) -> dict[str, np.ndarray]:
    """The arrays of a file, rounded to float64."""
    return {name: np.array(rows, dtype=np.float64) for name, rows in GOLDEN[case]["arrays"].items()}


def exact(case: str, name: str) -> Matrix:
    """An array of a file with all its digits."""
    return Matrix([[mpf(entry) for entry in row] for row in GOLDEN[case]["arrays"][name]])


@pytest.mark.parametrize("case", list(GOLDEN))
def test_every_array_of_the_files_is_compared(case: str) -> None:
    assert {*GOLDEN[case]["arrays"]} == GIVEN | {*MAPS}


@pytest.mark.parametrize("case", list(GOLDEN))
@pytest.mark.parametrize("name", list(MAPS))
def test_the_map_agrees_with_its_50_digits(case: str, name: str) -> None:
    layout, given = ClassLayout(tuple(GOLDEN[case]["class_sizes"])), arrays(case)
    expected = given[name]
    error = np.linalg.norm(MAPS[name](layout, given) - expected) / np.linalg.norm(expected)
    assert error < (32 if name in INTEGRATED else 8) * np.finfo(np.float64).eps
    single = {key: torch.as_tensor(value, dtype=torch.float32) for key, value in given.items()}
    near = MAPS[name](layout, single).double().numpy()
    assert np.linalg.norm(near - expected) / np.linalg.norm(expected) < 16 * np.finfo(np.float32).eps


@pytest.mark.parametrize("case", list(GOLDEN))
@pytest.mark.parametrize("metric", list(METRICS))
def test_products_lengths_and_logarithms_agree(case: str, metric: str) -> None:
    a, numbers = arrays(case), GOLDEN[case]["numbers"]
    ours = METRICS[metric](ClassLayout(tuple(GOLDEN[case]["class_sizes"])))
    np.testing.assert_allclose(ours.inner(a["X"], a["U"], a["W"]), float(numbers[f"{metric}_inner_UW"]), rtol=1e-13)
    np.testing.assert_allclose(ours.norm(a["X"], a["U"]), float(numbers[f"{metric}_length_U"]), rtol=1e-14)
    end = a[f"{metric}_exp_U"]
    np.testing.assert_allclose(ours.log(a["X"], end), a["U"], atol=1e-11)
    np.testing.assert_allclose(ours.dist(a["X"], end), float(numbers[f"{metric}_length_U"]), rtol=1e-11)


@pytest.mark.parametrize("case", list(GOLDEN))
def test_the_files_keep_the_laws_to_their_last_digits(case: str) -> None:
    with mp.workdps(60):
        manifold, allowed = generate.Manifold(tuple(GOLDEN[case]["class_sizes"])), mpf(10) ** -47
        identity = mp.eye(GOLDEN[case]["P"])
        ends = [name for name in GOLDEN[case]["arrays"] if name.endswith("_U") and name[:-2] in POINTS]
        assert len(ends) == len(POINTS)
        for name in ["X", *ends]:
            X = exact(case, name)
            assert mp.mnorm(X * manifold.C * X.T - identity, "f") < allowed, name
        for metric in METRICS:
            Y, velocity, carried = (exact(case, f"{metric}_{name}") for name in ("exp_U", "velocity_U", "parallel_transport_W"))
            for vector in (velocity, carried):
                assert mp.mnorm(generate.sym(Y * manifold.C * vector.T), "f") < allowed
            if metric == "bundle":
                velocity, carried = (manifold.horizontal(Y, vector) for vector in (velocity, carried))
            product = mpf(GOLDEN[case]["numbers"][f"{metric}_inner_UW"])
            assert abs(generate.frobenius(velocity, carried) - product) < allowed  # parallel transport is an isometry


POINTS = {"embedded_exp", "bundle_exp", *(name.replace(" ", "_") for name in RETRACTIONS)}


@pytest.mark.parametrize("case", list(GOLDEN))
def test_the_generator_writes_all_but_the_geodesics(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last digit; the Taylor series of the geodesics take minutes and are left to the slow test."""
    monkeypatch.setattr(generate, "transport", lambda manifold, rule, X, U, W: (X, U, W))
    written, kept = generate.golden(*generate.CASES[case]), GOLDEN[case]
    assert {key: written[key] for key in written if key != "arrays"} == {key: kept[key] for key in kept if key != "arrays"}
    series = {f"{metric}_{name}" for metric in METRICS for name in ("exp_U", "velocity_U", "parallel_transport_W")}
    arrays: Any = written["arrays"]
    assert {name: rows for name, rows in arrays.items() if name not in series} == {
        name: rows for name, rows in kept["arrays"].items() if name not in series
    }


@pytest.mark.parametrize("case", list(GOLDEN))
def test_embedded_geodesics_of_the_files_are_the_closed_form(case: str) -> None:
    """[Q^T V^T] exp([[A, -S], [I, A]]) [I; 0] exp(-A), by mpmath's exponential at 60 digits, beside the Taylor series."""
    P, n = GOLDEN[case]["P"], GOLDEN[case]["n"]
    with mp.workdps(60):
        manifold = generate.Manifold(tuple(GOLDEN[case]["class_sizes"]))
        X, U = exact(case, "X"), exact(case, "U")
        Q, V = manifold.deviations(X) / mp.sqrt(n), manifold.deviations(U) / mp.sqrt(n)
        A, S = Q * V.T, V * V.T
        generator, start = mp.zeros(2 * P), mp.zeros(2 * P, P)
        generator[:P, :P], generator[:P, P:], generator[P:, :P], generator[P:, P:] = A, -S, mp.eye(P), A
        start[:P, :] = mp.eye(P)
        frame = mp.expm(generator, method="taylor") * start * mp.expm(-A, method="taylor")
        D = mp.sqrt(n) * (frame[:P, :].T * Q + frame[P:, :].T * V)
        means = X + U - manifold.deviations(X + U)
        assert mp.mnorm(D + means - exact(case, "embedded_exp_U"), "f") < mpf(10) ** -46


@pytest.mark.slow
@pytest.mark.parametrize("case", list(GOLDEN))
def test_the_generator_writes_the_files(case: str) -> None:
    assert generate.golden(*generate.CASES[case]) == GOLDEN[case]
