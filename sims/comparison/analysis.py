"""Groups of runs, their comparisons and verdicts, and all of it as numbers for report.json."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sims.comparison.clock_free import clock_free_tests
from sims.comparison.entries import measured
from sims.comparison.runs import Observed
from ufm.compare.clock import slopes_by_rate
from ufm.compare.comparison import SCHEME, Comparison, compare
from ufm.compare.exponent import EXPONENTS
from ufm.compare.outcome import NOT_COMPARED, Measured, Selection
from ufm.compare.outcome import Rule as SelectionRule
from ufm.compare.selection import judge
from ufm.compare.verdict import NONE, LawRule, Verdict, decide
from ufm.compare.window import FRACTION, Window, proximity
from ufm.monitor.record import ZERO_ERROR


@dataclass(frozen=True)
class Choice:
    """The epochs compared, as `ufm.compare.window.find_window` takes them; from_epoch "zero-error" is every run's own."""

    fraction: float = FRACTION
    from_epoch: float | str | None = None
    to_epoch: float | None = None

    def compare(self, run: Observed) -> Comparison:
        """One run compared with the laws over these epochs. Raises ValueError for a run whose training error is unknown."""
        start = self.from_epoch
        if isinstance(start, str):
            if "train_error" not in run.trajectory.observed:
                raise ValueError(f"{run.name} stores no training error, so {start} is unknown: give from_epoch as a number")
            reached = run.trajectory.t[run.trajectory.observed["train_error"] <= ZERO_ERROR]
            if not len(reached):
                window = Window(run.trajectory.t, proximity(run.trajectory), None, None, "the training error never reaches 0.1 %")
                return Comparison(window, {}, {}, None)
            start = float(reached[0])
        return compare(run.trajectory, self.fraction, start, self.to_epoch)


@dataclass(frozen=True, eq=False)
class Group:
    """Runs of one experiment, with their comparisons and their common verdict."""

    name: str
    runs: Sequence[Observed]
    comparisons: Sequence[Comparison]
    verdict: Verdict
    selection: Selection
    entry_notes: Sequence[str] = ()


def analyse(
    runs: Sequence[Observed], choice: Choice, rule: LawRule, named: Mapping[str, Sequence[str]] | None = None, choices: int = 1
) -> list[Group]:
    """Every group of runs compared with the models: those that `named` puts together by their paths, of the others those whose
    configurations differ by the seed alone. `choices`: how many ways to choose the epochs are tried.
    """
    declared = {str(run): name for name, members in (named or {}).items() for run in members}
    groups: dict[str, list[Observed]] = {}
    for run in runs:
        groups.setdefault(declared.get(str(run.path), f"={run.group}"), []).append(run)
    judged = []
    for key, members in groups.items():
        comparisons = [choice.compare(run) for run in members]
        selection, notes = _select(members, comparisons, rule, choices)
        name = _name(members) if key.startswith("=") else f"{key} ({len(members)} run{'s' if len(members) > 1 else ''})"
        judged.append(Group(name, members, comparisons, decide(comparisons, rule), selection, notes))
    return judged


def _select(
    members: Sequence[Observed], comparisons: Sequence[Comparison], rule: LawRule, choices: int
) -> tuple[Selection, list[str]]:
    usable, notes = list[Measured](), list[str]()
    for run, comparison in zip(members, comparisons, strict=True):
        if comparison.window.compared is None:
            continue
        try:
            one, note = measured(comparison.window.compared, run.entry(float(comparison.window.compared.t[0])))
        except ValueError as error:
            one, note = measured(comparison.window.compared, None)[0], str(error)
        usable.append(one)
        notes += [f"{run.name}: {note}"] if note else []
    if not usable:
        return Selection(NOT_COMPARED, "", (), comparisons[0].window.reason, {}), notes
    return judge(usable, SelectionRule(level=rule.level, choices=choices, seed=rule.seed)), notes


def overall(groups: Sequence[Group]) -> tuple[str, str, str]:
    """The verdict on all groups, its outcome and its reason: theirs where they agree, else none and "mixed"."""
    first = groups[0].selection
    if len(groups) == 1:
        return first.name or NONE, first.outcome, first.reason
    if all((group.selection.name, group.selection.outcome) == (first.name, first.outcome) for group in groups):
        return first.name or NONE, first.outcome, f"all {len(groups)} groups of runs agree"
    differ = ", ".join(f"{group.name}: {label(group.selection)}" for group in groups)
    return NONE, "mixed", f"the groups of runs differ: {differ}"


def label(selection: Selection) -> str:
    """The model's name, or which "none" it is."""
    return selection.name or f"none ({selection.outcome})"


def numbers(groups: Sequence[Group], choice: Choice, rule: LawRule) -> dict[str, Any]:
    """Everything of the report as JSON takes it: `verdict`, `reason`, `groups`, and how they were found."""
    verdict, outcome, reason = overall(groups)
    return {
        "verdict": verdict,
        "outcome": outcome,
        "reason": reason,
        "groups": [_group_numbers(group) for group in groups],
        "epochs": asdict(choice),
        "rule": asdict(rule),
        "exponents": {law.name: p for law, p in EXPONENTS.items()},
    }


def _group_numbers(group: Group) -> dict[str, Any]:
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
    runs = [_run_numbers(run, comparison) for run, comparison in zip(group.runs, group.comparisons, strict=True)]
    exponent = None if v.exponent is None else asdict(v.exponent)
    head = {
        "name": group.name,
        "verdict": group.selection.name or NONE,
        "outcome": group.selection.outcome,
        "reason": group.selection.reason,
        "compatible": list(group.selection.compatible),
        "models": {name: asdict(support) for name, support in group.selection.support.items()},
        "notes": list(group.entry_notes),
        "exponent": exponent,
        "laws": evidence,
    }
    return head | {"runs": runs}


def _run_numbers(run: Observed, comparison: Comparison) -> dict[str, Any]:
    window = comparison.window
    head: dict[str, Any] = {
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
    }
    compared = window.compared
    if compared is None:
        return head
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
    head["clock_free"] = clock_free_tests(run, comparison).numbers()
    head["clocks"] = {name: _clock_numbers(run, comparison, name) for name in comparison.pairs}
    head["spectra"] = spectra_of(run, comparison)
    return head


def _clock_numbers(run: Observed, comparison: Comparison, name: str) -> dict[str, Any]:
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


def _vectors(comparison: Comparison) -> dict[str, Any] | None:
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


def _name(members: Sequence[Observed]) -> str:
    """What the runs of a group have in common in their names."""
    first = members[0].name
    if len(members) == 1:
        return first
    common = first
    while common and not all(member.name.startswith(common) for member in members):
        common = common[:-1]
    return f"{common.removesuffix('seed').rstrip('-_. ') or first} ({len(members)} runs)"
