"""The design as a test: imports go one way, files and figures and command lines have their homes, modules stay small."""

import ast
import re
import subprocess
import sys
from functools import cache
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


@cache
def tree_of(path: Path) -> ast.Module:
    """What a file holds; nothing of it may be changed."""
    return ast.parse(path.read_text())


@cache
def dependencies(path: Path) -> set[str]:
    """The modules of the project that a module imports: at its top, in a function, for the type checker, by import_module."""
    here, tree, needed = module_name(path), tree_of(path), set()
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


def test_no_circle_between_the_folders_of_ufm() -> None:
    """The files of `ufm` that lie in no folder count as one more; its `__init__`, which names what all define, is left out."""
    folders: dict[str, set[str]] = {}
    for dotted, path in BY_NAME.items():
        if dotted.startswith("ufm."):
            needed = {folder_of(other) for other in dependencies(path) if other.startswith("ufm.")}
            folders.setdefault(folder_of(dotted), set()).update(needed)
    assert {"ufm", "ufm.laws"} <= folders["ufm.flow"]
    assert circles(folders) == []


def contracted(graph: dict[str, set[str]], folder: str) -> dict[str, set[str]]:
    """The imports between what lies directly in a folder: its files one by one, each subfolder as a whole."""

    def inside(dotted: str) -> str | None:
        first = dotted.removeprefix(f"{folder}.").partition(".")[0]
        return f"{folder}.{first}" if dotted.startswith(f"{folder}.") else None

    among: dict[str, set[str]] = {}
    for dotted, needed in graph.items():
        if (one := inside(dotted)) is not None:
            among.setdefault(one, set()).update({other for other in map(inside, needed) if other is not None and other != one})
    return among


def test_contraction_finds_a_file_that_is_before_and_after_a_folder() -> None:
    files = {"p.low": set(), "p.sub.a": {"p.low"}, "p.sub.b": set(), "p.high": {"p.sub.b"}, "p": {"p.high"}}
    assert circles(contracted(files, "p")) == []
    assert circles(files | contracted(files | {"p.low": {"p.sub.b"}}, "p")) == [["p.low", "p.sub"]]
    through = contracted(files | {"p.low": {"p.more"}, "p.more": {"p.sub.b"}}, "p")
    assert circles(through) == [["p.low", "p.more", "p.sub"]]


def test_the_files_beside_a_folder_come_before_it_or_after_it() -> None:
    graph = {dotted: dependencies(path) for dotted, path in BY_NAME.items()}
    for folder in {module_name(path.parent) for path in MODULES}:
        assert circles(contracted(graph, folder)) == [], folder


def folder_of(dotted: str) -> str:
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
    "safe_step": "the bound of the closed scheme and of the general one",
    "safe_step_from": "the bound of the closed scheme and of the general one",
    "inverse_sqrt": "numpy's half and torch's half of one function",
    "lyapunov": "numpy's half and torch's half of one function",
    "TEMPLATE": "every report has one",
    "NeuralCollapseCallback": "the same callback for Lightning and for transformers",
    "_Features": "what the two metrics have in common, for geoopt and for pymanopt",
    "_Manifold": "the untyped base class, of geoopt and of pymanopt",
    "_HOMES": "the modules behind the public names of a package",
}


def definitions(tree: ast.Module) -> set[str]:
    """Classes, functions, type names and constants defined at the top of a module, several at once too; not __all__ and such."""
    names = set()
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        names |= {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
    return {defined for defined in names if not defined.startswith("__")}


def test_definitions_are_listed() -> None:
    code = "A, (B, c) = 1, (2, 3)\nD: int = 4\n_E = 5\n__f__ = 6\ndef f(x): y = x\nclass K:\n    z = 6\nclass _L: ..."
    assert definitions(ast.parse(code)) == {"A", "B", "c", "D", "_E", "f", "K", "_L"}


def test_a_name_has_one_meaning() -> None:
    homes: dict[str, list[str]] = {}
    for path in MODULES:
        for defined in definitions(tree_of(path)):
            homes.setdefault(defined, []).append(name(path))
    known = SAME_NAME.keys()
    assert {defined: where for defined, where in homes.items() if len(where) > 1 and defined not in known} == {}


LEAST_NODES = 40  # of the body of a function: shorter ones say little


def shape(function: ast.FunctionDef) -> str:
    """The body of a function without its docstring and with every name replaced, as text; "" for a short one."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    nodes = [node for statement in body for node in ast.walk(statement)]
    if len(nodes) < LEAST_NODES:
        return ""
    texts = [f"{node.value!r}" if isinstance(node, ast.Constant) else getattr(node, "attr", "") for node in nodes]
    return " ".join(f"{type(node).__name__} {text}" for node, text in zip(nodes, texts, strict=True))


def test_the_shape_of_a_function_is_free_of_its_names() -> None:
    first, renamed, other = (
        ast.parse(f"def f(x, y):\n    {text}").body[0]
        for text in (
            "a = [x.mean(k) + y[k] ** 2 for k in range(3)]; b = {i: j * x for i, j in zip(a, y)}; return a, b, a[0] / b",
            "u = [p.mean(i) + q[i] ** 2 for i in range(3)]; v = {r: s * p for r, s in zip(u, q)}; return u, v, u[0] / v",
            "a = [x.sum(k) + y[k] ** 2 for k in range(3)]; b = {i: j * x for i, j in zip(a, y)}; return a, b, a[0] / b",
        )
    )
    assert isinstance(first, ast.FunctionDef)
    assert isinstance(renamed, ast.FunctionDef)
    assert isinstance(other, ast.FunctionDef)
    assert shape(first) == shape(renamed) != shape(other) != ""
    assert not shape(ast.parse("def f(x): return x").body[0])  # type: ignore[bad-argument-type]


def test_no_function_is_written_twice() -> None:
    homes: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef) and (body := shape(node)):
                homes.setdefault(body, []).append(f"{name(path)}: {node.name}")
    assert [where for where in homes.values() if len(where) > 1] == []


def test_what_is_not_implemented_says_why() -> None:
    """A method that is there for a protocol alone is none: the protocol asks for too much."""
    bare = [
        f"{name(path)}: line {node.lineno}"
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Name) and node.exc.id == "NotImplementedError"
    ]
    assert bare == []


IDIOMS = (  # of prose and messages, for which the field has nouns
    "from rest",
    "at the door",
    "in one go",
    "in a blink",
    "one currency",
    "so say all",
    "unlay",
    "leaves float64",
    "hosted",
    "owned up",
    "home again",
    "nothing to fetch",
    "a close one",
    "the end of what is looked at",
    "what is left of log omega",
    "is the one left",
    "takes it not",
    "obeys nothing",
    "tells alone",
    "speaks? of",
    "speaks? for",
)
PROSE = sorted([*(path for folder in ("docs", "docs/tutorials") for path in (ROOT / folder).glob("*.md")), ROOT / "README.md"])


def test_prose_and_messages_have_the_words_of_the_field() -> None:
    anyone = re.compile("|".join(rf"\b{idiom}\b" for idiom in IDIOMS))
    said = {name(path): anyone.findall(" ".join(path.read_text().split())) for path in [*MODULES, *PROSE]}
    assert {path: idioms for path, idioms in said.items() if idioms} == {}


def test_the_picture_of_the_imports_is_the_present_one() -> None:
    """After a change of the imports between folders: `python docs/make_architecture.py`."""
    image = pytest.importorskip("PIL.Image")
    code = "import make_architecture as m; print(m.written(m.arrows()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "docs", capture_output=True, text=True, check=True)
    assert image.open(ROOT / "docs" / "figures" / "architecture.png").text["Description"] == done.stdout.strip()


def test_the_table_of_the_architecture_has_every_file_that_lies_in_no_folder() -> None:
    """Commands are left out, which have pages of their own, and so are the names and the number of the version."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    files = [path for package in ("ufm", "sims") for path in (ROOT / package).glob("*.py")]
    quiet = [path for path in files if path.stem not in ("__init__", "version") and "main" not in definitions(tree_of(path))]
    assert len(quiet) > 8
    assert [name(path) for path in quiet if f"`{name(path)}`" not in text] == []


def test_results_are_named_after_what_they_are() -> None:
    """No variable, parameter or attribute is called `found`: that says how it came, not what it is."""
    called = [
        f"{name(path)}: {ast.unparse(node)[:80]}"
        for folder in (*PACKAGES, "tests", "benchmarks", "docs")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"\b_?found\b", path.read_text())  # before the slower look at what is a name
        for node in ast.walk(tree_of(path))
        if {"found", "_found"} & {getattr(node, field, None) for field in ("id", "arg", "attr")}
    ]
    assert called == []


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_imports_go_one_way() -> None:
    assert len(MODULES) > 300
    for path in MODULES:
        package = PACKAGES.index(path.relative_to(ROOT).parts[0])
        later = set(PACKAGES[package + 1 :]) | {"tests", "benchmarks"}
        assert not {module for module in imported(path) if module.split(".")[0] in later}, name(path)


def test_command_lines_figures_and_files_have_their_homes() -> None:
    for path in MODULES:
        in_sims = path.relative_to(ROOT).parts[0] == "sims"
        tops = {module.split(".")[0] for module in imported(path)}
        if "argparse" in tops:
            assert name(path) in COMMANDS or in_sims, name(path)
        if "matplotlib" in tops:
            assert name(path) in FIGURES or in_sims, name(path)
        calls = [node.func for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
        opens = "open" in {called.id for called in calls if isinstance(called, ast.Name)}
        assert not opens or name(path) in FILES, name(path)


HOMES = {  # what is called in one module alone
    r"\.numpy\(\)": {"manifolds/linalg.py", "ufm/features/labels.py"},  # as_numpy; the second names it in a message
    r"\bArgumentParser\b": {"sims/command.py", "ufm/flow/command.py", "sims/training/options.py"},  # the last takes one
    r"\bdegenerate_deviation\(": {  # of eigenvalues by range_of_covariance, else of deviations
        "manifolds/roots.py",
        "manifolds/whitening.py",
        *(f"ufm/features/{module}.py" for module in ("measures", "ranges", "sharded", "snr")),
    },
    r"/ [\w.()]*sqrt\(\w+\)[^@\n]*\) @ \w+\.m?T": {"manifolds/linalg.py"},  # root_of_spectrum
    r"/ norms\(": {"ufm/features/vectors.py"},  # unit_vectors
    r"torch\.__version__": set(),  # provenance
}


@pytest.mark.parametrize("pattern", HOMES)
def test_what_has_a_home_is_not_written_again(pattern: str) -> None:
    where = {name(path) for path in MODULES if re.search(pattern, path.read_text())}
    assert where == HOMES[pattern]


def test_modules_are_short_and_public_names_are_documented() -> None:
    for path in MODULES:
        lines = len(path.read_text().splitlines())
        assert lines <= LONGEST, f"{name(path)}: {lines} lines"
        tree = tree_of(path)
        assert ast.get_docstring(tree), f"{name(path)} has no docstring"
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{name(path)}: {node.name} has no docstring"


DESCRIBED_BY_CLASS = {"Array": "the operations that numpy and torch have in common", "Processes": "their number and this one's"}


def classes_of(tree: ast.Module) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def undocumented_methods(tree: ast.Module, others: dict[str, ast.ClassDef]) -> list[str]:
    """Public methods of public classes that have no docstring, of their own or of a base class, which may be among `others`."""
    classes = others | classes_of(tree)

    def documented(cls: ast.ClassDef, method: str) -> bool:
        own = [node for node in cls.body if isinstance(node, ast.FunctionDef) and node.name == method]
        bases = [classes[base] for base in map(ast.unparse, cls.bases) if base in classes]
        return any(map(ast.get_docstring, own)) or any(documented(base, method) for base in bases)

    public = [cls for cls in classes_of(tree).values() if not cls.name.startswith("_") and cls.name not in DESCRIBED_BY_CLASS]
    methods = [(cls, node.name) for cls in public for node in cls.body if isinstance(node, ast.FunctionDef)]
    return [f"{cls.name}.{method}" for cls, method in methods if not method.startswith("_") and not documented(cls, method)]


def test_undocumented_methods_are_listed() -> None:
    base = "class A:\n    def f(self): 'F.'\n    def g(self): ...\n"
    code = "class B(A):\n    def f(self): ...\n    def g(self): ...\n    def _h(self): ...\nclass _C:\n    def i(self): ...\n"
    code += "class D(_C):\n    def i(self): ...\n    @property\n    def j(self): ..."
    assert undocumented_methods(ast.parse(code), classes_of(ast.parse(base))) == ["B.g", "D.i", "D.j"]


def test_public_methods_are_documented() -> None:
    everywhere = {cls: node for path in MODULES for cls, node in classes_of(tree_of(path)).items()}
    bare = {name(path): undocumented_methods(tree_of(path), everywhere) for path in MODULES}
    assert {path: methods for path, methods in bare.items() if methods} == {}


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


def test_public_functions_are_annotated_and_arrays_are_not_any() -> None:
    loose = {name(path): loose_signatures(tree_of(path)) for path in MODULES if not name(path).startswith("sims")}
    assert {path: signatures for path, signatures in loose.items() if signatures} == {}


ANY = {  # how many places of a public signature, field or type name are of the type Any, by module, and why
    "numpy's or torch's as it was given, of any shape": {
        "manifolds/array.py": 8,
        "manifolds/checks/derivatives.py": 1,
        "manifolds/linalg.py": 1,
        "manifolds/precision.py": 1,
        "manifolds/retractions.py": 1,
        "manifolds/roots.py": 4,
        "manifolds/shooting.py": 1,
        "manifolds/steps.py": 1,
        "ufm/compare/motions.py": 1,
        "ufm/features/statistics.py": 1,
        "ufm/laws/kernel_ratio_tables.py": 1,
        "ufm/models/solvers/vectors.py": 3,
        "ufm/tensor/renormalized_flow.py": 1,
    },
    "a context or a parameter group, which torch declares as Any": {
        "manifolds/autograd.py": 6,
        "manifolds/distance.py": 4,
        "manifolds/optimizers/svrg.py": 2,
        "manifolds/torch_optimizer.py": 1,
    },
    "an object of a library that has no types, or that is not imported there": {
        "manifolds/checks/slopes.py": 1,
        "manifolds/checks/views.py": 2,
        "manifolds/geoopt_base.py": 1,
        "sims/training/archives.py": 1,
        "sims/training/data.py": 1,
        "ufm/models/solvers/pymanopt_vectors.py": 7,
    },
    "arguments that are passed on": {
        "manifolds/optimizers/arc.py": 1,
        "manifolds/optimizers/iterates.py": 1,
        "manifolds/optimizers/lbfgs.py": 1,
        "sims/command.py": 2,
        "sims/gallery/gallery.py": 1,
        "sims/models.py": 1,
        "sims/page.py": 1,
        "sims/rungs/rung.py": 1,
        "ufm/monitor/lightning_callback.py": 2,
        "ufm/monitor/metric.py": 2,
        "ufm/monitor/states.py": 9,
        "ufm/monitor/transformers_callback.py": 3,
        "ufm/options.py": 3,
    },
    "values of JSON, of a table or of a checkpoint": {
        "sims/comparison/tables.py": 1,
        "sims/ledgers/entry.py": 1,
        "sims/training/folder.py": 1,
        "sims/training/loop.py": 1,
        "ufm/files/json_objects.py": 1,
        "ufm/flow/report.py": 1,
        "ufm/ledger/result.py": 1,
        "ufm/models/base.py": 1,
        "ufm/output.py": 1,
    },
    "numpy's name for a dtype of any numbers": {
        "ufm/files/archive.py": 1,
        "ufm/files/checkpoint.py": 1,
        "ufm/files/rows.py": 1,
        "ufm/files/shards.py": 1,
    },
    "whatever a network, an interrupted function or one of several kinds of cells has": {
        "sims/ledgers/nets.py": 1,
        "ufm/interrupt.py": 1,
        "ufm/monitor/batches.py": 4,
    },
}


def open_types(tree: ast.Module) -> list[str]:
    """Where public signatures and fields say Any: `function(parameter)`, `function ->`, `field`; and names of such types."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    written: list[tuple[str, ast.expr | None]] = []
    for node in (node for body in (tree, *classes) for node in body.body):
        if isinstance(node, ast.FunctionDef):
            given = node.args
            parameters = (*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg)))
            of_function = [(f"{node.name}({parameter.arg})", parameter.annotation) for parameter in parameters]
            written += [*of_function, (f"{node.name} ->", node.returns)]
        elif isinstance(node, ast.AnnAssign):
            written.append((ast.unparse(node.target), node.annotation))
        elif isinstance(node, ast.Assign) and node in tree.body:
            written.append((ast.unparse(node.targets[0]), node.value))
    public = [(where, ast.unparse(said)) for where, said in written if said and (where[0] != "_" or where.startswith("__init__"))]
    return [where for where, said in public if re.search(r"\bAny\b", said)]


def test_open_types_are_listed() -> None:
    code = (
        "A = list[Any]\n_B = Any\nC: Any = 1\n"
        "def f(a: int, *b: Any, **c: 'dict[str, Any]') -> Any: d: Any = a\ndef _g(x: Any): ...\n"
        "class K:\n    z: Any\n    def __init__(self, x: Any): ...\n    def __add__(self, y: Any): ...\nclass _L:\n    z: Any"
    )
    assert open_types(ast.parse(code)) == ["A", "C", "f(b)", "f(c)", "f ->", "z", "__init__(x)"]


def test_types_are_open_only_where_there_is_a_reason() -> None:
    known = {path: number for modules in ANY.values() for path, number in modules.items()}
    opened = {name(path): open_types(tree_of(path)) for path in MODULES}
    assert {path: where for path, where in opened.items() if len(where) != known.get(path, 0)} == {}
    assert known.keys() <= opened.keys()


HEAVY = ("torch", "scipy", "geoopt", "pymanopt", "matplotlib", "sklearn", "pandas", "numpy.ma")
OF_OTHER_OPTIONS = ("json", "pathlib", "tempfile", "ufm.files", "ufm.memory", "ufm.laws.general", "ufm.laws.mean_system")
OF_OTHER_MANIFOLDS = ("manifolds.column_split", "manifolds.forms", "manifolds.normalized_features")


def test_the_plain_command_imports_no_module_that_it_does_not_use() -> None:
    code = (
        "import sys, numpy.random; before = {*sys.modules}; from ufm.flow.command import main;"
        "main(['--C', '4', '--N', '20', '--P', '6']);"
        f"print({{*{HEAVY + OF_OTHER_OPTIONS + OF_OTHER_MANIFOLDS}}} & sys.modules.keys() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_what_the_command_imports_is_never_searched_for_garbage_again() -> None:
    code = (
        "import gc, sys; from ufm.flow.__main__ import guarded; sys.argv = ['ufm.flow', '--C', '4', '--N', '20', '--P', '6'];"
        "guarded(alone=True); print(gc.isenabled(), gc.get_freeze_count() > 10_000)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True True"


TYPES = ["pyrefly", "check", "--threads", "1", "--python-interpreter-path", sys.executable]


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], TYPES],
    ids=lambda command: command[0],
)
def test_linter_formatter_and_type_checker_are_content(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
