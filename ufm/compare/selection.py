"""Which models survive: likelihood ratios against every rival and against free paths, calibrated by a parametric bootstrap.

A model is refuted where its likelihood falls behind the best rival's, of all runs or of one, or behind that of values that also
follow smooth paths of their own, further than in every one of the runs that are simulated from it: its fitted clock, noise with
the fitted correlation in time and across values, the start measured with that noise. There are so many that this has probability
at most (1 - level) / (models x choices x tests) in each of the tests under the model, two for one run and three for several.

A model that leaves at most `Rule.tolerance` of log omega, rms, is never refuted by its likelihood alone (of enough epochs any
trend is significant), but where later class statistics contradict it, too, and not one that is likelier. The one left is named
where it explains the growth, and the class statistics of later epochs, where known, are as it implies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ufm.compare.implied import SeenStatistics, contradiction, unexcused
from ufm.compare.models import JOINT, MODELS, UnpredictedError, available
from ufm.compare.noise import PRIOR_FREEDOMS
from ufm.compare.outcome import NAMED, NOT_COMPARED, REFUTED, UNDECIDED, Measured, Rule, Selection, Support
from ufm.compare.predicted import PredictedRun, predict

FEWEST_SELECTED = 4  # epochs
RUNS_AT_ONCE = 20  # runs simulated at once
BEYOND = 8.0  # standard deviations past the furthest simulated run, where no more are simulated
PROBED, FAR_BEYOND = 6, 40.0  # of the first runs, that are judged before the others, and the same past these few, in all tests
EXPLAINED = 0.9  # of the growth of log omega, by the model that is named: what leaves more is no noise that a name could rest on
TOLD = 100.0  # likelihood ratio at which models are told apart, a special case from the one that contains it
LARGEST_TOLD = 10.0  # kappa, that is named
PREDICTED_TO = 1e-5  # of log omega, to which predictions are computed: an exact record tells them apart below the tolerance, too
NAN = float("nan")


def judge(runs: Sequence[Measured], rule: Rule | None = None, seen: Sequence[SeenStatistics | str | None] = ()) -> Selection:
    """The models that survive on several runs of one experiment: one model and parameter for all, a clock for each.

    seen: of every run, what its class statistics of later epochs are held against a name with, None where they are not known, a
    sentence where they are those of no flow that `contradiction` knows.
    Raises ValueError for entry statistics that are not those of a run's first epoch.
    """
    rule = rule or Rule()
    if not runs:
        return Selection(NOT_COMPARED, "", (), "no run was given", {})
    if min(len(run.t) for run in runs) < FEWEST_SELECTED:
        return Selection(NOT_COMPARED, "", (), f"a run has fewer than {FEWEST_SELECTED} usable epochs", {})
    missing = {name: next((m for m in (available(run.entry)[name] for run in runs) if m), "") for name in MODELS}
    while True:
        try:
            states = predict(runs, [name for name in MODELS if not missing[name]], rule.tolerance)
        except UnpredictedError as error:
            missing[error.name] = error.reason
        else:
            return judge_predicted(states, missing, rule, seen)


def judge_predicted(
    states: Sequence[PredictedRun], missing: Mapping[str, str], rule: Rule, seen: Sequence[SeenStatistics | str | None] = ()
) -> Selection:
    """The same from predictions; `missing` says of every model what it lacks, "" where it is predicted."""
    names = [name for name, why in missing.items() if not why]
    observed = {name: _at_best([state.observed(name) for state in states]) for name in names}
    count = rule.simulations(len(names), 2 if len(states) == 1 else 3)
    support = {}
    for position, name in enumerate(names):
        rng = np.random.default_rng([rule.seed, position])
        support[name] = _support(states, names, name, observed, count, rng)
    for name, why in missing.items():
        if why:
            support[name] = Support(NAN, None, NAN, NAN, NAN, NAN, NAN, False, why)
    support = unexcused(support, seen, 1 - EXPLAINED, TOLD)
    told = {name: _told_from_limit(states, name) for name in names if MODELS[name].values}
    freedoms = sum((len(state.y) - 1) * (state.y.shape[1] - 1) for state in states)
    return replace(_verdict(support, told, _growth(states), seen, freedoms), threshold=1 / (1 + count), tolerance=rule.tolerance)


def _growth(states: Sequence[PredictedRun]) -> float:
    """Root mean square of what log omega has changed since the first epoch, over the values and epochs of `Support.rms`."""
    return float(np.sqrt(np.mean([((state.y[1:] - state.y[0]) ** 2).mean() for state in states])))


def _told_from_limit(states: Sequence[PredictedRun], name: str) -> bool:
    """Whether the model that a parameter has in its limit is TOLD times as likely as the values that count as another one; and
    none that does is TOLD times as likely as it, at the accuracy of the predictions.
    """
    model, total, closely = MODELS[name], dict[float, float](), dict[float, float]()
    scores = np.sum([state.observed(name)[0][:, 0] for state in states], axis=0)
    for position, path in enumerate(states[0].paths[name]):
        assert path.parameter is not None
        total[path.parameter] = float(scores[position])
        fits = (state.fits[name][position] for state in states)
        closely[path.parameter] = sum(noise.within(fitted.r, PREDICTED_TO) for fitted, noise in fits)
    elsewhere = [likely for value, likely in closely.items() if _elsewhere(name, value)]
    likelier = max(elsewhere) - closely[model.limit] > np.log(TOLD)
    return not likelier and total[model.limit] - max(total[value] for value in model.distinct) > np.log(TOLD)


def _total(
    states: Sequence[PredictedRun], name: str, samples: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`_at_best` of samples of every run (their values and the errors of their starts)."""
    return _at_best([state.scores(name, y, start) for state, (y, start) in zip(states, samples, strict=True)])


def _at_best(scores: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log likelihood (runs, B) at the best common parameter, that of free paths of all runs (B,), and which it is (B,)."""
    plain, free = (np.stack([pair[k] for pair in scores]) for k in (0, 1))  # (runs, values, B)
    best = plain.sum(0).argmax(0)
    columns = np.arange(len(best))
    return plain[:, best, columns], free.sum(0)[best, columns], best


def _support(
    states: Sequence[PredictedRun],
    names: Sequence[str],
    name: str,
    observed: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    count: int,
    rng: np.random.Generator,
) -> Support:
    """Observed statistics of a model against those of the runs simulated from it, until none of them can still refute it."""
    own, free, best = observed[name]
    others = [other for other in names if other != name]
    statistics = _statistics(own, free, [observed[other][0] for other in others])[:, 0]
    which = int(best[0])
    likeliest = max(names, key=lambda other: observed[other][0][:, 0].sum())
    noise = likeliest, int(observed[likeliest][2][0])

    def behind(samples: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        mine, mine_free, _ = _total(states, name, samples)
        return _statistics(mine, mine_free, [_total(states, other, samples)[0] for other in others])

    simulated = np.empty((len(statistics), 0))
    while simulated.shape[1] < count and not _settled(statistics, simulated):
        samples = [state.simulated(name, which, noise, min(RUNS_AT_ONCE, count - simulated.shape[1]), rng) for state in states]
        if not simulated.shape[1]:
            simulated = behind([(y[:PROBED], start[:PROBED]) for y, start in samples])
            if (_far_past(statistics, simulated, FAR_BEYOND) | ~(statistics > 0)).all():
                break
            samples = [(y[PROBED:], start[PROBED:]) for y, start in samples]
        simulated = np.hstack([simulated, behind(samples)])
    far = (simulated >= statistics[:, None]).sum(1)
    p = (1 + far) / (1 + np.where(far, simulated.shape[1], count))  # a model left behind by far is not simulated to the end
    rms = float(np.sqrt(np.mean([(state.fits[name][which][0].r[0, 1:] ** 2).mean() for state in states])))
    significant = bool(((far == 0) & (statistics > 0) & (simulated.shape[1] > 0)).any())
    negligible = significant and rms <= max(state.tolerance for state in states)
    p_rival = float(p[:-1].min()) if statistics[:-1].max(initial=0.0) > 0 else 1.0
    parameter = states[0].paths[name][which].parameter
    behind, ahead = float(statistics[0]), float(statistics[-1])
    p_free, refuted = float(p[-1]), significant and not negligible
    return Support(float(own.sum()), parameter, rms, behind, ahead, p_rival, p_free, refuted, negligible=negligible)


def _statistics(own: np.ndarray, free: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """How far log likelihoods (runs, B) fall behind the best rival's: of all runs, of the run where most (if several), and behind
    free paths. (2 or 3, B)
    """
    ahead = free - own.sum(0)
    if not others:
        return np.stack([np.full_like(ahead, -np.inf), ahead])
    together = np.max([other.sum(0) for other in others], axis=0) - own.sum(0)
    if len(own) == 1:
        return np.stack([together, ahead])
    return np.stack([together, (np.max(others, axis=0) - own).max(0), ahead])


def _settled(statistics: np.ndarray, simulated: np.ndarray) -> bool:
    """Whether every statistic has been passed by a simulated run, or one lies beyond doubt."""
    if not simulated.shape[1]:
        return False
    far = (simulated >= statistics[:, None]).any(1) | ~(statistics > 0)
    return bool(far.all() or _far_past(statistics, simulated, BEYOND).any())


def _far_past(statistics: np.ndarray, simulated: np.ndarray, deviations: float) -> np.ndarray:
    """Which statistics lie so many standard deviations, of 1 at least, past the furthest simulated run."""
    return (statistics > 0) & (statistics > simulated.max(1) + deviations * np.maximum(simulated.std(1), 1.0))


def _elsewhere(name: str, value: float | None) -> bool:
    """Whether a value of a model's parameter counts as another model than its limit."""
    return value != MODELS[name].limit and not MODELS[name].counts_as_limit(value)


def _too_near_its_limit(name: str, value: float | None) -> bool:
    """Whether the one model left may be its limit all the same: `counts_as_limit`, or a classifier more than LARGEST_TOLD times
    as fast as features, whose lag is what a step that is not small makes of one at least squares.
    """
    return MODELS[name].counts_as_limit(value) or (name == JOINT and value is not None and value > LARGEST_TOLD)


def _kept_beside(support: Mapping[str, Support], name: str, other: str) -> bool:
    """Whether the tolerance alone keeps a model beside one that contains it and is likeliest where it counts as another."""
    return support[name].negligible and _elsewhere(other, support[other].parameter)


def _objection(name: str, own: Support, seen: Sequence[SeenStatistics | str | None], freedoms: float) -> str:
    """Why the one model left is not named all the same: too few residuals for its noise, or features that it does not imply."""
    if freedoms < PRIOR_FREEDOMS:
        return f"{freedoms:g} freedoms beside the clock tell less of the noise than is assumed: {PRIOR_FREEDOMS:g} are needed"
    return contradiction(name, own.parameter, seen, 1 - EXPLAINED)


def _verdict(
    support: Mapping[str, Support],
    told: Mapping[str, bool],
    growth: float,
    seen: Sequence[SeenStatistics | str | None] = (),
    freedoms: float = np.inf,
) -> Selection:
    left = tuple(name for name, own in support.items() if not own.missing and not own.refuted)
    unknown = tuple(name for name, own in support.items() if own.missing and MODELS[name].needs in ("spectrum", "statistics"))
    if not left:
        if unknown:
            return Selection(UNDECIDED, "", (), f"every model predicted is refuted; not predicted: {', '.join(unknown)}", support)
        return Selection(REFUTED, "", (), "every model is refuted", support)
    single = [name for name in left if all(other == name or name in MODELS[other].contains for other in left)]
    rivals = [other for other in left if len(single) == 1 and other != single[0]]
    near = [other for other in rivals if not told[other] or _kept_beside(support, single[0], other)]
    if near:
        return Selection(
            UNDECIDED, "", left, f"{single[0]} and {', '.join(near)}, which contains it, cannot be told apart", support
        )
    alone = f"every other model is refuted or contains {single[0]}" if len(single) == 1 else ""
    if alone and _too_near_its_limit(single[0], support[single[0]].parameter):
        own = MODELS[single[0]]
        at = f"{own.parameter} = {support[own.name].parameter:.3g}"
        why = f"{alone}, but {at} is too near {own.limit:g} to count as another model than {own.contains[0]}"
        return Selection(UNDECIDED, "", left, why, support)
    if alone and not support[single[0]].rms <= (1 - EXPLAINED) * growth:
        why = f"{alone}, but it leaves {support[single[0]].rms / growth:.0%} of the growth unexplained"
        return Selection(UNDECIDED, "", left, f"{why}: more than {1 - EXPLAINED:.0%} is no evidence for a model", support)
    against = _objection(single[0], support[single[0]], seen, freedoms) if alone else ""
    if against:
        return Selection(UNDECIDED, "", left, f"{alone}, but {against}", support)
    if alone and not unknown:
        own = support[single[0]]
        why = f": the residual of log omega, {own.rms:.1g}, is too little to refute it" if own.negligible else ""
        return Selection(NAMED, single[0], left, f"every other model is refuted or contains it{why}", support)
    if alone:
        why = f"{alone}, but {', '.join(unknown)} {support[unknown[0]].missing}"
        return Selection(UNDECIDED, "", left, why, support)
    doubts = [name for name in left if contradiction(name, support[name].parameter, seen, 1 - EXPLAINED)]
    why = f"; later features are not as {', '.join(doubts)} implies" if doubts else ""
    return Selection(UNDECIDED, "", left, f"cannot be told apart here: {', '.join(left)}{why}", support)
