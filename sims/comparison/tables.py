"""The tables of report.html, from the numbers of report.json."""

from typing import Any

from sims.comparison.wording import outcome_in_words
from ufm.compare.comparison import SCHEME
from ufm.compare.outcome import NOT_COMPARED
from ufm.compare.verdict import LawRule
from ufm.files.json_objects import JsonObject

Part = dict[str, Any]  # a table, a heading or a figure of the page; an empty one is left out


def overview_table(report: JsonObject) -> Part:
    """The outcome of each group, one line each."""
    rows = []
    for group in report["groups"]:
        compared = "; ".join(dict.fromkeys(run["epochs_compared"] for run in group["runs"]))
        rows.append([group["name"], outcome_label(group), compared, reason_unless_of_runs(group) or "–"])
    return html_table(["runs", "verdict", "compared", "why"], rows)


def reason_unless_of_runs(group: JsonObject) -> str:
    """Why a group has its outcome, as a sentence; "" where nothing is compared, whose reasons are those of its runs."""
    return "" if group["outcome"] == NOT_COMPARED else sentence(group["reason"])


def description_table(report: JsonObject) -> Part:
    """The exponent of each group with its interval, and what each closed law leaves unexplained; no verdict rests on it."""
    rows = []
    for group in report["groups"]:
        p = group["exponent"]
        interval = "–" if p is None else f"{p['value']:.2f} ({_number_text(p['low'])} to {_number_text(p['high'])})"
        left = [_percent(group["laws"].get(name, {}).get("left_unexplained")) for name in report["exponents"]]
        rows.append([group["name"], interval, *left])
    heads = ["runs", "exponent p", *(f"left by {name}" for name in report["exponents"])]
    return html_table(heads, rows, "What a law leaves unexplained is the rms relative error of ω at its best clock and starts.")


def runs_table(values: JsonObject) -> Part:
    """The runs of a group: sizes, last loss off the central path, epochs compared, training error, notes."""
    rows = []
    for run in values["runs"]:
        ratio = [value for value in run["proximity"]["loss_perp_over_loss_ls"] if value is not None]
        notes = "; ".join(run["notes"]) or "–"
        sizes = f"{run['C']}, {run['N']}, {run['P'] or '?'}"
        last = _number_text(ratio[-1]) if ratio else "–"
        error = run.get("train_error")
        wrong = "–" if error is None else f"{error['entry']:.2%}, {error['end']:.2%}"
        rows.append([run["name"], sizes, last, _number_text(run["entry"]), wrong, run["epochs_compared"], notes])
    heads = ["run", "C, N, P", "L⊥/L(LS) at the end", "from epoch", "training error there, at the end", "compared", "notes"]
    return html_table(heads, rows)


def models_table(values: JsonObject) -> Part:
    """The models of a group: outcome, parameter, likelihood, p-values beside the threshold that refutes."""
    threshold, tolerance = (_number_text(values[key]) for key in ("refuted_at_p_value", "tolerance"))
    rows: list[list[str]] = []
    for name, model in values["models"].items():
        state = model["missing"] or ("refuted" if model["refuted"] else "compatible")
        state += f" (leaves no more than {tolerance})" if model["negligible"] else ""
        parameter = "–" if model["parameter"] is None else f"{model['parameter_name']} = {_number_text(model['parameter'])}"
        parameter += " (at the bound of the range)" if model["parameter_at_bound"] else ""
        numbers = [_number_text(model[key]) for key in ("log_likelihood", "p_rival", "p_free")]
        rows.append([name, model["statement"], state, parameter, *numbers, _percent(model["rms"])])
    caption = (
        "Each model predicts the whole SNR matrix, spectrum and vectors, from the class statistics of the first epoch compared, "
        "up to a clock. p against rivals: the share of runs simulated from the model, with its noise, that fall as far behind "
        "the likeliest other model; p against free paths: behind values that each follow a smooth path of their own. A model is "
        f"refuted where no simulated run does, in either: at a p-value of {threshold}, so that all refutations together hold at "
        f"the level asked for. One that leaves an rms of log omega of no more than {tolerance} is not refuted by its p-values "
        "alone, but only where the class statistics of later epochs contradict it, too, and not a model that is far likelier. "
        "r: how many times faster class means move than deviations; kappa: rate of the classifier."
    )
    p_heads = [f"p against {others} (refuted at {threshold})" for others in ("rivals", "free paths")]
    heads = ["model", "what it is", "outcome", "parameter", "log likelihood", *p_heads, "rms left of log ω"]
    return html_table(heads, rows, caption) if rows else {}


def laws_table(values: JsonObject) -> Part:
    """The closed laws of a group, described by their exponent and by what they leave unexplained."""
    rows = []
    for name, law in values["laws"].items():
        low, high = law["drift_share_interval"]
        share = f"{_number_text(law['drift_share'])} ({_number_text(low)} to {_number_text(high)})"
        p_values = [_number_text(law[f"{test}_p_value"]) for test in ("no_trend", "no_memory", "clock_advances")]
        rows.append([name, _percent(law["left_unexplained"]), *p_values, share])
    heads = ["law", "left unexplained", "p: no trend", "p: no memory", "p: clock advances", "drift share"]
    caption = (
        f"The p-values take noise for white; one below {LawRule().no_trend:g} speaks against the law in this description. "
        "Drift share: measured drift of the law's invariants over the least that another law would show; 0 where the law holds, "
        "1 where it does no better than the others."
    )
    return html_table(heads, rows, caption) if rows else {}


def clock_table(run: JsonObject) -> Part:
    """The clock of each law along a run."""
    rows = []
    for name, clock in run["clocks"].items():
        slopes = "; ".join(f"{s['learning_rate']:.3g}: {s['flow_time_per_epoch']:.3g}" for s in clock["slopes"]) or "–"
        rows.append([name, _percent(clock["rms_log_omega"]), slopes])
    caption = "Started from the measured features of the entry, without any freedom but the clock."
    label = "scheme: renormalize after every step" if SCHEME in run["clocks"] else ""
    heads = ["law", "rms error of log ω", "learning rate: flow time an epoch"]
    return html_table(heads, rows, f"{caption} {label}")


def html_table(heads: list[str], rows: list[list[str]], caption: str = "") -> Part:
    """A table of the page: heads, rows of texts, and a caption."""
    return {"heads": heads, "rows": rows, "caption": caption, "data": None}


def heading(text: str) -> Part:
    """A heading of the page."""
    return {"rows": None, "data": None, "caption": text}


def outcome_label(values: JsonObject) -> str:
    """The outcome in words, from the numbers of a group or of the whole report."""
    return outcome_in_words(values["outcome"], values["verdict"], values.get("compatible", ()))


def sentence(text: str) -> str:
    """The text with a capital letter at its start and a full stop at its end."""
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _number_text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "–" if value is None else "below 0.0001 %" if value < 1e-6 else f"{100 * value:.2g} %"
