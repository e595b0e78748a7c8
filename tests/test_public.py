"""Every public name of a front door has a docstring, full annotations, a place in the API reference, and a test that uses it."""

import importlib
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FRONT_DOORS = ("ufm", "ufm.ledger", "ufm.models", "ufm.monitor", "manifolds", "manifolds.geoopt", "manifolds.pymanopt")


def front_door(dotted: str) -> ModuleType:
    return importlib.import_module(dotted)


NAMES = [(dotted, name) for dotted in FRONT_DOORS for name in front_door(dotted).__all__ if not name.startswith("__")]


def open_annotations(value: Any) -> list[str]:
    """Parameters and results without a type: of a function, or of the public methods that a class of ours defines."""
    if inspect.isclass(value):
        return [f"{value.__name__}.{o}" for n, m in vars(value).items() if _own_method(value, n, m) for o in open_annotations(m)]
    value = inspect.unwrap(value)
    signature = inspect.signature(value)
    bare = [p.name for p in signature.parameters.values() if p.annotation is p.empty and p.name not in ("self", "cls")]
    return [f"{value.__name__}({name})" for name in bare] + [f"{value.__name__} ->"] * (
        signature.return_annotation is signature.empty
    )


def _own_method(cls: type, name: str, member: Any) -> bool:
    return inspect.isfunction(member) and (not name.startswith("_") or name == "__init__") and member.__module__ == cls.__module__


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    import api  # type: ignore[missing-import]

    out = tmp_path_factory.mktemp("api")
    api.write(ROOT, ("ufm", "manifolds", "sims"), out)
    return {path.stem: path.read_text() for path in out.glob("*.md")}


@pytest.fixture(scope="module")
def uses() -> str:
    """What the tests and the executed pages say, without this file."""
    tests = [path for path in (ROOT / "tests").rglob("*.py") if path.name != "test_public.py"]
    pages = [
        block for page in (ROOT / "docs").glob("*.md") for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    ]
    return "\n".join([*(path.read_text() for path in tests), *pages])


def test_open_annotations_are_listed() -> None:
    class Loose:
        def __init__(self, a: int) -> None: ...
        def g(self, x, y: int) -> int: ...
        def h(self): ...

    assert open_annotations(Loose) == ["Loose.g(x)", "Loose.h ->"]


@pytest.mark.parametrize(("dotted", "name"), NAMES, ids=lambda part: part)
def test_a_public_name_is_described_typed_in_the_reference_and_used(
    dotted: str, name: str, reference: dict[str, str], uses: str
) -> None:
    value = getattr(front_door(dotted), name)
    described = value if inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value) else type(value)
    assert inspect.getdoc(described), "no docstring"
    if inspect.isclass(value) or inspect.isroutine(value):
        assert open_annotations(value) == []
    assert re.search(rf"\b{name}\b", uses), "no test uses it"
    if not inspect.ismodule(value):
        heads = rf"^:+{{py:(?:class|function|data)}} {name}\b"
        assert any(re.search(heads, page, re.M) for page in reference.values()), "not in the API reference"
