"""`import ufm`: lazy, complete, typed, and as fast as before."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import ufm

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "scipy", "geoopt", "pymanopt", "matplotlib", "sklearn", "pandas")


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("name", ufm.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(ufm, name)
    assert name in dir(ufm)
    if isinstance(value, type) or (callable(value) and hasattr(value, "__name__")):
        assert value.__doc__
        assert value.__module__ == f"ufm.{ufm._HOMES[name]}"


def test_importing_the_package_imports_nothing_but_itself() -> None:
    assert python("import sys, ufm; print(sorted(m for m in sys.modules if m.startswith('ufm') or m == 'numpy'))") == (
        "['ufm', 'ufm.version']"
    )


def test_the_modules_of_a_package_are_attributes_without_a_further_import() -> None:
    one = {"compare": "window", "features": "snr", "files": "store", "flow": "config", "laws": "joint", "ledger": "result"}
    one |= {"models": "base", "monitor": "record", "tensor": "integrate"}
    assert one.keys() == set(ufm._SUBPACKAGES)
    uses = [
        "manifolds.class_centering",
        "manifolds.checks.slopes",
        *(f"ufm.{package}.{module}" for package, module in one.items()),
    ]
    absent = ["ufm.laws.nope", "ufm.laws._nope", "ufm.monitor.nope", "manifolds.nope"]
    code = f"""import ufm, manifolds
modules = [eval(use).__name__ for use in {uses}]
assert modules == {uses}, modules
for use in {absent}:
    try:
        eval(use)
    except AttributeError as error:
        assert str(error) == "module {{!r}} has no attribute {{!r}}".format(*use.rsplit(".", 1))
    else:
        raise AssertionError(use)"""
    assert python(code) == ""


@pytest.mark.parametrize("package", ["manifolds", *(f"ufm.{name}" for name in ufm._SUBPACKAGES)])
def test_the_modules_of_a_package_are_listed(package: str) -> None:
    folder = ROOT / Path(*package.split("."))
    entries = [*folder.glob("[!_]*.py"), *(path.parent for path in folder.glob("[!_]*/__init__.py"))]
    listed = dir(importlib.import_module(package))
    assert {path.stem for path in entries} <= set(listed)
    assert [name for name in listed if name.startswith("_") and package != "manifolds"] == []


def test_a_module_that_lacks_a_library_says_which() -> None:
    attempt = "try: ufm.monitor.metric\nexcept ImportError as error: print(error.name)"
    assert python(f"import sys, ufm\nsys.modules['torchmetrics'] = None\n{attempt}") == "torchmetrics"


def test_the_numpy_names_import_no_heavy_library() -> None:
    code = f"import sys, ufm; [getattr(ufm, n) for n in ufm._HOMES]; print([m for m in {HEAVY} if m in sys.modules])"
    assert python(code) == "[]"


def test_a_name_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'omega': it has EMBEDDED, GeneralLaw, LAWS"):
        ufm.omega  # noqa: B018
    assert not hasattr(ufm, "np")


def test_type_checkers_see_what_is_imported_when_used(tmp_path: Path) -> None:
    assert all((ROOT / package / "py.typed").exists() for package in ("manifolds", "ufm", "sims"))
    lines = [f"reveal_type(ufm.{name})" for name in ufm._HOMES]
    (tmp_path / "program.py").write_text("\n".join(["import ufm", *lines, ""]))
    (tmp_path / "pyrefly.toml").write_text(f'project-includes = ["program.py"]\nsearch-path = ["{ROOT}"]\n')
    command = [sys.executable, "-m", "pyrefly", "check", "--python-interpreter-path", sys.executable, "--min-severity", "info"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.count("revealed type:") == len(ufm._HOMES), done.stdout + done.stderr
    assert "revealed type: Unknown" not in done.stdout


def test_the_command_says_its_version() -> None:
    done = subprocess.run([sys.executable, "-m", "ufm.flow", "--version"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"ufm.flow {ufm.__version__}\n"
