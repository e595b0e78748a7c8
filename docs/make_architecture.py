"""Draws how the packages import each other: `python docs/make_architecture.py`, from the repository root."""

import ast
from collections import Counter
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

ROOT = Path(__file__).parents[1]
PACKAGES = ("manifolds", "ufm", "sims")
COLOURS = {"manifolds": "#009E73", "ufm": "#0072B2", "sims": "#D55E00"}  # Okabe & Ito, colour-blind safe


def room(dotted: str) -> str:
    """The folder that a module lies in; the files of manifolds and sims that lie in no folder count as their package."""
    parts = dotted.split(".")
    inner = ROOT.joinpath(*parts[:2])
    return ".".join(parts[:2]) if len(parts) > 1 and inner.is_dir() else parts[0]


def arrows() -> Counter:
    """(importing room, imported room) -> number of imports, whatever line they stand on."""
    counted: Counter = Counter()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            here = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if here == "ufm.__init__":  # the front door names every room
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
                    pair = room(here), room(node.module)
                    counted[pair] += pair[0] != pair[1]
    return +counted


def floors(edges: set[tuple[str, str]]) -> dict[str, int]:
    """0 for a room that imports none, else one more than the highest that it imports; rooms that import each other share one."""
    rooms = {name for edge in edges for name in edge}
    floor = dict.fromkeys(rooms, 0)
    for _ in rooms:
        for upper, lower in edges:
            if (lower, upper) not in edges:
                floor[upper] = max(floor[upper], floor[lower] + 1)
    return floor


def draw() -> Figure:
    """Rooms by floor, an arrow from each to every room that it imports."""
    counted = arrows()
    floor = floors(set(counted))
    levels = {level: sorted(name for name in floor if floor[name] == level) for level in sorted(set(floor.values()))}
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
    for (upper, lower), count in counted.items():
        style = {"arrowstyle": "-|>", "mutation_scale": 9, "shrinkA": 14, "shrinkB": 14, "zorder": 1}
        width, colour = 0.5 + 0.12 * min(count, 12), COLOURS[upper.split(".")[0]]
        bend = f"arc3,rad={0.12 if place[upper][0] <= place[lower][0] else -0.12}"
        axes.add_patch(
            FancyArrowPatch(place[upper], place[lower], linewidth=width, color=colour, alpha=0.45, connectionstyle=bend, **style)
        )
    for name, where in place.items():
        box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": COLOURS[name.split(".")[0]], "linewidth": 1.4}
        axes.text(*where, name, ha="center", va="center", fontsize=9, bbox=box, zorder=2)
    return figure


if __name__ == "__main__":
    draw().savefig(ROOT / "docs" / "figures" / "architecture.png", dpi=150)
