"""Which law, if any: the exponent with its interval, the drift of each law's invariants, and what each leaves unexplained."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ufm.compare.comparison import Comparison
from ufm.compare.drift import share_interval
from ufm.compare.exponent import EXPONENTS, Exponent, fit_exponent, resample
from ufm.compare.fit import Fit, fit_law, motion, travelled
from ufm.compare.outcome import NAMED, NOT_COMPARED, REFUTED, UNDECIDED
from ufm.laws.singular_value_dynamics import LAWS, Law

TOO_FEW = "in too few epochs to tell a trend from noise"
MOST_EPOCHS = 200  # that an exponent is fitted to; a simulation with more is thinned
PAIRS = 3  # fewer pairs have no bootstrap interval


@dataclass(frozen=True)
class LawRule:
    """What a verdict asks of a law.

    level        of the bootstrap intervals
    margin       how near its exponent the interval must come, and how far from the others' it must stay
    tolerance    rms of log omega left unexplained that needs no further excuse, where it is below a tenth of `share`, too
    share        most that may be left unexplained of the motion of log omega, rms against rms
    no_trend     least p-value of "what is left unexplained is noise", where it needs one, and of "the clock never goes back"
    motion       least common motion, in units of the largest pattern of white noise, that an exponent is believed from
    resamples    of the bootstrap, with `seed`
    """

    level: float = 0.95
    margin: float = 0.05
    tolerance: float = 0.005
    share: float = 0.2
    no_trend: float = 0.01
    motion: float = 2.0
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("level", "no_trend", "share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: it must be between 0 and 1")
        if not 0 <= self.margin < 0.5 or not self.tolerance >= 0 or self.resamples < 100:
            raise ValueError(
                f"margin = {self.margin}, tolerance = {self.tolerance}, resamples = {self.resamples}: the margin must be below "
                "half the distance of two laws' exponents, 0.5, the tolerance at least 0, the resamples at least 100"
            )


@dataclass(frozen=True)
class Evidence:
    """About one law: its fit to all runs together, the share of its drift, and why it is not the verdict ("" where it is)."""

    fit: Fit
    share: float
    share_low: float
    share_high: float
    refused: str


@dataclass(frozen=True)
class Verdict:
    """`name` is a law's, "" unless named; `reason` says why in a sentence; `exponent` is None where nothing could be compared.

    outcome: "named", "undecided" (the data cannot tell), "refuted" (every law) or "not compared".
    """

    name: str
    outcome: str
    reason: str
    exponent: Exponent | None
    evidence: Mapping[str, Evidence]


def decide(comparisons: Sequence[Comparison], rule: LawRule | None = None) -> Verdict:
    """One verdict on several runs of one experiment (seeds): they share the exponent, each has its own clock and starts."""
    rule = rule or LawRule()
    usable = [comparison for comparison in comparisons if comparison.window.compared is not None]
    if not usable:
        return Verdict("", NOT_COMPARED, comparisons[0].window.reason if comparisons else "no run was given", None, {})
    logs = [_thinned(comparison.log_u) for comparison in usable]
    pairs = sum(x.shape[1] * (x.shape[1] - 1) // 2 for x in logs)
    if pairs < PAIRS or min(x.shape[1] for x in logs) < 2:
        reason = (
            f"{pairs} pair{'' if pairs == 1 else 's'} of singular values: an interval needs {PAIRS}, as C = 4 or more runs have"
        )
        return Verdict("", UNDECIDED, reason, None, {})
    taken = resample([x.shape[1] for x in logs], rule.resamples, np.random.default_rng(rule.seed))
    exponent = fit_exponent(logs, taken, rule.level)
    moved = min(motion([x], exponent.value) for x in logs)  # a run at rest says nothing, and another must not stand for it
    evidence = {name: _evidence(law, usable, logs, taken, exponent, moved, rule) for name, law in LAWS.items()}
    if moved < rule.motion:
        return Verdict("", UNDECIDED, next(iter(evidence.values())).refused, exponent, evidence)
    kept = [name for name, own in evidence.items() if not own.refused]
    if len(kept) == 1:
        reason = f"its exponent and no other law's is within the interval, {_left(evidence[kept[0]].fit)}"
        return Verdict(kept[0], NAMED, reason, exponent, evidence)
    return Verdict("", *_why_not(exponent, evidence, rule), exponent, evidence)


def _evidence(
    law: Law,
    usable: Sequence[Comparison],
    logs: Sequence[np.ndarray],
    taken: list[np.ndarray],
    exponent: Exponent,
    moved: float,
    rule: LawRule,
) -> Evidence:
    fits = [fit_law(x, EXPONENTS[law]) for x in logs]
    rms = float(np.sqrt(np.mean([fit.rms**2 for fit in fits])))
    drifts = [comparison.drifts[law.name] for comparison in usable]
    share = share_interval(drifts, [np.ones((1, x.shape[1]), dtype=int) for x in logs], rule.level)[0]  # of all runs as they are
    low, high = share_interval(drifts, taken, rule.level)
    fit = Fit(
        rms,
        _least(fit.no_trend for fit in fits),
        _least(fit.no_memory for fit in fits),
        _least(fit.advances for fit in fits),
        max(fit.back for fit in fits),
    )
    return Evidence(fit, share, low, high, _refutation(law, fit, exponent, moved, travelled(logs), rule))


def _least(p_values: Iterable[float]) -> float:
    """Bonferroni's bound of the least p-value over runs; NaN where none is known."""
    known = [p for p in p_values if np.isfinite(p)]
    return min(1.0, min(known) * len(known)) if known else float("nan")


def _refutation(law: Law, fit: Fit, exponent: Exponent, moved: float, travelled: float, rule: LawRule) -> str:
    p = EXPONENTS[law]
    if moved < rule.motion:
        return f"the singular values hardly move together: their common motion is {moved:.2g} times the largest pattern of noise"
    if not exponent.low - rule.margin <= p <= exponent.high + rule.margin:
        return f"its exponent {p:g} is outside the interval {exponent.low:.2f} to {exponent.high:.2f}"
    others = [value for other, value in EXPONENTS.items() if other is not law]
    if any(exponent.low - rule.margin <= value <= exponent.high + rule.margin for value in others):
        return "another law's exponent is within the interval too"
    small = min(rule.tolerance, rule.share * travelled / 10)
    if fit.advances < rule.no_trend and fit.back > small:
        return f"its clock would have to run backwards (p-value {fit.advances:.1g})"
    if fit.rms > rule.share * travelled:
        return f"{fit.rms:.1%} of omega is left unexplained, {fit.rms / travelled:.0%} of its motion"
    if fit.rms > small and not fit.like_noise >= rule.no_trend:
        trend = TOO_FEW if np.isnan(fit.no_trend) else f"with a trend (p-value {fit.like_noise:.1g})"
        return f"{fit.rms:.1%} of omega is left unexplained, {trend}"
    return ""


def _why_not(exponent: Exponent, evidence: Mapping[str, Evidence], rule: LawRule) -> tuple[str, str]:
    """Outcome and reason."""
    interval = f"p = {exponent.value:.2f}, {rule.level:.0%} interval {exponent.low:.2f} to {exponent.high:.2f}"
    inside = [name for name, own in evidence.items() if "outside" not in own.refused]
    if not inside:
        return REFUTED, f"the exponent is none of the laws': {interval}"
    if len(inside) > 1:
        return UNDECIDED, f"the laws cannot be told apart here: {interval}"
    refused = evidence[inside[0]].refused
    outcome = UNDECIDED if TOO_FEW in refused else REFUTED
    return outcome, f"{inside[0]} has the right exponent ({interval}), but {refused}"


def _left(fit: Fit) -> str:
    tail = f" without a trend (p-value {fit.like_noise:.2g})" if fit.like_noise >= 0.01 else ""
    return f"and it leaves {fit.rms:.2%} of omega unexplained{tail}"


def _thinned(x: np.ndarray) -> np.ndarray:
    """At most MOST_EPOCHS rows, spread evenly."""
    if len(x) <= MOST_EPOCHS:
        return x
    return x[np.unique(np.round(np.linspace(0, len(x) - 1, MOST_EPOCHS)).astype(int))]
