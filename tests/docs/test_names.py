"""Every dotted name of the packages that a page mentions exists."""

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "tutorials").glob("*.md")),
]
NAME = re.compile(r"`((?:ufm|manifolds|sims)(?:\.\w+)+)(?:\([^`]*\))?`")


def exists(name: str) -> bool:
    """True where a name is a module, or an attribute of attributes of one."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            thing = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if not hasattr(thing, part) and part not in getattr(thing, "__dataclass_fields__", {}):
                return False
            thing = getattr(thing, part, None)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_name_on_a_page_exists(page: Path) -> None:
    text = page.read_text()
    if page.name == "changelog.md":
        text = re.sub(r"^\| (.*?) \|", "|", text, flags=re.M)  # the names that moved
    missing = sorted({name for name in NAME.findall(text) if not name.endswith((".py", ".npz")) and not exists(name)})
    assert not missing


def test_a_name_that_does_not_exist_is_missed() -> None:
    assert exists("ufm.laws.singular_value_dynamics.RENORMALIZED")
    assert exists("ufm.laws.singular_value_dynamics.Law.omega")
    assert not exists("ufm.laws.singular_value_dynamics.RENORMALISED")
    assert not exists("ufm.nothing.at_all")
