"""Figures of ledgers: the waterfall of an epoch, every omega_j, and gains over epochs. Colours of Okabe and Ito, and hatches."""

from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

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
    figure = Figure(figsize=(_width(L), 3.6 * len(entries) + 0.8), layout="constrained")
    for ax, stored in zip(np.atleast_1d(figure.subplots(len(entries), 1, sharey=True)), entries, strict=True):
        _panel(ax, stored)
    return figure


def _panel(ax: Axes, stored: JsonObject) -> None:
    shown = drawn_estimate(stored)
    rows, level = stored["rows"], _positive(column(stored, shown))
    for k in range(1, len(rows)):
        low, high = sorted((level[k - 1], level[k])) if np.isfinite(level[k - 1 : k + 1]).all() else (np.nan, np.nan)
        colour = {True: LINEAR, False: NONLINEAR, None: UNKNOWN}[rows[k]["affine"]]
        hatch = "//" if rows[k]["affine"] is False else None
        ax.bar(k, max(high - low, 0.01 * low), 0.7, low, color=colour, hatch=hatch, edgecolor="white", linewidth=0.3)
        interval = np.exp([stored_number(v) for v in rows[k]["gain_interval"]])
        if np.isfinite(interval).all() and np.isfinite(level[k - 1]):
            ax.plot([k, k], level[k - 1] * interval, color="black", lw=1)
    ax.plot(np.arange(len(rows)), _positive(column(stored, "omega")), "o", color="black", ms=3, mfc="white")
    ax.set_title(f"{SPLITS[stored['split']]}{_epoch_text(stored)}", loc="left", fontsize=10, pad=20)
    ax.set_ylabel("geometric mean of $\\omega$")
    _log_axis_in_plain_numbers(ax)
    _name_operations(ax, rows)
    nonlinear = Patch(facecolor=NONLINEAR, hatch="//", edgecolor="white", label=f"nonlinear operation, {ESTIMATE_LABELS[shown]}")
    either = Patch(color=UNKNOWN, label=f"operations of either kind, {ESTIMATE_LABELS[shown]}")  # in a log, and seen by hooks
    kinds = {row["affine"] for row in rows[1:]}
    handles = [
        *([Patch(color=LINEAR, label=f"affine operation, {ESTIMATE_LABELS[shown]}")] if True in kinds else []),
        *([nonlinear] if False in kinds else []),
        *([either] if None in kinds else []),
        *ax.plot([], [], "o", color="black", mfc="white", ms=3, label="in sample"),
    ]
    _legend_under_title(ax, handles)
    ax.spines[["top", "right"]].set_visible(False)


def has_spectra(stored: JsonObject) -> bool:
    """Whether any omega_j is known: a table of a log has their geometric means alone."""
    return any(stored_number(value) > 0 for row in stored["omega"] for value in row)


def draw_spectra(stored: JsonObject) -> Figure:
    """Every omega_j after every operation: held out as lines, in sample dotted."""
    figure = Figure(figsize=(_width(len(stored["rows"])), 4.2), layout="constrained")
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
    _log_axis_in_plain_numbers(ax)
    _name_operations(ax, stored["rows"])
    ax.set_ylabel("$\\omega_j$")
    ax.set_title(f"{SPLITS[stored['split']]}{_epoch_text(stored)}", loc="left", fontsize=10, pad=20)
    _legend_under_title(ax, ax.get_legend_handles_labels()[0])
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
        ax.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
        ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel("epoch")
    return figure


def _epoch_text(stored: JsonObject) -> str:
    return "" if stored["epoch"] is None else f", epoch {stored['epoch']}"


def _width(rows: int) -> float:
    return max(7.0, min(0.32 * rows + 2, 24))


def _name_operations(ax: Axes, rows: list[JsonObject]) -> None:
    step = 1 if len(rows) <= WIDEST else 4
    named = range(0, len(rows), step)
    ax.set_xticks(named, [rows[k]["operation"][-22:] for k in named], rotation=60, ha="right", fontsize=7)


def _legend_under_title(ax: Axes, handles: Sequence[Artist]) -> None:
    ax.legend(handles=handles, fontsize=7, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, ncols=3)


def _log_axis_in_plain_numbers(ax: Axes) -> None:
    """Ticks at 1, 2, 5, 10 ..., at 3 and 7 too where the values span less than a decade."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 10 * low else (1, 2, 3, 5, 7)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where((values > 0) & np.isfinite(values), values, np.nan)
