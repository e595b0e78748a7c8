"""Prints the lowest version of every package that pyproject.toml allows, as constraints for pip: `make lowest`."""

import re
import tomllib
from pathlib import Path


def lowest(project: dict) -> list[str]:
    """`name==lower bound` of every requirement of the core and of the extras, sorted."""
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    bounds = [re.fullmatch(r"([\w-]+)>=([\w.]+)", requirement) for group in groups for requirement in group]
    return sorted({f"{bound[1]}=={bound[2]}" for bound in bounds if bound})


if __name__ == "__main__":
    print("\n".join(lowest(tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"])))
