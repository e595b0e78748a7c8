"""The design as a test: imports go one way, files and figures and command lines have their homes, modules stay small."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("manifolds", "ufm", "sims")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
COMMANDS = {"ufm/flow/command.py"}
FIGURES = {"ufm/files/plot.py"}
FILES = {"ufm/files/store.py", "ufm/files/features.py"}
LONGEST = 250


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


BY_NAME = {module_name(path): path for path in MODULES}


def dependencies(path: Path) -> set[str]:
    """The modules of the project that a module imports: at its top, in a function, for the type checker, by import_module."""
    here, tree, needed = module_name(path), ast.parse(path.read_text()), set()
    package = here if path.name == "__init__.py" else here.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            needed |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            inner = {f"{module}.{alias.name}" for alias in node.names}
            needed |= {dotted if dotted in BY_NAME else module for dotted in inner}
    if "import_module" in {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}:
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        texts -= set(PACKAGES)
        needed |= texts | {f"{package}.{text}" for text in texts}  # the tables of names that are imported when they are used
    return (needed & BY_NAME.keys()) - {here}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Every set of nodes that reach one another, by Kosaraju's two searches."""
    order: list[str] = []
    seen: set[str] = set()

    def visit(node: str, edges: dict[str, set[str]], into: list[str]) -> None:
        seen.add(node)
        for following in sorted(edges[node]):
            if following not in seen:
                visit(following, edges, into)
        into.append(node)

    for node in sorted(graph):
        if node not in seen:
            visit(node, graph, order)
    backwards = {node: {other for other in graph if node in graph[other]} for node in graph}
    seen.clear()
    groups = []
    for node in reversed(order):
        if node not in seen:
            visit(node, backwards, group := [])
            groups.append(sorted(group))
    return [group for group in groups if len(group) > 1]


def test_circles_are_found_wherever_they_are() -> None:
    graph = {"a": {"b", "c"}, "b": {"c"}, "c": {"b"}, "d": {"a", "e"}, "e": {"f"}, "f": {"g"}, "g": {"e"}, "h": set()}
    assert sorted(circles(graph)) == [["b", "c"], ["e", "f", "g"]]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle_between_files_lazy_imports_included(package: str) -> None:
    graph = {dotted: dependencies(path) for dotted, path in BY_NAME.items()}
    assert [group for group in circles(graph) if group[0].split(".")[0] == package] == []


def test_no_circle_between_the_rooms_of_ufm() -> None:
    """The files of `ufm` that lie in no folder are a room as well; the front door, which names every room, is none."""
    rooms: dict[str, set[str]] = {}
    for dotted, path in BY_NAME.items():
        if dotted.startswith("ufm."):
            needed = {room(other) for other in dependencies(path) if other.startswith("ufm.")}
            rooms.setdefault(room(dotted), set()).update(needed)
    assert {"ufm", "ufm.laws"} <= rooms["ufm.flow"]
    assert circles(rooms) == []


def room(dotted: str) -> str:
    """The folder that a module lies in."""
    parts = dotted.split(".")
    return ".".join(parts[:2]) if ROOT.joinpath(*parts[:2]).is_dir() else parts[0]


SAME_NAME = {  # what may be defined in several modules, and why
    "main": "every command has one",
    "parser": "every command has one",
    "NormalizedFeatures": "the same manifold for geoopt and for pymanopt",
    "EmbeddedNormalizedFeatures": "the same manifold for geoopt and for pymanopt",
    "OrthogonalQuotient": "the same manifold for geoopt and for pymanopt",
    "GeneralizedStiefel": "the same manifold for geoopt and for pymanopt",
    "Field": "the vector fields that the integrator beside it takes",
    "safe_step": "the bound of the closed scheme and of the general one",
    "safe_step_from": "the bound of the closed scheme and of the general one",
    "inverse_sqrt": "numpy's half and torch's half of one function",
    "lyapunov": "numpy's half and torch's half of one function",
    "TEMPLATE": "every report has one",
    "NeuralCollapseCallback": "the same callback for Lightning and for transformers",
}


def definitions(text: str) -> set[str]:
    """Public classes, functions, type names and constants defined at the top of a module, several at once too."""
    names = set()
    for node in ast.parse(text).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        names |= {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
    return {defined for defined in names if not defined.startswith("_")}


def test_definitions_are_listed() -> None:
    code = "A, (B, c) = 1, (2, 3)\nD: int = 4\n_E = 5\ndef f(x): y = x\nclass K:\n    z = 6\nclass _L: ..."
    assert definitions(code) == {"A", "B", "c", "D", "f", "K"}


def test_a_public_name_has_one_meaning() -> None:
    homes: dict[str, list[str]] = {}
    for path in MODULES:
        for defined in definitions(path.read_text()):
            homes.setdefault(defined, []).append(name(path))
    known = SAME_NAME.keys()
    assert {defined: where for defined, where in homes.items() if len(where) > 1 and defined not in known} == {}


def test_results_are_named_after_what_they_are() -> None:
    """No variable, parameter or attribute is called `found`: that says how it came, not what it is."""
    called = [
        f"{name(path)}: {ast.unparse(node)[:80]}"
        for folder in (*PACKAGES, "tests", "benchmarks", "docs")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if {"found", "_found"} & {getattr(node, field, None) for field in ("id", "arg", "attr")}
    ]
    assert called == []


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_go_one_way(path: Path) -> None:
    package = PACKAGES.index(path.relative_to(ROOT).parts[0])
    later = set(PACKAGES[package + 1 :]) | {"tests", "benchmarks"}
    assert not {module for module in imported(path) if module.split(".")[0] in later}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_command_lines_figures_and_files_have_their_homes(path: Path) -> None:
    in_sims = path.relative_to(ROOT).parts[0] == "sims"
    tops = {module.split(".")[0] for module in imported(path)}
    if "argparse" in tops:
        assert name(path) in COMMANDS or in_sims
    if "matplotlib" in tops:
        assert name(path) in FIGURES or in_sims
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert "open" not in calls or name(path) in FILES


HOMES = {  # what is called in one module alone
    r"\.numpy\(\)": {"manifolds/linalg.py", "ufm/features/labels.py"},  # as_numpy; the second names it in a message
    r"\bArgumentParser\b": {"sims/command.py", "ufm/flow/command.py", "sims/training/options.py"},  # the last takes one
    r"\bdegenerate_deviation\(": {  # of eigenvalues by range_of_covariance, else of deviations
        "manifolds/roots.py",
        "manifolds/whitening.py",
        *(f"ufm/features/{module}.py" for module in ("ranges", "sharded", "snr")),
    },
    r"/ [\w.()]*sqrt\(\w+\)[^@\n]*\) @ \w+\.m?T": {"manifolds/linalg.py"},  # root_of_spectrum
    r"/ norms\(": {"ufm/features/vectors.py"},  # unit_vectors
    r"torch\.__version__": set(),  # provenance
}


@pytest.mark.parametrize("pattern", HOMES)
def test_what_has_a_home_is_not_written_again(pattern: str) -> None:
    where = {name(path) for path in MODULES if re.search(pattern, path.read_text())}
    assert where == HOMES[pattern]


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_are_short_and_public_names_are_documented(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_") and node in tree.body:
            assert ast.get_docstring(node), f"{name(path)}: {node.name} has no docstring"


ARRAYS = {"X", "U", "Z", "H", "M", "S", "W", "V", "b", "omega", "labels", "features", "means", "gram"}


def loose_signatures(tree: ast.Module) -> list[str]:
    """What public functions and methods leave open: `function(parameter)` with no type, or Any for an array; `function ->`."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    functions = [node for body in (tree, *classes) for node in body.body if isinstance(node, ast.FunctionDef)]
    loose = []
    for function in functions:
        if function.name.startswith("_"):
            continue
        given = function.args
        several = [one for one in (given.vararg, given.kwarg) if one is not None]
        for parameter in (*given.posonlyargs, *given.args, *given.kwonlyargs, *several):
            written = None if parameter.annotation is None else ast.unparse(parameter.annotation)
            if (written is None and parameter.arg not in ("self", "cls")) or (written == "Any" and parameter.arg in ARRAYS):
                loose.append(f"{function.name}({parameter.arg})")
        if function.returns is None:
            loose.append(f"{function.name} ->")
    return loose


def test_loose_signatures_are_listed() -> None:
    code = "def f(a, /, b: Any, *c, d: int, **e) -> int: ...\nclass K:\n    def g(self, x: Any): ...\n    def _h(self, y): ..."
    assert loose_signatures(ast.parse(code)) == ["f(a)", "f(b)", "f(c)", "f(e)", "g ->"]


@pytest.mark.parametrize("path", [path for path in MODULES if not name(path).startswith("sims")], ids=name)
def test_public_functions_are_annotated_and_arrays_are_not_any(path: Path) -> None:
    assert loose_signatures(ast.parse(path.read_text())) == []


def test_the_plain_command_imports_no_heavy_library() -> None:
    code = (
        "import sys; from ufm.flow.command import main; main(['--C', '4', '--N', '20', '--P', '6']);"
        "print([m for m in ('torch', 'scipy', 'geoopt', 'pymanopt', 'matplotlib', 'sklearn', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


TYPES = ["pyrefly", "check", "--python-interpreter-path", sys.executable]


@pytest.mark.parametrize(
    "command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], TYPES], ids=lambda command: command[0]
)
def test_linter_formatter_and_type_checker_are_content(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
