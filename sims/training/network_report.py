"""A page on one network: its measures, what is undefined and why, its figures; nothing to fetch."""

import base64
import html
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sims.training.log_figures import LoggedRun, overview
from ufm.monitor.measurement import Measurement

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#111;background:#fff}
table{border-collapse:collapse;font-size:14px;margin:.8rem 0}
td,th{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}figure{margin:1rem 0;overflow-x:auto}img{max-width:100%}
@media screen and (max-width:40rem){img{max-width:none;width:40rem}}
@media print{body{max-width:none;margin:0}tr,figure{break-inside:avoid}}
"""
MEANINGS = {
    "train_error": "share of examples that the classifier gets wrong",
    "nc1": "tr(Sigma_W Sigma_B^+) / C: variability within classes beside that between them",
    "nc2_equinorm": "relative spread of the lengths of the centred class means",
    "nc2_equiangular": "spread of the cosines between them",
    "nc2_maxangle": "mean distance of those cosines from -1/(C-1)",
    "nc3": "squared distance of normalised W^T and centred class means",
    "nc4": "share of examples on which classifier and nearest class mean disagree",
    "loss": "squared loss of Eq. 2 at lambda",
    "loss_nc1": "its part of variability",
    "loss_nc23": "its part of the class means",
    "loss_perp": "its part of the distance from the least-squares classifier",
    "nc2_equinorm_w": "relative spread of the lengths of the rows of W",
    "nc2_equiangular_w": "spread of the cosines between the rows of W",
    "nc2_maxangle_w": "mean distance of the cosines of the rows of W from -1/(C-1)",
    "dropped": "directions without variability within classes, which omega leaves out",
    "lost_signal": "share of the squared norm of the centred class means along the directions left out",
    "robustness": "mean DeepFool perturbation relative to the length of an image",
    "error": "share of examples that the classifier gets wrong",
    "nc1_train_means": "nc1 about the class means of the training set",
}


def page(title: str, record: LoggedRun, last: Measurement | None = None) -> str:
    """The page of a network with one or several measured epochs; `last` has the reasons of what is undefined at the last."""
    several = len(record.columns["epoch"]) > 1
    figures = [("Measures against the epoch", overview([record]))] if several else []
    if "omega" in record.columns:
        figures.append(
            ("Spectrum of the last epoch: the singular values of SNR, descending", _spectrum(record.columns["omega"][-1]))
        )
    reasons = {} if last is None else last.reasons
    parts = [
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title>",
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>",
        _facts(record.facts),
        f"<h2>Epoch {int(record.columns['epoch'][-1])}</h2>",
        _table(record.columns, reasons),
        *(_figure(caption, figure) for caption, figure in figures),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _facts(facts: Mapping[str, Any]) -> str:
    rows = [f"<tr><td>{html.escape(str(name))}</td><td>{html.escape(str(value))}</td></tr>" for name, value in facts.items()]
    return f"<table>{''.join(rows)}</table>" if rows else ""


def _table(columns: Mapping[str, np.ndarray], reasons: Mapping[str, str]) -> str:
    length = len(columns["epoch"])
    names = [name for name in columns if columns[name].shape == (length,) and name not in ("epoch", "counts")]
    ordered = [*(name for name in MEANINGS if name in names), *(name for name in sorted(names) if name not in MEANINGS)]
    rows = []
    for name in ordered:
        value = float(columns[name][-1])
        shown = f"{value:.6g}" if np.isfinite(value) else "undefined"
        note = _meaning(name) if np.isfinite(value) else reasons.get(name, "")
        rows.append(f"<tr><td>{html.escape(name)}</td><td class='n'>{shown}</td><td>{html.escape(note)}</td></tr>")
    return f"<table><tr><th>measure</th><th>value</th><th></th></tr>{''.join(rows)}</table>"


def _meaning(name: str) -> str:
    """What a measure is; `test_` before its name says that it is the test set's."""
    meaning = MEANINGS.get(name.removeprefix("test_"), "")
    return f"test set: {meaning}" if meaning and name.startswith("test_") else meaning


def _spectrum(omega: np.ndarray) -> Figure:
    figure = Figure(figsize=(6, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(np.arange(1, len(omega) + 1), np.where(omega > 0, omega, np.nan), "o-", color="#0072B2", markersize=3, linewidth=1)
    if (omega > 0).any():
        axes.set_yscale("log")
    axes.set_xlabel("j")
    axes.set_ylabel("$\\omega_j$")
    axes.grid(color="0.9", linewidth=0.6)
    return figure


def _figure(caption: str, figure: Figure) -> str:
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    data, text = base64.b64encode(image.getvalue()).decode(), html.escape(caption, quote=True)
    return f"<figure><img alt='{text}' src='data:image/png;base64,{data}'><figcaption>{text}</figcaption></figure>"
