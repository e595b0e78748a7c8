"""The package's front: every public function by keyword, imports without circles, names with one home, exact mutants of old."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import manifolds
from manifolds.bundle.connection import fibre_scale
from manifolds.class_centering import ClassLayout
from manifolds.metrics import BundleMetric, EmbeddedMetric
from manifolds.retractions import RETRACTIONS, as_retraction, polar_retraction
from tests.manifolds.points import LAYOUT, P, point, tangent

FOLDER = Path(manifolds.__file__).parent
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages([str(FOLDER)], "manifolds.")
    if not module.name.startswith("manifolds.checks.")  # they take views
)


def arguments() -> dict[str, Any]:
    """A value for every parameter name of the kernel."""
    X, rng = point(), np.random.default_rng(0)
    U = tangent(X, LAYOUT, rng, 0.3)
    S = fibre_scale(X, U, LAYOUT)
    return {
        "X": X, "Z": X + U, "U": U, "V": U, "W": tangent(X, LAYOUT, rng), "G": rng.standard_normal(X.shape),
        "H": rng.standard_normal(X.shape), "Y": polar_retraction(X, U, LAYOUT), "layout": LAYOUT, "eta": 0.1,
        "metric": EmbeddedMetric(LAYOUT), "S_U": S, "S_W": S, "retraction": polar_retraction,
    }  # fmt: skip


def public_functions() -> list[Any]:
    """Those whose every required parameter has a value above and which take an array."""
    known, functions = arguments(), []
    for name in MODULES:
        module = importlib.import_module(name)
        for key, value in vars(module).items():
            if key.startswith("_") or not inspect.isfunction(value) or value.__module__ != name:
                continue
            required = [p.name for p in inspect.signature(value).parameters.values() if p.default is p.empty]
            if required and required[0] in known and set(required) <= set(known):
                functions.append(pytest.param(value, id=f"{name}.{key}"))
    return functions


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.parametrize("function", public_functions())
def test_every_public_function_may_be_called_by_keyword(function: Any, convert: Any) -> None:
    values = {key: convert(value) if isinstance(value, np.ndarray) else value for key, value in arguments().items()}
    names = [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    by_position = function(*[values[name] for name in names])
    by_keyword = function(**{name: values[name] for name in reversed(names)})
    for one, other in zip(_arrays(by_position), _arrays(by_keyword), strict=True):
        np.testing.assert_array_equal(one, other)


def _arrays(result: Any) -> list[np.ndarray]:
    if isinstance(result, tuple):
        return [array for part in result for array in _arrays(part)]
    return [np.asarray(getattr(result, "vector", result))]


def test_there_are_many_public_functions_and_half_precision_goes_by_keyword_too() -> None:
    assert len(public_functions()) > 30
    half = torch.from_numpy(point()).half()
    from manifolds.normalized_features import renormalize

    np.testing.assert_array_equal(renormalize(X=half, layout=LAYOUT), renormalize(half, LAYOUT))
    with pytest.raises(TypeError, match="expected a numpy array or a torch tensor among the arguments, got list, ClassLayout"):
        renormalize([1.0], LAYOUT)  # type: ignore[bad-specialization]


def imports() -> dict[str, set[str]]:
    """Module -> modules of the package that it imports anywhere, inside functions too."""
    names = {
        "manifolds" + "".join(f".{part}" for part in path.relative_to(FOLDER).with_suffix("").parts if part != "__init__"): path
        for path in FOLDER.rglob("*.py")
    }
    graph = {}
    for name, path in names.items():
        seen: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                seen |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inside = {f"{node.module}.{alias.name}" for alias in node.names}
                seen |= inside & set(names) or {node.module}
        graph[name] = {other for other in seen if other in names and other != name}
    return graph


def test_no_import_goes_round_in_a_circle_lazy_ones_included() -> None:
    graph = imports()
    assert {"manifolds.autograd", "manifolds.spectral"} <= set(graph)
    while graph:
        leaves = {name for name, needs in graph.items() if not needs & set(graph)}
        assert leaves, f"circle among {sorted(graph)}"
        graph = {name: needs for name, needs in graph.items() if name not in leaves}


def test_a_name_has_one_home() -> None:
    """Adapters of the two libraries and of the two metrics share theirs on purpose."""
    homes = defaultdict(set)
    for path in FOLDER.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].add(path.relative_to(FOLDER).as_posix())
    libraries = {"geoopt.py", "pymanopt.py"}
    torch_twins = {"autograd.py", "matrix_functions.py"}  # the same function where torch asks for its derivative
    twice = {name: files for name, files in homes.items() if len(files) > 1 and not files <= libraries and files != torch_twins}
    assert not twice


@pytest.mark.parametrize("metric", [EmbeddedMetric, BundleMetric])
def test_retractions_are_chosen_by_name(metric: type) -> None:
    from manifolds import steps

    X, G = point(), arguments()["G"]
    for name, retraction in RETRACTIONS.items():
        assert as_retraction(name) is retraction
        assert retraction.name == name
        np.testing.assert_array_equal(
            steps.gradient_step(X, G, 0.1, metric(LAYOUT), name), steps.gradient_step(X, G, 0.1, metric(LAYOUT), retraction)
        )
    with pytest.raises(ValueError, match="'qr' is none of 'renormalisation', 'horizontal renormalisation', 'polar', 'cholesky'"):
        as_retraction("qr")
    with pytest.raises(TypeError, match="a name or a function"):
        as_retraction(1)  # type: ignore[arg-type]


def test_the_inverse_belongs_to_the_retraction() -> None:
    X, rng = point(), np.random.default_rng(0)
    for name in ("renormalisation", "polar"):
        metric = BundleMetric(LAYOUT) if name == "renormalisation" else EmbeddedMetric(LAYOUT)
        U = metric.project(X, 0.1 * rng.standard_normal(X.shape))
        np.testing.assert_allclose(RETRACTIONS[name].inverse(X, RETRACTIONS[name](X, U, LAYOUT), LAYOUT), U, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="the inverse of cholesky has no closed form"):
        RETRACTIONS["cholesky"].inverse(X, X, LAYOUT)


def test_random_points_have_class_means_of_their_own() -> None:
    from manifolds.sampling import random_point

    layout = ClassLayout((40, 50, 45))
    X = random_point(layout, P, np.random.default_rng(0), (30,))
    M = layout.means(X)
    assert M.std() == pytest.approx(1, abs=0.15)
    assert abs(M.mean()) < 0.2


def test_every_name_of_the_front_door_opens_and_is_documented() -> None:
    assert set(manifolds.__all__) == set(manifolds._WHERE)
    assert manifolds.geoopt.__name__ in sys.modules
    assert manifolds.pymanopt.__name__ in sys.modules
    assert set(manifolds.__all__) <= set(dir(manifolds))
    for name in manifolds.__all__:
        assert getattr(manifolds, name) is not None
        assert name == "RETRACTIONS" or inspect.getdoc(getattr(manifolds, name))
    with pytest.raises(AttributeError, match="no attribute 'Stiefel'"):
        manifolds.Stiefel  # noqa: B018
    assert (FOLDER / "py.typed").exists()


def test_a_star_import_leaves_the_libraries_their_names() -> None:
    names: dict[str, object] = {}
    exec("import geoopt, pymanopt\nfrom manifolds import *\nwhole = geoopt.optim, pymanopt.Problem, ClassLayout", names)
    assert names["ClassLayout"] is ClassLayout


def test_the_front_door_costs_nothing_until_it_is_used() -> None:
    code = (
        "import sys, manifolds; print(sorted(m for m in sys.modules if m.split('.')[0] in ('numpy', 'torch', 'scipy', 'geoopt')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=FOLDER.parent, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
