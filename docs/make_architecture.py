"""Draws how the folders import each other: `python docs/make_architecture.py`, from the repository root.

The arrows are written into the picture as text, so that a test can say whether it shows the present imports.
"""

import ast
import json
from collections import Counter
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "figures" / "architecture.png"
PACKAGES = ("manifolds", "ufm", "sims")
COLOURS = {"manifolds": "#009E73", "ufm": "#0072B2", "sims": "#D55E00"}  # Okabe & Ito, colour-blind safe
WIDTHS = ((1, 0.7), (4, 1.1), (10, 1.8))  # least number of imports, line width


def folder(dotted: str) -> str:
    """The folder that a module lies in; the files of a package that lie in no folder count as the package."""
    parts = dotted.split(".")
    inner = ROOT.joinpath(*parts[:2])
    return ".".join(parts[:2]) if len(parts) > 1 and inner.is_dir() else parts[0]


def arrows() -> dict[tuple[str, str], float]:
    """(importing folder, imported folder) -> line width, by the number of imports, whatever line they stand on."""
    counted: Counter = Counter()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            here = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if here in ("ufm.__init__", "manifolds.__init__"):  # they name what others define
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
                    pair = folder(here), folder(node.module)
                    counted[pair] += pair[0] != pair[1]
    return {pair: [width for least, width in WIDTHS if count >= least][-1] for pair, count in sorted((+counted).items())}


def written(widths: dict[tuple[str, str], float]) -> str:
    """The arrows as one line of JSON."""
    return json.dumps([[*pair, width] for pair, width in widths.items()])


def levels_of(edges: set[tuple[str, str]]) -> dict[str, int]:
    """0 for a folder that imports none, else one more than the highest that it imports; two that import each other share one."""
    level = dict.fromkeys({name for edge in edges for name in edge}, 0)
    for _ in level:
        for upper, lower in edges:
            if (lower, upper) not in edges:
                level[upper] = max(level[upper], level[lower] + 1)
    return level


def draw(widths: dict[tuple[str, str], float]) -> Figure:
    """Folders by level, an arrow from each to every folder that it imports."""
    level_of = levels_of(set(widths))
    levels = {level: sorted(name for name in level_of if level_of[name] == level) for level in sorted(set(level_of.values()))}
    place = {
        name: ((i + 0.5) / len(names) + 0.03 * (level % 2), level)
        for level, names in levels.items()
        for i, name in enumerate(names)
    }
    figure = Figure(figsize=(10, 0.85 * len(levels) + 0.4), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(-0.02, 1.06)
    axes.set_ylim(-0.5, len(levels) - 0.5)
    for (upper, lower), width in widths.items():
        style = {"arrowstyle": "-|>", "mutation_scale": 9, "shrinkA": 14, "shrinkB": 14, "zorder": 1}
        bend = f"arc3,rad={0.12 if place[upper][0] <= place[lower][0] else -0.12}"
        colour = COLOURS[upper.split(".")[0]]
        axes.add_patch(
            FancyArrowPatch(place[upper], place[lower], linewidth=width, color=colour, alpha=0.45, connectionstyle=bend, **style)
        )
    for name, where in place.items():
        box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": COLOURS[name.split(".")[0]], "linewidth": 1.4}
        axes.text(*where, name, ha="center", va="center", fontsize=9, bbox=box, zorder=2)
    return figure


if __name__ == "__main__":
    drawn = arrows()
    draw(drawn).savefig(PICTURE, dpi=110, metadata={"Description": written(drawn), "Software": None})
