"""The report of a ladder: ladder.json, ladder.md and ladder.html with the same table, and its figure as PNG and PDF."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sims.page import base64_of, html_page
from sims.rungs.rung import Rung
from sims.rungs.summary import RungResult, result_of
from ufm.compare.outcome import NOT_COMPARED
from ufm.files.json_objects import JsonObject, read_json
from ufm.files.plot import BLACK, BLUE, GREEN, ORANGE, RED, save_figure
from ufm.files.store import provenance, write_text
from ufm.output import json_values, stored_number

HEADS = (
    ("rung", ""),
    ("models left", ""),
    ("growth", "growth"),
    ("change of Sigma_T", "sigma_t_left"),
    ("signal share", "signal_share"),
    ("plain flow's", "plain_share"),
    ("means, -G", "cosine_means_gradient"),
    ("deviations, -G", "cosine_deviations_gradient"),
    ("means, -Theta G", "cosine_means_kernel"),
    ("deviations, -Theta G", "cosine_deviations_kernel"),
    ("forces: cosine", "force_cosine"),
    ("forces: sum / means", "force_ratio"),
)
CAPTION = (
    "Medians over the seeds. Models left: those that are not refuted at 95 %; one in bold is named. Growth: of the geometric "
    "mean of omega over the epochs compared. Change of Sigma_T: |T1 - c T0| / |c T0| of the total covariance, c the common "
    "factor; 0 under the plain flow. Signal share: the share of that growth that is due to the class means (the rest is due to "
    "the shrinking of Sigma_W); then the same share for the plain flow from the same start. Cosines of the change of the "
    "features in the next step with -G, G = dL/dH, and with -Theta G, Theta the network's neural tangent kernel, for class "
    "means and for deviations. Forces: cosine of the parameter gradients J^T G of means and of deviations (-1: they balance), "
    "and the norm of their sum over that of the means."
)
TEMPLATE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>From free features to a network</title>
<meta name="viewport" content="width=device-width"><style>
body{font:16px/1.5 Georgia,serif;max-width:80rem;margin:2rem auto;padding:0 1rem;color:#111;background:#fff}
h1,h2{font-family:system-ui,sans-serif;line-height:1.2}.scroll{overflow-x:auto}
table{border-collapse:collapse;font:13px/1.4 system-ui,sans-serif;margin:.8rem 0}
td,th{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #ddd;vertical-align:top}
td:first-child,th:first-child,td:nth-child(2),th:nth-child(2){text-align:left}img{max-width:100%}pre{white-space:pre-wrap}
@media print{body{max-width:none;margin:0}.scroll{overflow:visible}table{font-size:8px}h2{break-before:page}}
</style></head><body><h1>From free features to a network, one more ingredient per rung</h1>
<p>{{ data }} {{ caption }}</p><div class="scroll"><table><tr>{% for head in heads %}<th>{{ head }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table></div>
<figure><img alt="Cosines and shares of every rung" src="data:image/png;base64,{{ figure }}"></figure>
<h2>Every rung</h2>{% for r in reasons %}<p><b>{{ r.name }}</b> ({{ r.adds }}; {{ r.runs }} runs):
{{ r.outcome }}, {{ r.reason }}.
{% for note in r.notes %}{{ note }}. {% endfor %}</p>{% endfor %}
<h2>Provenance</h2><pre>{{ provenance }}</pre></body></html>
"""


def result_numbers(result: RungResult) -> JsonObject:
    """One rung as report.json and `--json` have it: verdict, models left, and median, least and largest of every quantity."""
    selection = result.group.selection
    names = ("median", "least", "largest")
    return {
        "rung": result.rung.name,
        "adds": result.rung.adds,
        "runs": len(result.group.runs),
        "expected": result.rung.expected or None,
        "outcome": selection.outcome,
        "verdict": selection.name or None,
        "compatible": list(selection.compatible),
        "reason": selection.reason,
        "notes": [*result.group.entry_notes, *_window_notes(result)],
        "quantities": {name: dict(zip(names, result.middle(name), strict=True)) for name in result.values},
        "values": result.values,
    }


def not_judged(rung: Rung, runs: int, reason: str) -> JsonObject:
    """The same of a rung whose runs could not be compared: no quantity, no model left, and why."""
    numbers = {"rung": rung.name, "adds": rung.adds, "runs": runs, "expected": rung.expected or None, "outcome": NOT_COMPARED}
    lists, tables = list[str](), JsonObject()
    return numbers | {
        "verdict": None,
        "compatible": lists,
        "reason": reason,
        "notes": lists,
        "quantities": tables,
        "values": tables,
    }


def _window_notes(result: RungResult) -> list[str]:
    pairs = zip(result.group.runs, result.group.comparisons, strict=True)
    return [f"{run.name}: {comparison.window.reason}" for run, comparison in pairs if comparison.window.compared is None]


def ladder_rows(rungs: Sequence[JsonObject]) -> list[list[str]]:
    """A row a rung, in the order of HEADS."""
    rows = []
    for rung in rungs:
        left = ", ".join(f"**{name}**" if name == rung["verdict"] else name for name in rung["compatible"])
        row = [rung["rung"], left or rung["outcome"]]
        quantities = rung["quantities"]
        row += [_short_number(quantities.get(key, {}).get("median")) for _, key in HEADS[2:]]
        rows.append(row)
    return rows


def markdown(rungs: Sequence[JsonObject]) -> str:
    """The table for a page of the documentation."""
    heads = [head for head, _ in HEADS]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in ladder_rows(rungs))]) + "\n"


def ladder_figure(rungs: Sequence[JsonObject]) -> Figure:
    """What the features do next against -G and -Theta G, and the share of the signal, every rung from left to right."""
    figure = Figure(figsize=(10.0, 6.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    x = np.arange(len(rungs))
    series = (
        (upper, "cosine_means_gradient", "means, with $-G$", BLUE, "o-"),
        (upper, "cosine_deviations_gradient", "deviations, with $-G$", ORANGE, "s-"),
        (upper, "force_cosine", "forces of means and deviations", RED, "^:"),
        (lower, "signal_share", "share of the signal in the growth of $\\omega$", BLACK, "o-"),
        (lower, "plain_share", "that of the plain flow from the same start", GREEN, "s--"),
    )
    for axes, key, label, color, style in series:
        rows = [rung["quantities"].get(key, {}) for rung in rungs]
        middle, low, high = (np.array([stored_number(row.get(name)) for row in rows]) for name in ("median", "least", "largest"))
        error, look = [middle - low, high - middle], {"fmt": style, "color": color, "label": label}
        axes.errorbar(x, middle, error, markersize=4, capsize=2, linewidth=1, **look)
    upper.set_ylabel("cosine")
    lower.set_ylabel("share")
    for axes in (upper, lower):
        axes.axhline(0, color="0.8", linewidth=0.8)
        axes.legend(frameon=False, fontsize=8)
        axes.grid(axis="x", color="0.93")
    lower.set_xticks(x, [rung["rung"] for rung in rungs], rotation=60, ha="right", fontsize=8)
    return figure


def judged_rung(rung: Rung, paths: Sequence[Path], out: Path) -> JsonObject:
    """The numbers of a rung, kept in out/judged; they are made anew where its runs or the source have changed."""
    digests = [hashlib.sha256((path / "trajectory.npz").read_bytes()).hexdigest() for path in paths]
    facts = provenance()
    identity = {"runs": [path.name for path in paths], "digests": digests, "source": [facts["project"], facts["commit"]]}
    kept = out / "judged" / f"{rung.name}.json"
    if kept.exists():
        stored = read_json(kept)
        if stored.get("identity") == identity and isinstance(stored.get("numbers"), dict):
            return stored["numbers"]
    numbers = json_values(result_numbers(result_of(rung, paths)))
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_text(kept, json.dumps({"identity": identity, "numbers": numbers}, indent=1, allow_nan=False) + "\n")
    return numbers


def write_ladder(rungs: Sequence[JsonObject], out: Path, data: str = "digits") -> None:
    """Write the report of rungs as `judged_rung` gives them, atomically; `data` is what they were run on, in words."""
    facts = provenance()
    report = {"rungs": rungs, "data": data, "provenance": facts}
    write_text(out / "ladder.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    write_text(out / "ladder.md", markdown(rungs))
    figure = ladder_figure(rungs)
    for suffix in ("png", "pdf"):
        save_figure(figure, out / f"ladder.{suffix}")
    rows = [[cell.replace("**", "") for cell in row] for row in ladder_rows(rungs)]
    page = html_page(
        TEMPLATE,
        data=f"Data: {data}.",
        caption=CAPTION,
        heads=[head for head, _ in HEADS],
        rows=rows,
        figure=base64_of(figure, "png"),
        reasons=[rung | {"name": rung["rung"]} for rung in rungs],
        provenance=json.dumps(facts, indent=1),
    )
    write_text(out / "ladder.html", page)


def _short_number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if abs(value) < 100 else f"{value:.3g}"
