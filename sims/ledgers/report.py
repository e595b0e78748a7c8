"""report.json, report.html and report.pdf of ledgers: the same numbers; the figures are embedded in the page."""

import io
import json
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from sims.ledgers import figures
from sims.page import base64_of, html_page
from ufm.files.json_objects import JsonObject
from ufm.files.store import provenance, write_atomically, write_text
from ufm.ledger.result import COLUMN_MEANINGS, ESTIMATES, factor_text, rank_text, shortfall_text, table_lines, value_text
from ufm.output import stored_number

TEMPLATE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Which operations cause collapse?</title>
<meta name="viewport" content="width=device-width"><style>
body{font:16px/1.5 Georgia,serif;max-width:68rem;margin:2rem auto;padding:0 1rem;color:#111;background:#fff}
h1,h2,h3{font-family:system-ui,sans-serif;line-height:1.2}h2{border-top:1px solid #ccc;padding-top:1.2rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font:13px/1.4 system-ui,sans-serif;margin:.8rem 0}
td,th{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #ddd}td:first-child,th:first-child,td.t{text-align:left}
tr.n td:first-child{border-left:.3rem solid #E69F00}tr.a td:first-child{border-left:.3rem solid #0072B2}
figure{margin:1rem 0}img{max-width:100%}p.note{border-left:.3rem solid #999;padding:.2rem .8rem;background:#f5f5f5}
@media print{h2{break-before:page}}
</style></head><body><h1>Which operations of the network cause collapse?</h1>
<p>Each row is the state of the network after an operation; &omega;<sub>j</sub> are the singular values of
&Sigma;<sub>W</sub><sup>&minus;1/2</sup>M. {{ columns }}; interval: that of the held-out x, at 95&nbsp;%. No affine operation can
raise any &omega;<sub>j</sub> of the examples it is measured on. In sample, &omega; is too large when examples are few;
corrected and held out estimate that of the population.</p>
{% for group in groups %}<h2>{{ group.title }}</h2>
<figure><img alt="Waterfall of the geometric mean of omega, operation by operation"
src="data:image/png;base64,{{ group.figure }}">
</figure>
{% for e in group.entries %}<h3>{{ e.title }}</h3>
<p>{{ e.examples }} examples, {{ e.classes|length }} classes, operations recorded by {{ e.seen }}.</p>
{% if e.note %}<p class="note">{{ e.note }}</p>{% endif %}
{% for reason in e.reasons %}<p class="note">{{ reason }}</p>{% endfor %}
{% if e.set_aside %}<p class="note">Directions that a single example dominates (up to {{ e.set_aside }}) are left out of the
corrected and held-out values.</p>{% endif %}
{% if e.reduced %}<p class="note">~ marks states reduced to fewer features: &omega; is a lower bound there, and a linear
operation may seem to have a gain{{ e.shortfall }}.</p>{% endif %}
{% if e.unresolved %}<p class="note">^ marks states with a direction whose variation is hidden by rounding, while a finite &omega;
explains its signal: it is left out, and &omega; is a lower bound there. It also marks states in which the rounding of a linear
operation seems to raise &omega;. float64 would resolve it, or a smaller mean of the features.</p>{% endif %}
<div class="scroll"><table><tr><th>operation</th><th>kind</th><th>rank</th><th>in sample</th><th>x</th>
<th>corrected</th><th>x</th><th>held out</th><th>x</th><th>interval</th></tr>
{% for r in e.table %}<tr class="{{ r.mark }}"><td>{{ r.operation }}</td><td class="t">{{ r.kind }}</td><td>{{ r.rank }}</td>
{% for cell in r.cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% if e.forces %}<h4>Forces on the parameters</h4>
<p>The gradients J<sup>T</sup>G of a parameter that belong to class means and to deviations. At a cosine of &minus;1 they
balance.</p>
<div class="scroll"><table><tr><th>parameter</th><th>means</th><th>deviations</th><th>sum / means</th><th>cosine</th>
<th>cosine with decay</th><th>sum / decay</th>
<th>cosine with momentum</th></tr>
{% for f in e.forces %}<tr><td>{{ f.parameter }}</td>{% for cell in f.cells %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}
</table></div>{% endif %}
{% endfor %}
{% if group.spectra %}<figure><img alt="Every omega_j after every operation" src="data:image/png;base64,{{ group.spectra }}">
</figure>{% endif %}
{% endfor %}
{% if over %}<h2>Over epochs</h2><figure><img alt="Factors of the nonlinear operations over epochs"
src="data:image/png;base64,{{ over }}"></figure>{% endif %}
{% for group in groups if group.columns %}{% if loop.first %}<h2>Learned and memorised</h2><p>What an operation does to examples
not trained on is learned; what it does beyond that to the training examples is memorised. Both are held-out estimates.</p>
{% endif %}<h3>{{ group.title }}</h3><div class="scroll"><table>
<tr><th>operation</th><th>training</th><th>not trained on</th><th>ratio</th></tr>
{% for row in group.columns %}<tr><td>{{ row[0] }}</td>{% for cell in row[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}
</table></div>{% endfor %}
<p><small>{{ provenance }}</small></p></body></html>
"""


def write_ledger_report(entries: list[JsonObject], out: Path) -> None:
    """Write DIR/report.json, DIR/report.html and DIR/report.pdf, each atomically."""
    out.mkdir(parents=True, exist_ok=True)
    facts = provenance()
    write_text(out / "report.json", json.dumps({"ledgers": entries, "provenance": facts}, indent=1, allow_nan=False) + "\n")
    together = _groups(entries)
    over = figure_over_epochs(entries)
    with rc_context({"savefig.dpi": 130}):
        groups = [_group_shown(title, members) for title, members in together.items()]
        html = html_page(
            TEMPLATE,
            columns=COLUMN_MEANINGS,
            groups=groups,
            over=None if over is None else base64_of(over),
            provenance=json.dumps(facts),
        )
    write_text(out / "report.html", html)
    write_atomically(out / "report.pdf", lambda file: _write_pdf(file, together, over))


def figure_over_epochs(entries: list[JsonObject]) -> Figure | None:
    """The figure over epochs where there are several of one source, else None."""
    several = len({e["epoch"] for e in entries}) > 1 and len({e["source"] for e in entries}) == 1
    return figures.over_epochs(entries) if several and all(e["epoch"] is not None for e in entries) else None


def _groups(entries: list[JsonObject]) -> dict[str, list[JsonObject]]:
    """Splits of one source and epoch together."""
    groups: dict[str, list[JsonObject]] = {}
    for e in entries:
        epoch = "" if e["epoch"] is None else f", epoch {e['epoch']}"
        groups.setdefault(f"{e['source']}{epoch}", []).append(e)
    return groups


def _group_shown(title: str, members: list[JsonObject]) -> JsonObject:
    return {
        "title": title,
        "entries": [_shown(e) for e in members],
        "figure": base64_of(figures.waterfall(members)),
        "spectra": base64_of(figures.draw_spectra(members[0])) if figures.has_spectra(members[0]) else None,
        "columns": _held_out_columns(members),
    }


def _shown(e: JsonObject) -> JsonObject:
    reasons = sorted({row["reason"] for row in e["rows"] if row["reason"]})
    forces = [{"parameter": f["parameter"], "cells": [short(f[name]) for name in FORCES]} for f in e["forces"] or []]
    reduced = any(row["reduced"] for row in e["rows"])
    shown = {key: e[key] for key in ("examples", "classes", "seen", "note")}
    return shown | {
        "title": figures.SPLITS[e["split"]],
        "reasons": reasons,
        "reduced": reduced,
        "shortfall": shortfall_text(e["rows"]),
        "unresolved": any(row["unresolved"] for row in e["rows"]),
        "set_aside": max(row["set_aside"] for row in e["rows"]),
        "forces": forces,
        "table": [_row(k, row) for k, row in enumerate(e["rows"])],
    }


FORCES = ("means", "deviations", "ratio", "cosine", "decay_cosine", "decay_ratio", "momentum_cosine")


def _row(position: int, row: JsonObject) -> JsonObject:
    gains = {name: factor_text(stored_number(row[f"{name}_gain"])) if position else "" for name in ESTIMATES}
    low, high = (factor_text(stored_number(v)) for v in row["gain_interval"])
    interval = low if low == "-" else f"{low} – {high}"
    return {
        **{k: row[k] for k in ("operation", "kind")},
        "rank": rank_text(row),
        "mark": {True: "a", False: "n", None: ""}[row["affine"]],
        "cells": [
            *(text for name in ESTIMATES for text in (value_text(row[name]), gains[name])),
            interval if position else "",
        ],
    }


def _held_out_columns(members: list[JsonObject]) -> list[list[str]]:
    by_split = {e["split"]: e["rows"] for e in members}
    if not {"train", "test"} <= by_split.keys():
        return []
    columns = []
    for a, b in zip(by_split["train"][1:], by_split["test"][1:], strict=True):
        first, second = stored_number(a["held_out_gain"]), stored_number(b["held_out_gain"])
        columns.append([a["operation"], factor_text(first), factor_text(second), factor_text(first - second)])
    return columns


def short(value: float | str | None) -> str:
    """A number in three digits, empty where there is none."""
    value = stored_number(value)
    return "" if np.isnan(value) else f"{value:.3g}"


def _write_pdf(file: Any, groups: dict[str, list[JsonObject]], over: Figure | None) -> None:
    buffer = io.BytesIO()
    with PdfPages(buffer) as pdf:
        for title, members in groups.items():
            figure = figures.waterfall(members)
            figure.suptitle(title, fontsize=9)
            pdf.savefig(figure)
            for e in members:
                for page in _table_pages(title, e):
                    pdf.savefig(page)
        if over is not None:
            pdf.savefig(over)
    file.write(buffer.getvalue())


LINES_A_PAGE = 45


def _table_pages(title: str, e: JsonObject) -> list[Figure]:
    """The table as pages of text."""
    head, *rest = table_lines(e["rows"], e["note"])
    lines = [part for line in rest for part in wrap(line, len(head))]
    pages = []
    for start in range(0, len(lines), LINES_A_PAGE):
        page = Figure(figsize=(8.3, 11.7))
        text = "\n".join([f"{title}, {figures.SPLITS[e['split']]}", "", head, *lines[start : start + LINES_A_PAGE]])
        page.text(0.06, 0.95, text, family="monospace", fontsize=7, va="top")
        pages.append(page)
    return pages
