"""A page on one network: its measures, what is undefined and why, its figures, embedded."""

from collections.abc import Iterator, Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sims.page import base64_of, html_page
from sims.training.log_figures import LoggedRun, layers_overview, overview
from ufm.files.json_objects import JsonObject
from ufm.monitor.measurement import MOST_FEATURES, NO_LAMBDA, Measurement

TEMPLATE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<meta name="viewport" content="width=device-width"><style>
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#111;background:#fff}
table{border-collapse:collapse;font-size:14px;margin:.8rem 0}
td,th{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}figure{margin:1rem 0;overflow-x:auto}img{max-width:100%}
@media screen and (max-width:40rem){img{max-width:none;width:40rem}table.measures,.measures tbody{display:block;width:100%}
.measures tr{display:grid;grid-template-columns:1fr auto;border-bottom:1px solid #ddd}.measures td,.measures th{border:0}
.measures td:nth-child(3){grid-column:1/-1;padding-top:0;color:#444}.measures td:empty,.measures th:empty{display:none}}
@media print{body{max-width:none;margin:0;font-size:13px}tr,figure{break-inside:avoid}table{font-size:11px}
td,th{padding:.1rem .5rem}img{max-height:23cm}figure+figure img{max-height:5cm}}
</style></head><body><h1>{{ title }}</h1>
{% if facts %}<table>{% for name, value in facts.items() %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>{% endfor %}</table>
{% endif %}<h2>Epoch {{ epoch }}</h2>
<table class="measures"><tr><th>measure</th><th>value</th><th></th></tr>{% for name, value, note in rows -%}
<tr><td>{{ name }}</td><td class="n">{{ value }}</td><td>{{ note }}</td></tr>{% endfor %}</table>
{% for caption, data in figures %}<figure><img alt="{{ caption }}" src="data:image/png;base64,{{ data }}">
<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}</body></html>"""
MEANINGS = {
    "train_error": "share of examples that the classifier gets wrong",
    "nc1": "tr(Sigma_W Sigma_B^+) / C: variability within classes relative to that between them",
    "nc2_equinorm": "relative spread of the lengths of the centred class means",
    "nc2_equiangular": "spread of the cosines between them",
    "nc2_maxangle": "mean distance of those cosines from -1/(C-1)",
    "nc3": "squared distance of normalised W^T and centred class means",
    "nc4": "share of examples on which classifier and nearest class mean disagree",
    "loss": "squared loss of Eq. 2 at lambda",
    "loss_nc1": "its part due to the variability within classes",
    "loss_nc23": "its part due to the class means",
    "loss_perp": "its part due to the distance from the least-squares classifier",
    "nc2_equinorm_w": "relative spread of the lengths of the rows of W",
    "nc2_equiangular_w": "spread of the cosines between the rows of W",
    "nc2_maxangle_w": "mean distance of the cosines of the rows of W from -1/(C-1)",
    "dropped": "directions without variability within classes, which omega leaves out",
    "lost_signal": "share of the squared norm of the centred class means along the directions left out",
    "robustness": "mean DeepFool perturbation relative to the length of an image",
    "error": "share of examples that the classifier gets wrong",
    "nc0": "length of the sum of the rows of W",
    "ncc_accuracy": "share of examples whose nearest class mean is that of their label",
    "effective_rank": "exp of the entropy of the singular values of the centred features",
    "omega_geometric_mean": "geometric mean of the singular values of the SNR",
    "gain": "log of the geometric mean of omega minus that of the layer before",
    "omega_rounding": "relative error of omega by rounding, estimated",
    "examples": "examples measured",
    "classes_seen": "classes that have examples",
    "learning_rate": "learning rate of the epoch, as it was logged",
    "nc1_train_means": "nc1 about the class means of the training set",
}


def page(title: str, record: LoggedRun, last: Measurement | None = None) -> str:
    """The page of a network with one or several measured epochs; `last` has the reasons of what is undefined at the last."""
    several = len(record.columns["epoch"]) > 1
    figures = [("Measures against the epoch", overview([record]))] if several else []
    layers = layers_overview(record)
    if layers is not None:
        figures.append(("Layers against the epoch", layers))
    if "omega" in record.columns:
        figures.append(
            ("Spectrum of the last epoch: the singular values of SNR, descending", spectrum_figure(record.columns["omega"][-1]))
        )
    return html_page(
        TEMPLATE,
        title=title,
        facts=record.facts,
        epoch=int(record.columns["epoch"][-1]),
        rows=_rows(record.columns, {} if last is None else last.reasons),
        figures=[(caption, base64_of(figure, dpi=120)) for caption, figure in figures],
    )


def known_facts(run: LoggedRun) -> JsonObject:
    """What is known of the training of a run, with the lambda of its loss, which a log need not have been told."""
    lam = float(run.columns.get("lambda", np.nan))
    facts = {name: value for name, value in run.facts.items() if value is not None}
    return facts | ({"lambda": lam} if np.isfinite(lam) else {})


def lambda_notes(run: LoggedRun, given: float | None) -> dict[str, str]:
    """Why the loss of a run is undefined, and what became of a lambda that was given for it."""
    stored = float(run.columns.get("lambda", np.nan))
    if given is not None and given != stored:
        return {"lambda": f"the run was measured at {stored:g}, which is kept: the {given:g} given does not apply to it"}
    if "loss" not in run.columns or np.isfinite(run.columns["loss"]).any():
        return {}
    none = f"the folder has no class statistics with a classifier (they are kept up to P = {MOST_FEATURES})"
    of = NO_LAMBDA if given is None else f"{none}, from which it is split at lambda = {given:g}"
    return {"loss": of}


def _rows(columns: Mapping[str, np.ndarray], reasons: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """(measure, value, what it is or why it is undefined) of the last epoch."""
    length = len(columns["epoch"])
    names = [name for name in columns if columns[name].shape == (length,) and name not in ("epoch", "counts")]
    for name in (*(name for name in MEANINGS if name in names), *(name for name in sorted(names) if name not in MEANINGS)):
        value = float(columns[name][-1])
        defined = np.isfinite(value)
        yield name, f"{value:.6g}" if defined else "undefined", _meaning(name) if defined else reasons.get(name, "")


def _meaning(name: str) -> str:
    """What a measure is; `test_` before its name says that it is the test set's, LAYER/ that it is a layer's."""
    layer, _, name = name.rpartition("/")
    meaning = MEANINGS.get(name.removeprefix("test_"), "")
    if layer:
        return f"layer {layer}: {meaning}" if meaning else ""
    return f"test set: {meaning}" if meaning and name.startswith("test_") else meaning


def spectrum_figure(omega: np.ndarray) -> Figure:
    """Singular values of SNR by their number."""
    figure = Figure(figsize=(6, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(np.arange(1, len(omega) + 1), np.where(omega > 0, omega, np.nan), "o-", color="#0072B2", markersize=3, linewidth=1)
    if (omega > 0).any():
        axes.set_yscale("log")
    axes.set_xlabel("j")
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
    axes.set_ylabel("$\\omega_j$")
    axes.grid(color="0.9", linewidth=0.6)
    return figure
