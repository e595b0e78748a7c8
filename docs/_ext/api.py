"""Writes the API reference as Markdown from the sources: every public module, class, method and function, with its signature.

Nothing is imported, so that a page needs no optional package. Docstrings of the project are plain text with formulas in indented
blocks; they are shown as written.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGES = {
    "ufm": "the theory: features to numbers, exact laws, models, comparison, monitor",
    "manifolds": "geometry of {X : X C_M X^T = I}, for geoopt and pymanopt",
    "sims": "experiments and their commands",
}


def public(name: str) -> bool:
    """True for a name without a leading underscore."""
    return not name.startswith("_")


def paragraph(text: str) -> str:
    """Running text, with the characters that Markdown would read escaped outside `code`."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_<>\[\]|{}#~$])", r"\\\1", part) for part in parts)


def prose(docstring: str | None) -> str:
    """A docstring as Markdown: indented lines are formulas and stay literal."""
    if not docstring:
        return ""
    out = []
    for block in re.split(r"\n\s*\n", docstring.expandtabs()):
        lines = block.split("\n")
        plain = [line for line in lines if line.strip() and not line.startswith("    ")]
        if any(line.startswith("    ") for line in lines) or any("  " in line.strip() for line in plain):
            out.append("```text\n" + "\n".join(line.rstrip() for line in lines) + "\n```")
        else:
            text = paragraph("\n".join(lines))
            out.append(re.sub(r"^(\s*)([-+]|\d+\.)(\s)", r"\1\\\2\3", text) if not lines[0].lstrip().startswith("- ") else text)
    return "\n\n".join(out)


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef, method: bool = False) -> str:
    """`(X: Array, layout: ClassLayout) -> Array`, without self."""
    arguments = node.args
    static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
    if method and not static and arguments.args:
        arguments.args = arguments.args[1:]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({ast.unparse(arguments)}){returns}".replace("\n", " ")


LONGEST_DEFAULT = 60


def default(value: ast.expr | None) -> str:
    """A default as it is written; a text longer than a line is left to the source."""
    text = ast.unparse(value) if value else ""
    return text if len(text) <= LONGEST_DEFAULT else "..."


def bases_and_fields(node: ast.ClassDef) -> str:
    """The fields of a dataclass as a table, else nothing."""
    fields = [
        (ast.unparse(x.target), ast.unparse(x.annotation), default(x.value))
        for x in node.body
        if isinstance(x, ast.AnnAssign) and public(ast.unparse(x.target))
    ]
    if not fields:
        return ""
    rows = [" | ".join(f"`{cell}`".replace("|", "\\|") if cell else " " for cell in row) for row in fields]
    return "| field | type | default |\n|---|---|---|\n" + "\n".join(f"| {row} |" for row in rows)


def describe(directive: str, head: str, body: str, fence: int = 4) -> str:
    """One object of the Python domain."""
    colons = ":" * fence
    return f"{colons}{{py:{directive}}} {head}\n\n{body}\n{colons}"


def members(node: ast.ClassDef) -> Iterator[str]:
    """The public methods and properties of a class."""
    for item in node.body:
        if not isinstance(item, ast.FunctionDef) or not public(item.name):
            continue
        decorators = {ast.unparse(d) for d in item.decorator_list}
        if any(d.endswith((".setter", "overload")) for d in decorators):
            continue
        if decorators & {"property", "cached_property", "functools.cached_property"}:
            kind = f"\n:type: {ast.unparse(item.returns)}" if item.returns else ""
            yield f":::::{{py:property}} {item.name}{kind}\n\n{prose(ast.get_docstring(item))}\n:::::"
        else:
            yield describe("method", item.name + signature(item, method=True), prose(ast.get_docstring(item)), 5)


def front_door(tree: ast.Module) -> dict[str, str]:
    """The public names that an `__init__` imports, at once or when they are used, and the modules they stand in."""
    homes = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            for alias in node.names:  # a package gives a module, a module gives a name
                homes[alias.asname or alias.name] = f"{node.module}.{alias.name}" if node.module in PACKAGES else node.module
    return {name: homes[name] for name in sorted(homes) if public(name)}


def listed(tree: ast.Module) -> set[str]:
    """The names of `__all__` where it is written out."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__" and isinstance(node.value, ast.List):
            return {element.value for element in node.value.elts if isinstance(element, ast.Constant)}
    return set()


def front_table(names: dict[str, str], pages: dict[str, str]) -> str:
    """Every name of a front door with the page it is described on."""
    rows = [
        f"| `{name}` | [{home}]({home}.md) |" if f"{home}.md" in pages else f"| `{name}` | {home} |"
        for name, home in names.items()
    ]
    return "| name | in |\n|---|---|\n" + "\n".join(rows) + "\n\n" if rows else ""


def module_page(name: str, tree: ast.Module, values: set[str]) -> str | None:
    """The page of a module, or None where it has nothing public; of its plain values only those of a front door."""
    parts = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and public(node.name):
            decorators = {ast.unparse(d) for d in node.decorator_list}
            if "overload" not in decorators:
                parts.append(describe("function", node.name + signature(node), prose(ast.get_docstring(node))))
        elif isinstance(node, ast.ClassDef) and public(node.name):
            body = [prose(ast.get_docstring(node)), bases_and_fields(node), *members(node)]
            parts.append(describe("class", node.name, "\n\n".join(part for part in body if part), 6))
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            given = [x.id for target in targets for x in ast.walk(target) if isinstance(x, ast.Name) and x.id in values]
            parts += [describe("data", value, f"```python\n{ast.unparse(node)}\n```") for value in given]
    if not parts:
        return None
    head = f"# {name}\n\n:::{{py:module}} {name}\n:::\n\n{prose(ast.get_docstring(tree))}"
    return "\n\n".join([head, *parts]) + "\n"


def contents(names: list[str], depth: int = 1) -> str:
    """A table of contents."""
    return f":::{{toctree}}\n:maxdepth: {depth}\n\n" + "\n".join(names) + "\n:::\n"


def pages_of(root: Path, packages: tuple[str, ...]) -> dict[str, str]:
    """Every page but the index, by its file."""
    trees = {path: ast.parse(path.read_text()) for package in packages for path in sorted((root / package).rglob("*.py"))}
    dotted = {path: ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for path in trees}
    doors = {dotted[path]: front_door(tree) for path, tree in trees.items() if path.name == "__init__.py"}
    values = {name for door in doors.values() for name in door}
    pages: dict[str, str] = {}
    for path, tree in trees.items():
        name = dotted[path]
        if name in packages or any(map(str.isupper, name.split("."))) or not all(map(public, name.split("."))):
            continue
        page = module_page(name, tree, values | listed(tree))
        if page is None and doors.get(name):
            page = f"# {name}\n\n{prose(ast.get_docstring(tree))}\n"
        if page is not None:
            pages[f"{name}.md"] = page + ("\n" + front_table(doors[name], pages) if doors.get(name) else "")
    for package in packages:
        modules = [page.removesuffix(".md") for page in pages if page.startswith(f"{package}.") and page != f"{package}.md"]
        names = [f"{module.removeprefix(f'{package}.')} <{module}>" for module in modules]  # short ones for the side bar
        pages[f"{package}.md"] = f"# {package}\n\n{PACKAGES[package]}\n\n{front_table(doors[package], pages)}{contents(names)}"
    return pages


def write(root: Path, packages: tuple[str, ...], out: Path) -> None:
    """Write one page a module and an index into `out`; pages that have not changed keep their time, stale ones go."""
    out.mkdir(exist_ok=True)
    pages = pages_of(root, packages)
    index = "\n".join(f"- [{package}]({package}.md): {PACKAGES[package]}" for package in packages)
    pages["index.md"] = (
        "# API reference\n\nEvery public name, generated from the sources: signature, shapes, what is raised, and where the "
        f"formula comes from.\n\n{index}\n\n{contents(list(packages), 2)}"
    )
    for stale in set(out.glob("*.md")) - {out / name for name in pages}:
        stale.unlink()
    for name, page in pages.items():
        if not (out / name).exists() or (out / name).read_text() != page:
            (out / name).write_text(page)
