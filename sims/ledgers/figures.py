"""Figures of ledgers: the waterfall of an epoch, every omega_j, and gains over epochs. Colours of Okabe and Ito, and hatches."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sims.ledgers.entry import column
from ufm.files.json_objects import JsonObject
from ufm.output import stored_number

LINEAR, NONLINEAR, UNKNOWN = "#0072B2", "#E69F00", "#999999"
WIDEST = 60  # operations up to which all are named
SPLITS = {
    "train": "training examples",
    "test": "examples not trained on",
    "features": "stored features",
    "log": "examples of the log",
}
ESTIMATE_LABELS = {"held_out": "held out", "omega": "in sample"}


def drawn_estimate(stored: JsonObject) -> str:
    """The held-out estimate, or where there is none at all, as in a log, the values in sample."""
    return "held_out" if np.isfinite(column(stored, "held_out")).any() else "omega"


def waterfall(entries: list[JsonObject]) -> Figure:
    """One panel a split: bars from the geometric mean of omega before an operation to that after it, in-sample values as dots."""
    L = len(entries[0]["rows"])
    figure = Figure(figsize=(max(7.0, min(0.32 * L + 2, 24)), 3.6 * len(entries) + 0.8), layout="constrained")
    for ax, stored in zip(np.atleast_1d(figure.subplots(len(entries), 1, sharey=True)), entries, strict=True):
        _panel(ax, stored)
    return figure


def _panel(ax: Axes, stored: JsonObject) -> None:
    shown = drawn_estimate(stored)
    rows, level = stored["rows"], np.log10(_positive(column(stored, shown)))
    for k in range(1, len(rows)):
        low, high = sorted((level[k - 1], level[k])) if np.isfinite(level[k - 1 : k + 1]).all() else (np.nan, np.nan)
        colour = {True: LINEAR, False: NONLINEAR, None: UNKNOWN}[rows[k]["affine"]]
        hatch = "//" if rows[k]["affine"] is False else None
        ax.bar(k, max(high - low, 0.004), 0.7, low, color=colour, hatch=hatch, edgecolor="white", linewidth=0.3)
        interval = [stored_number(v) / np.log(10) for v in rows[k]["gain_interval"]]
        if np.isfinite(interval).all() and np.isfinite(level[k - 1]):
            ax.plot([k, k], level[k - 1] + np.array(interval), color="black", lw=1)
    ax.plot(np.arange(len(rows)), np.log10(_positive(column(stored, "omega"))), "o", color="black", ms=3, mfc="white")
    ax.set_title(f"{SPLITS[stored['split']]}{_epoch_text(stored)}", loc="left", fontsize=10)
    ax.set_ylabel("geometric mean of $\\omega$")
    ax.yaxis.set_major_formatter(FuncFormatter(_power_of_ten))
    names = [row["operation"] for row in rows]
    step = 1 if len(rows) <= WIDEST else 4
    ax.set_xticks(
        range(0, len(rows), step), [names[k][-22:] for k in range(0, len(rows), step)], rotation=60, ha="right", fontsize=7
    )
    nonlinear = Patch(facecolor=NONLINEAR, hatch="//", edgecolor="white", label=f"nonlinear operation, {ESTIMATE_LABELS[shown]}")
    either = Patch(color=UNKNOWN, label=f"operations of either kind, {ESTIMATE_LABELS[shown]}")  # between two layers of a log
    handles = [
        Patch(color=LINEAR, label=f"affine operation, {ESTIMATE_LABELS[shown]}"),
        either if stored["split"] == "log" else nonlinear,
        *ax.plot([], [], "o", color="black", mfc="white", ms=3, label="in sample"),
    ]
    ax.legend(handles=handles, fontsize=7, frameon=False, loc="upper left")
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(y=0.25)


def has_spectra(stored: JsonObject) -> bool:
    """Whether any omega_j is known: a table of a log has their geometric means alone."""
    return any(stored_number(value) > 0 for row in stored["omega"] for value in row)


def draw_spectra(stored: JsonObject) -> Figure:
    """Every omega_j after every operation: held out as lines, in sample dotted."""
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    ax = figure.subplots()
    for name, style, label in (("held_out", "-", "held out"), ("omega", ":", "in sample")):
        values = _positive(np.array([[stored_number(v) for v in row] for row in stored[name]]))
        for j in range(values.shape[1] if np.isfinite(values).any() else 0):
            ax.semilogy(
                values[:, j],
                style,
                marker=".",
                ms=3,
                color="black" if name == "omega" else LINEAR,
                lw=1,
                label=label if not j else None,
            )
    ax.set_xlabel("operation")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylabel("$\\omega_j$")
    ax.set_title(f"{SPLITS[stored['split']]}{_epoch_text(stored)}", loc="left", fontsize=10)
    ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def over_epochs(entries: list[JsonObject]) -> Figure:
    """The factor of every nonlinear operation over epochs, one panel a split, held out; in sample where nothing else is known."""
    splits = [split for split in SPLITS if any(e["split"] == split for e in entries)]
    figure = Figure(figsize=(7, 3.2 * len(splits)), layout="constrained")
    markers, colours = "os^Dv<>ph*", ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
    for ax, split in zip(np.atleast_1d(figure.subplots(len(splits), 1, sharex=True)), splits, strict=True):
        chosen = sorted((e for e in entries if e["split"] == split), key=lambda e: e["epoch"])
        rows = [k for k, row in enumerate(chosen[0]["rows"]) if k and row["affine"] is not True]
        for i, k in enumerate(rows):
            gains = np.exp([column(e, f"{drawn_estimate(e)}_gain")[k] for e in chosen])
            style = {"marker": markers[i % len(markers)], "color": colours[i % len(colours)], "ms": 4}
            ax.plot([e["epoch"] for e in chosen], gains, label=chosen[0]["rows"][k]["operation"], **style)
        ax.axhline(1, color="black", lw=0.6)
        ax.set_xscale("symlog", linthresh=1)
        ax.set_ylabel("factor on $\\omega$")
        ax.set_title(SPLITS[split], loc="left", fontsize=10)
        ax.legend(frameon=False, fontsize=7, ncol=2)
        ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel("epoch")
    return figure


def _epoch_text(stored: JsonObject) -> str:
    return "" if stored["epoch"] is None else f", epoch {stored['epoch']}"


def _power_of_ten(value: float, position: int | None) -> str:
    return f"{10**value:.3g}"


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where((values > 0) & np.isfinite(values), values, np.nan)
