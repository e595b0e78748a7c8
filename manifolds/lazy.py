"""The modules of a package as its attributes, imported when they are first used: `import ufm` is enough for `ufm.laws.joint`."""

import sys
from functools import partial
from importlib import import_module
from types import ModuleType


def give_modules(package: str) -> None:
    """Give a package `__getattr__` and `__dir__` for its modules; a type checker knows them, and refuses other names, already."""
    vars(sys.modules[package]).update(__getattr__=partial(module_of, package), __dir__=partial(names_of, package))


def module_of(package: str, name: str) -> ModuleType:
    """The module of that name in a package. Raises AttributeError where there is none, ImportError where it lacks a library."""
    dotted = f"{package}.{name}"
    try:
        if not name.startswith("_"):
            return import_module(dotted)
    except ModuleNotFoundError as error:
        if error.name != dotted:
            raise
    raise AttributeError(f"module {package!r} has no attribute {name!r}")


def names_of(package: str) -> list[str]:
    """The public names and modules of a package."""
    from pkgutil import iter_modules

    here = sys.modules[package]
    names = {module.name for module in iter_modules(here.__path__)} | set(getattr(here, "__all__", ()))
    return sorted(name for name in names if not name.startswith("_"))
