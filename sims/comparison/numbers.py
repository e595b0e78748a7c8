"""Groups of runs as numbers: what report.json holds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from sims.comparison.analysis import Choice, Group
from sims.comparison.clock_free import ClockFreeTests
from sims.comparison.runs import Observed
from sims.comparison.wording import choices_reminder, epochs_compared, left_in_all, off_the_central_path, overall
from ufm.compare.clock import slopes_by_rate
from ufm.compare.comparison import SCHEME, Comparison
from ufm.compare.exponent import EXPONENTS
from ufm.compare.models import MODELS
from ufm.compare.outcome import Support
from ufm.compare.verdict import LawRule
from ufm.files.json_objects import JsonObject
from ufm.monitor.record import ZERO_ERROR


def numbers(groups: Sequence[Group], choice: Choice, rule: LawRule, choices: int = 1) -> JsonObject:
    """Everything of the report as JSON takes it: `verdict` (null unless a model is named), `outcome`, `reason`, `compatible` (the
    models left in every group), `groups`, and how they were found.
    """
    verdict, outcome, reason = overall(groups)
    return {
        "verdict": verdict,
        "outcome": outcome,
        "reason": reason,
        "compatible": left_in_all(groups),
        "groups": [_group_numbers(group, choice) for group in groups],
        "epochs": asdict(choice),
        "choices": choices,
        "reminder": choices_reminder(choice, choices),
        "rule": asdict(rule),
        "exponents": {law.name: p for law, p in EXPONENTS.items()},
    }


def _group_numbers(group: Group, choice: Choice) -> JsonObject:
    v = group.verdict
    evidence = {
        name: {
            "left_unexplained": law.fit.rms,
            "no_trend_p_value": law.fit.no_trend,
            "no_memory_p_value": law.fit.no_memory,
            "clock_advances_p_value": law.fit.advances,
            "drift_share": law.share,
            "drift_share_interval": [law.share_low, law.share_high],
            "refused": law.refused,
        }
        for name, law in v.evidence.items()
    }
    triples = zip(group.runs, group.comparisons, group.clock_free, strict=True)
    runs = [_run_numbers(run, comparison, tests, choice) for run, comparison, tests in triples]
    exponent = None if v.exponent is None else asdict(v.exponent)
    head = {
        "name": group.name,
        "verdict": group.selection.name or None,
        "outcome": group.selection.outcome,
        "reason": group.selection.reason,
        "compatible": list(group.selection.compatible),
        "models": {name: _model_numbers(name, support) for name, support in group.selection.support.items()},
        "refuted_at_p_value": group.selection.threshold,
        "tolerance": group.selection.tolerance,
        "notes": list(group.entry_notes),
        "exponent": exponent,
        "laws": evidence,
    }
    return head | {"runs": runs}


def _model_numbers(name: str, support: Support) -> JsonObject:
    model = MODELS[name]
    more = {"statement": model.statement, "parameter_name": model.parameter}
    return asdict(support) | more | {"parameter_at_bound": model.at_bound(support.parameter)}


def _run_numbers(run: Observed, comparison: Comparison, tests: ClockFreeTests | None, choice: Choice) -> JsonObject:
    window = comparison.window
    head: JsonObject = {
        "name": run.name,
        "kind": run.kind,
        "notes": [*run.notes, *window.notes],
        "config": run.config,
        "C": run.trajectory.C,
        "N": run.trajectory.N,
        "P": None if run.trajectory.U is None else len(run.trajectory.U),
        "proximity": {"epoch": window.epochs, "loss_perp_over_loss_ls": window.ratio},
        "entry": window.entry,
        "compared": window.reason or True,
        "epochs_compared": epochs_compared(window, choice),
    }
    compared = window.compared
    if compared is None or tests is None:
        return head
    warning = "" if run.kind == "simulated" else off_the_central_path(window, choice.fraction)
    head["notes"] += [warning] if warning else []
    error = compared.observed.get("train_error")
    if error is not None:
        head["train_error"] = {"entry": float(error[0]), "end": float(error[-1])}
        if error[0] > ZERO_ERROR:
            head["notes"].append(f"the comparison starts before zero training error ({error[0]:.1%} there)")
    head |= {"epoch": compared.t, "omega": compared.omega, "singular_vectors": _vectors(comparison)}
    head["drift"] = {  # not of every pair: that follows from omega, and grows as C^2
        name: {
            "rms_measured": drift.rms,
            "rms_expected": {other: float(np.sqrt((values[1:] ** 2).mean())) for other, values in drift.expected.items()},
            "share": drift.share,
        }
        for name, drift in comparison.drifts.items()
    }
    head["clock_free"] = tests.numbers()
    head["clocks"] = {name: _clock_numbers(run, comparison, name) for name in comparison.pairs}
    head["spectra"] = spectra_of(run, comparison)
    return head


def _clock_numbers(run: Observed, comparison: Comparison, name: str) -> JsonObject:
    pair, compared = comparison.pairs[name], comparison.window.compared
    assert compared is not None
    slopes: list[Any] = []
    if run.rates is not None:
        rates = run.rates[np.searchsorted(run.trajectory.t, compared.t)]
        slopes = [
            {"learning_rate": rate, "flow_time_per_epoch": slope, "ratio": slope / rate, "epochs": count}
            for rate, slope, count in slopes_by_rate(compared.t, pair.clock.tau, rates)
        ]
    error = {"rms_log_omega": pair.clock.rms, "last_log_omega": pair.clock.error[-1], "exhausted": pair.clock.exhausted}
    return {"flow_time": pair.clock.tau, **error, "slopes": slopes}


def spectra_of(run: Observed, comparison: Comparison) -> dict[str, Mapping[str, np.ndarray]]:
    """Spread, loss, NC1 to NC4 (T,) by source: measured from omega and V, the network's own, every law and the scheme."""
    compared = comparison.window.compared
    assert compared is not None
    sources: dict[str, dict[str, np.ndarray]] = {"measured": dict(next(iter(comparison.pairs.values())).measured)}
    for name, pair in comparison.pairs.items():
        sources[name] = dict(pair.simulated)
    own = {name: values for name, values in compared.observed.items() if name.startswith(("nc", "loss"))}
    if own:
        sources["network"] = own
    paths = {name: np.exp(pair.clock.predicted) for name, pair in comparison.pairs.items() if name != SCHEME}
    for name, values in run.nc4(float(compared.t[0]), paths, compared.V).items():
        sources[name]["nc4"] = values
    return dict(sources)


def _vectors(comparison: Comparison) -> JsonObject | None:
    frozen = comparison.frozen
    if frozen is None:
        return None
    degrees = {
        name: None if value is None else np.degrees(value)
        for name, value in (
            ("subspace_u", frozen.subspace_u),
            ("subspace_v", frozen.subspace_v),
            ("u", frozen.angle_u),
            ("v", frozen.angle_v),
        )
    }
    return {"degrees": degrees, "rotated_share": frozen.rotated}
