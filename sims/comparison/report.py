"""report.json and report.html: the same numbers, the second with embedded figures."""

import json
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from sims.comparison import figures as drawing
from sims.comparison.analysis import Choice, Group
from sims.comparison.clock_free import clock_free_figure, clock_free_rows
from sims.comparison.numbers import numbers
from sims.comparison.tables import (
    Part,
    clock_table,
    description_table,
    heading,
    html_table,
    laws_table,
    models_table,
    outcome_label,
    overview_table,
    reason_unless_of_runs,
    runs_table,
    sentence,
)
from sims.page import base64_of, html_page
from ufm.compare.verdict import LawRule
from ufm.files.json_objects import JsonObject
from ufm.files.store import provenance, write_atomically, write_text
from ufm.output import json_values

TEMPLATE = """{% macro table(t) %}<table><thead><tr>
{%- for cell in t.heads %}<th>{{ cell }}</th>{% endfor %}</tr></thead><tbody>
{%- for row in t.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</tbody></table>
{%- if t.caption %}<p><small>{{ t.caption }}</small></p>{% endif %}{% endmacro -%}
{% macro figure(f) %}<figure><img alt="{{ f.caption }}" src="data:image/svg+xml;base64,{{ f.data }}">
<figcaption>{{ f.caption }}</figcaption></figure>{% endmacro -%}
{% macro shown(part) %}{% if part.data %}{{ figure(part) }}{% elif part.rows %}{{ table(part) }}{% else %}
<h3>{{ part.caption }}</h3>{% endif %}{% endmacro -%}
{% macro details(title, text) %}<details open><summary>{{ title }}</summary><pre>{{ text }}</pre></details>{% endmacro -%}
<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Which law do these runs follow?</title>
<meta name="viewport" content="width=device-width"><style>
body{font:16px/1.5 Georgia,serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#111;background:#fff}
h1,h2,h3{font-family:system-ui,sans-serif;line-height:1.2}h2{border-top:1px solid #ccc;padding-top:1.2rem;margin-top:2.4rem}
table{border-collapse:collapse;font:14px/1.4 system-ui,sans-serif;margin:.8rem 0}
td,th{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #ddd;vertical-align:top}
td:first-child,th:first-child,td.t{text-align:left}
figure{margin:1rem 0}figcaption{font-size:.9rem;color:#333}img{max-width:100%}
.verdict{font-size:1.2rem;border-left:.4rem solid #0072B2;padding:.4rem .9rem;background:#f3f6f9}
details{margin:.6rem 0}pre{font-size:12px;white-space:pre-wrap;overflow-wrap:anywhere}
@media print{body{max-width:none;margin:0}h2{break-before:page}figure,table{break-inside:avoid}}
</style></head><body>
<h1>Which law do these runs follow?</h1>
<p class="verdict">Verdict: <b>{{ label }}</b>. {{ reason }}</p>
{% if reminder %}<p><b>Note:</b> {{ reminder }}</p>{% endif %}
<p>Outcomes: <b>named</b>, one model is left and explains the growth; <b>undecided</b>, those left cannot be told apart or
explain too little; <b>refuted</b>, every model is; <b>not compared</b>, too little could be used.</p>
{{ table(overview) }}
{% for group in groups %}<h2>{{ group.name }}</h2>
<p class="verdict"><b>{{ group.label }}</b>{% if group.reason %}: {{ group.reason }}{% endif %}</p>
{% for part in group.parts %}{{ shown(part) }}
{% endfor %}{{ details("Configuration", group.configuration) }}
{% endfor %}<h2>Description: the exponent p</h2>
<p>The singular values &omega;<sub>j</sub> of the features' signal-to-noise matrix, u = &omega;&sup2;/C, obey
d log u / dt &prop; (1+u)<sup>&minus;p</sup> under each exact law: p = 1 renormalized flow, p = 2 embedded flow,
p = 0 unnormalized flow from &Sigma;<sub>T</sub> = I. The exponent describes a run; from other starts the unnormalized
flow has any exponent, so it identifies no law and no verdict rests on it.</p>
{{ table(description) }}
{% if exponents %}{{ figure(exponents) }}{% endif %}
{{ details("Rule and provenance", provenance) }}
</body></html>
"""


def write_report(groups: list[Group], choice: Choice, rule: LawRule, out: Path, choices: int = 1) -> JsonObject:
    """Write DIR/report.json, DIR/report.html and its figures as DIR/figures.pdf, atomically, and return the numbers."""
    report = json_values(numbers(groups, choice, rule, choices) | {"provenance": provenance()})
    out.mkdir(parents=True, exist_ok=True)
    page = _page(report, groups, choice)
    write_text(out / "report.html", html_page(TEMPLATE, **page))
    write_text(out / "report.json", json.dumps(report, separators=(",", ":"), allow_nan=False) + "\n")
    parts = [page["exponents"], *(part for section in page["groups"] for part in section["parts"])]
    drawn = [part["figure"] for part in parts if "figure" in part]
    write_atomically(out / "figures.pdf", lambda file: drawing.write_pdf(drawn, file))
    return report


def _page(report: dict[str, Any], groups: list[Group], choice: Choice) -> dict[str, Any]:
    """What the template shows; every name and number of it is text there, whatever characters it holds."""
    caption = "Exponent of every group of runs with its bootstrap interval, and the laws'."
    return {
        "label": outcome_label(report),
        "reason": sentence(report["reason"]),
        "reminder": sentence(report["reminder"]) if report["reminder"] else "",
        "overview": overview_table(report),
        "description": description_table(report),
        "exponents": _figure(drawing.exponent_figure({"": groups}), caption),
        "groups": [_section(*pair, choice) for pair in zip(groups, report["groups"], strict=True)],
        "provenance": _json({key: report[key] for key in ("rule", "epochs", "provenance")}),
    }


def _section(group: Group, values: dict[str, Any], choice: Choice) -> dict[str, Any]:
    return {
        "name": group.name,
        "label": outcome_label(values),
        "reason": reason_unless_of_runs(values),
        "parts": _parts(group, values, choice),
        "configuration": _json({run["name"]: run["config"] for run in values["runs"]}),
    }


def _parts(group: Group, values: JsonObject, choice: Choice) -> list[Part]:
    """Tables and figures of a group, in their order."""
    parts = [
        runs_table(values),
        models_table(values),
        _figure(
            drawing.proximity_figure(group, choice.fraction),
            "Proximity to the central path (the claim of the paper's Figure 2), every run of the group.",
        ),
    ]
    first = next((k for k, comparison in enumerate(group.comparisons) if comparison.window.compared is not None), None)
    if first is not None:
        name = group.runs[first].name
        comparison = group.comparisons[first]
        parts += [
            *_clock_free(group, first),
            heading("Description: the three closed laws"),
            laws_table(values),
            _figure(
                drawing.drift_figure(comparison),
                f"Clock-free test, {name}: drift, since the start of the comparison, of each law's invariants: measured, and as "
                "each law would show it. A law that holds keeps its own at zero.",
            ),
            _figure(
                drawing.clock_figure(group, first),
                f"{name}: the laws started from the features of the entry, at the monotone clock that suits each best; the "
                "clocks (dotted: changes of the learning rate); what remains.",
            ),
            clock_table(values["runs"][first]),
            _figure(
                drawing.vectors_figure(group),
                "Every law keeps its singular vectors; the angles measured with those of the start, every run.",
            ),
            _figure(
                drawing.spectra_figure(group, first),
                f"{name}: spread, losses and collapse of the renormalized features, measured from ω and V, and as the laws "
                "have them.",
            ),
        ]
    return [part for part in parts if part]


def _clock_free(group: Group, member: int) -> list[Part]:
    tests = group.clock_free[member]
    assert tests is not None
    rows, name = clock_free_rows(tests), group.runs[member].name
    caption = (
        f"{name}: tests of plain gradient descent on free features that need no clock, from the class statistics of "
        f"{len(tests.epochs)} epochs, with 95 % bootstrap intervals. " + "; ".join(tests.notes)
    )
    table = html_table(["test", "measured", "plain descent"], rows, caption) if rows else {}
    return [table, _figure(clock_free_figure(tests), f"{name}: the same over its epochs.")]


def _figure(figure: Figure | None, caption: str) -> Part:
    """The figure as the text of an address; an empty part, which the page leaves out, for None."""
    if figure is None:
        return {}
    engine = figure.get_layout_engine()
    if engine is not None:  # laid out once, for both formats
        engine.execute(figure)
        figure.set_layout_engine(None)
    with rc_context({"svg.hashsalt": "report"}):  # the same report twice is the same bytes
        data = base64_of(figure, "svg", metadata={"Date": None})
    return {"rows": None, "data": data, "caption": caption, "figure": figure}


def _json(value: object) -> str:
    return json.dumps(value, indent=1, sort_keys=True)
