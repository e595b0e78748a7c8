"""What prints at a prompt: an object that holds arrays says their shapes, whatever their size."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

import manifolds
import ufm
from manifolds.representation import short_repr, short_value

ROOT = Path(__file__).parents[1]
HOLDS_ARRAYS = re.compile(r"ndarray|Tensor|\bArray|Rows|Labels|Columns|ClassMeans|PerClass|Covariance|Weights|Values|Vectors")


def classes_with_arrays() -> list[tuple[str, str]]:
    """Module and name of every public dataclass of the two libraries that has a field of arrays."""
    pairs = []
    for path in sorted(path for package in ("manifolds", "ufm") for path in (ROOT / package).rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.ClassDef) or "dataclass" not in " ".join(map(ast.unparse, node.decorator_list)):
                continue
            fields = [ast.unparse(part.annotation) for part in node.body if isinstance(part, ast.AnnAssign)]
            held = any(HOLDS_ARRAYS.search(text) and not re.search("ClassVar|Callable", text) for text in fields)
            if held and not node.name.startswith("_"):
                pairs.append((".".join(path.relative_to(ROOT).with_suffix("").parts), node.name))
    return pairs


def test_every_class_that_holds_arrays_prints_their_shapes() -> None:
    pairs = classes_with_arrays()
    assert len(pairs) > 50
    long = [f"{module}.{name}" for module, name in pairs if not _is_short(getattr(import_module(module), name))]
    assert not long


def _is_short(cls: type) -> bool:
    return cls.__repr__ is short_repr or cls.__name__ == "MatrixForm"  # which says its rank


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_results_of_a_thousand_features_print_on_a_few_lines(kind) -> None:
    rng = np.random.default_rng(0)
    layout = manifolds.ClassLayout.equal(9, 15)
    H = kind(rng.standard_normal((100, layout.n)))
    shown = repr(ufm.snr(H, layout))
    assert shown.startswith("Snr(omega=")
    assert "(8,) float64" in shown
    assert "(9, 8) float64" in shown
    statistics = ufm.statistics_of(H.T, kind(layout.labels), 9)
    for text in (shown, repr(statistics), repr(layout), repr(ufm.run_discrete(np.arange(1.0, 4.0), 1.0, 50, 4, 20))):
        assert len(text) < 800, text
        assert "\n" not in text
    assert repr(manifolds.ClassLayout((3, 5, 4))) == "ClassLayout(sizes=(3, 5, 4))"
    assert repr(manifolds.ClassLayout((3,) * 500)) == "ClassLayout(sizes=(3, 3, 3, 3, 3, 3, ... 500 in all))"


@pytest.mark.parametrize("package", [manifolds, ufm], ids=lambda package: package.__name__)
def test_defaults_in_signatures_have_no_addresses_in_memory(package) -> None:
    """`help()` and an editor show them; Python itself prints a function that is a default with one."""
    defaults: list[tuple[str, object]] = []
    for name in package.__all__:
        for part in (member for _, member in inspect.getmembers(getattr(package, name)) if inspect.isfunction(member)):
            defaults += [(f"{name}: {one}", one.default) for one in inspect.signature(part).parameters.values()]
        if inspect.isfunction(value := getattr(package, name)):
            defaults += [(f"{name}: {one}", one.default) for one in inspect.signature(value).parameters.values()]
    assert len(defaults) > 100
    assert [where for where, default in defaults if " at 0x" in repr(default) and not inspect.isfunction(default)] == []


def test_values_print_by_their_kind() -> None:
    assert short_value(np.zeros((2, 3), np.float32)) == "ndarray (2, 3) float32"
    assert short_value(torch.zeros(4)) == "Tensor (4,) float32"
    assert short_value({"a": np.ones(2)}) == "{'a': ndarray (2,) float64}"
    assert short_value((1,)) == "(1,)"
    assert short_value([1.5, None]) == "[1.5, None]"
    assert short_value(np.linalg.svd) == "svd"
    assert short_value("x" * 100) == "'" + "x" * 56 + "..."
