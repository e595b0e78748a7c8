"""What the networks of a study say together: gains of the nonlinearities at the last epoch, with intervals over seeds.

A network is one draw: intervals are Student's t over seeds. A statement names its rival: the share of the last nonlinearity is
put beside an even split, the identity beside the activation, random labels beside true ones, train beside test examples.

Rows that a sketch has reduced are lower bounds, and nothing is computed of them but `reduced`, their number. Channel means are
another matter: the linear operations of the convolutional networks map them to channel means, so they have a ledger of their own.
Rows with an unresolved direction are lower bounds too, by the one direction: they are counted, `unresolved`, and used.
"""

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from sims.ledgers.entry import column, plain
from ufm.files.json_objects import JsonObject
from ufm.ledger.estimators import LEVEL
from ufm.monitor.record import ZERO_ERROR
from ufm.output import stored_number

MEANS = "channel means"  # the view whose reduced rows have a ledger of their own
LINEAR_LAYERS = ("linears", "conv", "classifier")  # names of the linear layers


def summary(stored: list[JsonObject]) -> list[JsonObject]:
    """One dictionary a cell, view and split: factors of its activations, share of the last, linear layers, force balance."""
    groups: dict[tuple[str, str, str], list[list[JsonObject]]] = {}
    for network in stored:
        courses: dict[tuple[str, str, str], list[JsonObject]] = {}
        for stage in sorted(network["ledgers"], key=lambda e: e["epoch"]):
            e = {"view": "states"} | stage  # before there were convolutional networks, nothing was said of the view
            courses.setdefault((e["source"], e["view"], e["split"]), []).append(e)
        for key, course in courses.items():
            errors = {e["epoch"]: e["error"] for e in network["ledgers"] if e["split"] == "train"}
            zero = [epoch for epoch in sorted(errors) if errors[epoch] <= ZERO_ERROR]
            groups.setdefault(key, []).append([e | {"zero_error": zero[0] if zero else None} for e in course])
    return [_cell_numbers(*key, courses) for key, courses in groups.items()]


def _cell_numbers(name: str, view: str, split: str, courses: list[list[JsonObject]]) -> JsonObject:
    members = [course[-1] for course in courses]
    acts = activations(members[0])
    numbers: JsonObject = {"cell": name, "view": view, "split": split, "networks": len(members)}
    numbers["error"] = mean_and_interval([e["error"] for e in members])
    numbers["reduced"] = 0 if view == MEANS else sum(row["reduced"] for row in members[0]["rows"])
    numbers["unresolved"] = sum(row.get("unresolved", 0) > 0 for e in members for row in e["rows"])  # older ones had none
    numbers["even_share"] = 1 / len(acts) if acts else None
    numbers["activations"] = [members[0]["rows"][k]["operation"] for k in acts]
    for estimate in ("omega", "held_out"):
        gains = np.array([column(e, f"{estimate}_gain")[acts] for e in members])
        numbers[f"{estimate}_factors"] = [mean_and_interval(g, np.exp) for g in gains.T]
        numbers[f"{estimate}_share_of_last"] = mean_and_interval([share_of_last(e, estimate) for e in members])
        numbers[f"{estimate}_course"] = _course(courses, estimate)
        numbers[f"{estimate}_terminal"] = _terminal(courses, estimate)
        numbers[f"{estimate}_linear"] = _linear_factors(courses, estimate)
        numbers |= _from_to(members, acts, estimate)
    for mode, prefix in (("forces", ""), ("training_forces", "training_")):  # older ones were measured in evaluation mode alone
        forces = [next((f for f in e.get(mode) or [] if f["parameter"] == "all"), None) for e in members]
        for told, key in (("force_cosine", "cosine"), ("left_over_means", "ratio"), ("decay_cosine", "decay_cosine")):
            numbers[prefix + told] = mean_and_interval([stored_number(f[key]) for f in forces if f])
    return plain(numbers)


def activations(e: JsonObject) -> list[int]:
    """Rows of the activations of a stored ledger that can be compared.

    Left out are those beside a row that a sketch has reduced, and those whose input has fewer directions than the C - 1
    contrasts, since their gain is infinite.
    """
    rows = e["rows"]
    whole = [e["view"] == MEANS or not row["reduced"] for row in rows]
    named = [k for k, row in enumerate(rows) if k and re.search(r"\bacts?\b", row["operation"])]
    return [k for k in named if whole[k] and whole[k - 1] and rows[k - 1]["rank"] >= len(e["classes"]) - 1]


def share_of_last(e: JsonObject, estimate: str) -> float:
    """The share of the last activation in the sum of their log gains; NaN where one is not finite, or none can be compared."""
    gains = column(e, f"{estimate}_gain")[activations(e)]
    return float(gains[-1] / gains.sum()) if len(gains) and np.isfinite(gains).all() else float("nan")


def _course(courses: list[list[JsonObject]], estimate: str) -> list[JsonObject]:
    """Error and share of the last activation at every measured epoch."""
    stages = zip(*courses, strict=True)
    return [
        {
            "epoch": stage[0]["epoch"],
            "error": mean_and_interval([e["error"] for e in stage]),
            "share_of_last": mean_and_interval([share_of_last(e, estimate) for e in stage]),
        }
        for stage in stages
    ]


def _terminal(courses: list[list[JsonObject]], estimate: str) -> JsonObject:
    """How much the share of the last activation grows from the first measured epoch with zero training error to the last one.

    `growth` is the mean difference within networks, over those that got there before their last epoch, `networks` of them.
    """
    growths = []
    for course in courses:
        first = next((e for e in course if e["zero_error"] is not None and e["epoch"] >= e["zero_error"]), course[-1])
        if first is not course[-1]:
            growths.append(share_of_last(course[-1], estimate) - share_of_last(first, estimate))
    return {"networks": len(growths), "growth": mean_and_interval(growths)}


def _linear_factors(courses: list[list[JsonObject]], estimate: str) -> list[JsonObject]:
    """omega after over omega before for every linear layer, at the last and at the first measured epoch; the bound is 1.

    `reduces` says whether the layer leaves fewer directions than there were: one that does not is invertible, and keeps all.
    """
    rows = courses[0][-1]["rows"]
    told = []
    for k, row in enumerate(rows):
        if not k or not (re.search(rf"\b({'|'.join(LINEAR_LAYERS)})\b", row["operation"]) or k == len(rows) - 1):
            continue
        if courses[0][-1]["view"] != MEANS and (row["reduced"] or rows[k - 1]["reduced"]):
            continue
        factors = {}
        for when, place in (("last", -1), ("first", 0)):
            gains = [column(course[place], f"{estimate}_gain")[k] for course in courses]
            factors[when] = mean_and_interval(gains, np.exp)
        told.append({"operation": row["operation"], "reduces": row["rank"] < rows[k - 1]["rank"], **factors})
    return told


def _from_to(members: list[JsonObject], acts: list[int], estimate: str) -> JsonObject:
    """Geometric means of omega of the first and of the last hidden state, and what is no activation loses in between.

    The loss is None where the two are not reduced in the same way (a reduced state is a lower bound), or an activation is left
    out.
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # an estimate of 0 is not told from nothing: then there is no number
        levels = np.log(np.array([column(e, estimate) for e in members]))
        rest = [e - column(m, f"{estimate}_gain")[acts].sum() for e, m in zip(levels[:, -2] - levels[:, 0], members, strict=True)]
    rows = members[0]["rows"]
    named = sum(bool(re.search(r"\bacts?\b", row["operation"])) for row in rows)
    alike = len(acts) == named and (members[0]["view"] == MEANS or rows[0]["reduced"] == rows[-2]["reduced"])
    return {
        f"{estimate}_from_to": np.exp(levels.mean(0))[[0, -2]].tolist(),
        f"{estimate}_rest": mean_and_interval(rest, np.exp) if alike else None,
    }


def mean_and_interval(values: ArrayLike, scale: Callable[[np.ndarray], np.ndarray] | None = None) -> list[float] | None:
    """[mean, low, high] at 95 %, Student's t over networks; None where there is none; low and high NaN for a single one."""
    from scipy.stats import t

    values = np.asarray(values, dtype=float)
    if not len(values) or not np.isfinite(values).all():
        return None
    middle, half = float(values.mean()), float("nan")
    if len(values) > 1:
        half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    triple = np.array([middle, middle - half, middle + half])
    return [float(v) for v in (triple if scale is None else scale(triple))]


def summary_text(told: list[JsonObject]) -> str:
    """A table: factors of the activations, the last one's share (even split in brackets), in sample and held out."""
    lines = [f"{'cell':<34} {'view':<13} {'split':<6} {'error':>7}  factors held out [in sample]; share of the last (even)"]
    for row in told:
        held, sample = row["held_out_factors"], row["omega_factors"]
        none = "sketched" if row["reduced"] else "no nonlinearity"
        pairs = " ".join(f"{_value_text(h)}[{_value_text(s)}]" for h, s in zip(held, sample, strict=True)) or none
        share = f"; {interval_text(row['held_out_share_of_last'])} ({row['even_share']:.2f})" if row["even_share"] else ""
        share += f"; {row['unresolved']} rows unresolved" if row["unresolved"] else ""
        cosine = f"; force cosine {interval_text(row['force_cosine'])}" if row["force_cosine"] else ""
        cosine += f", training mode {interval_text(row['training_force_cosine'])}" if row["training_force_cosine"] else ""
        lines.append(f"{row['cell']:<34} {row['view']:<13} {row['split']:<6} {row['error'][0]:>7.2%}  {pairs}{share}{cosine}")
    return "\n".join(lines)


def _value_text(triple: list[float] | None) -> str:
    return "?" if triple is None else f"{triple[0]:.2f}"


def interval_text(triple: list[float] | None, digits: int = 2) -> str:
    """A mean with its interval, '?' where there is none."""
    if triple is None:
        return "?"
    low, high = stored_number(triple[1]), stored_number(triple[2])
    return f"{triple[0]:.{digits}f}" + (f" [{low:.{digits}f}, {high:.{digits}f}]" if np.isfinite(low) else "")
