"""Groups of runs, their comparisons and verdicts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sims.comparison.entries import measured
from sims.comparison.runs import Observed
from ufm.compare.comparison import Comparison, compare
from ufm.compare.outcome import NOT_COMPARED, Measured, Selection
from ufm.compare.outcome import Rule as SelectionRule
from ufm.compare.selection import judge
from ufm.compare.verdict import LawRule, Verdict, decide
from ufm.compare.window import FRACTION, Window, proximity
from ufm.monitor.record import ZERO_ERROR

if TYPE_CHECKING:
    from sims.comparison.clock_free import ClockFreeTests


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
    """Runs of one experiment, with their comparisons, their common verdict and their tests without a clock."""

    name: str
    runs: Sequence[Observed]
    comparisons: Sequence[Comparison]
    verdict: Verdict
    selection: Selection
    entry_notes: Sequence[str] = ()
    clock_free: "Sequence[ClockFreeTests | None]" = ()  # of every run; None for one that is not compared


def analyse(
    runs: Sequence[Observed], choice: Choice, rule: LawRule, named: Mapping[str, Sequence[str]] | None = None, choices: int = 1
) -> list[Group]:
    """Every group of runs compared with the models: those that `named` puts together by their paths, of the others those whose
    configurations differ by the seed alone. `choices`: how many ways to choose the epochs are tried.

    Products of matrices take one CPU thread: they are small, and others that wait for their part of one cost several times it.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        return _judged(runs, choice, rule, named, choices)


def _judged(
    runs: Sequence[Observed], choice: Choice, rule: LawRule, named: Mapping[str, Sequence[str]] | None, choices: int
) -> list[Group]:
    declared = {str(run): name for name, members in (named or {}).items() for run in members}
    groups: dict[str, list[Observed]] = {}
    for run in runs:
        groups.setdefault(declared.get(str(run.path), f"={run.group}"), []).append(run)
    judged = []
    for key, members in groups.items():
        comparisons = [choice.compare(run) for run in members]
        tests = _tested_without_clock(members, comparisons)
        selection, notes = _select(members, comparisons, tests, rule, choices)
        name = _common_name(members) if key.startswith("=") else f"{key} ({len(members)} run{'s' if len(members) > 1 else ''})"
        judged.append(Group(name, members, comparisons, decide(comparisons, rule), selection, notes, tests))
    return judged


def _tested_without_clock(members: Sequence[Observed], comparisons: Sequence[Comparison]) -> "list[ClockFreeTests | None]":
    from sims.comparison.clock_free import clock_free_tests

    pairs = zip(members, comparisons, strict=True)
    return [None if comparison.window.compared is None else clock_free_tests(run, comparison) for run, comparison in pairs]


def _select(
    members: Sequence[Observed],
    comparisons: Sequence[Comparison],
    tests: "Sequence[ClockFreeTests | None]",
    rule: LawRule,
    choices: int,
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
        return Selection(NOT_COMPARED, "", (), as_options(comparisons[0].window.reason), {}), notes
    seen = [None if test is None else test.seen for test in tests]
    return judge(usable, SelectionRule(level=rule.level, choices=choices, seed=rule.seed), seen), notes


def as_options(reason: str) -> str:
    """What the library says of its parameters, of the command's options."""
    return re.sub(r"\b(?:from|to)_epoch\b|(?<=give )lambda\b", lambda name: "--" + name[0].replace("_", "-"), reason)


def _common_name(members: Sequence[Observed]) -> str:
    """What the runs of a group have in common in their names."""
    first = members[0].name
    if len(members) == 1:
        return first
    common = first
    while common and not all(member.name.startswith(common) for member in members):
        common = common[:-1]
    return f"{common.removesuffix('seed').rstrip('-_. ') or first} ({len(members)} runs)"
