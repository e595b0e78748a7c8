"""Which models survive: likelihood ratios against every rival and against free paths, calibrated by a parametric bootstrap.

A model is refuted where its likelihood falls behind the best rival's, of all runs or of one, or behind that of values that also
follow smooth paths of their own, further than in every one of the runs that are simulated from it: its fitted clock, noise with
the fitted correlation in time and across values, the start measured with that noise. There are so many that this has probability
at most (1 - level) / (models x choices x tests) in each of the tests under the model, two for one run and three for several.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ufm.compare.coordinates import frame_of, gram_of_spectrum, log_gram
from ufm.compare.likelihood import Fitted, Path, at, most_likely_clock
from ufm.compare.models import COARSE, KERNEL, MODELS, SPACING, UNNORMALIZED, Start, available, select
from ufm.compare.noise import PRIOR_FREEDOMS, Noise
from ufm.compare.outcome import NAMED, NOT_COMPARED, REFUTED, UNDECIDED, Measured, Rule, Selection, Support

FEWEST = 4  # epochs
REFINEMENTS, CLOSE_VALUES = 5, 0.02  # of a parameter, and the distance in its logarithm that ends them
MOST_EPOCHS = 60  # of a longer run, so many are compared, spread evenly
CHUNK = 20  # runs simulated at once
BEYOND = 8.0  # standard deviations past the furthest simulated run, where no more are simulated
NAN = float("nan")
SAME_START = 1e-3  # of log omega between the statistics of the entry and the spectrum there


class PredictedRun:
    """One run in coordinates, with the predictions of every model."""

    def __init__(self, run: Measured, names: Sequence[str], tolerance: float) -> None:
        rows = np.arange(len(run.t))
        if len(rows) > MOST_EPOCHS:
            rows = np.unique(np.round(np.linspace(0, len(rows) - 1, MOST_EPOCHS)).astype(int))
        priors = run.counts / run.counts.sum()
        frozen = run.V.ndim == 2
        V = np.broadcast_to(run.V, (len(run.t), *run.V.shape)) if frozen else run.V
        gram = gram_of_spectrum(run.omega[rows], V[rows], priors)
        frame = frame_of(gram[0])
        Y = log_gram(gram, frame)
        start = gram[0]
        if run.entry is not None:
            start = run.entry.gram()
            gap = abs(log_gram(start, frame) - Y[0]).max()
            if gap > SAME_START:
                raise ValueError(f"the class statistics given are not those of the first epoch: log omega differs by {gap:.2g}")
        diagonal = np.diagonal(Y, axis1=1, axis2=2)
        self.begin = Start(start, run.counts, frame, run.entry, float(diagonal.max()), float(diagonal.mean(1).max()))
        self.traced = {name: self.begin.traces(name, spacing=COARSE if MODELS[name].values else SPACING) for name in names}
        self.where = select(self.traced, frozen)
        self.kinds = (self.where[0] != self.where[1]).astype(int)
        self.y = Y[:, self.where[0], self.where[1]]
        self.given = self.y[None], np.zeros((1, self.y.shape[1]))
        self.tolerance = tolerance
        self.paths: dict[str, list[Path]] = {name: [] for name in names}
        self.fits: dict[str, list[tuple[Fitted, Noise]]] = {name: [] for name in names}
        for name in names:
            if not MODELS[name].values:
                self._take_in(name, self.begin.path(name, self.traced[name][0], self.where))
        for name in names:
            if UNNORMALIZED in MODELS[name].contains:  # its limit
                self.paths[name].append(replace(self.paths[UNNORMALIZED][0], parameter=MODELS[name].limit))
                self.fits[name].append(self.fits[UNNORMALIZED][0])

    def _take_in(self, name: str, path: Path) -> None:
        fitted = self.fit(path, self.y[None], np.zeros((1, self.y.shape[1])))
        self.paths[name].append(path)
        self.fits[name].append((fitted, Noise(path, fitted, self.kinds, self.tolerance)))

    def rough(self, name: str) -> np.ndarray:
        """Log likelihood under white noise after the start, of every listed value of a model's parameter."""
        n, likely = len(self.y) - 1, list[float]()
        for _, Y, _ in self.traced[name]:
            path = Path(Y[:, self.where[0], self.where[1]], self.paths[UNNORMALIZED][0].response)
            weight = self.fit(path, self.y[None], np.zeros((1, self.y.shape[1]))).weight
            likely.append(float(0.5 * n * np.log(weight).sum()))
        return np.array(likely)

    def add(self, name: str, value: float) -> None:
        """One more value of a model's parameter."""
        (traced,) = self.begin.traces(name, (value,))
        self._take_in(name, self.begin.path(name, traced, self.where))

    def fit(self, path: Path, y: np.ndarray, start: np.ndarray) -> Fitted:
        """Runs y (B, T, m) at their best clocks, values weighted by what they leave, shrunk to what their kind leaves."""
        first = most_likely_clock(path, y, start, np.ones_like(start))
        n = y.shape[1] - 1
        variance = (first.r[:, 1:] ** 2).mean(1) + self.tolerance**2
        for kind in (0, 1):  # one value that fits by chance must not set the clock alone
            of = self.kinds == kind
            if of.any():
                common = variance[:, of].mean(1, keepdims=True)
                variance[:, of] = (PRIOR_FREEDOMS * common + n * variance[:, of]) / (PRIOR_FREEDOMS + n)
        return most_likely_clock(path, y, start, 1 / variance)

    def scores(self, name: str, y: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log likelihoods (values of the parameter, B) of runs under a model, plain and with free paths."""
        pairs = [
            noise.evaluate(self.fit(path, y, start).r) for path, (_, noise) in zip(self.paths[name], self.fits[name], strict=True)
        ]
        return np.array([plain for plain, _ in pairs]), np.array([free for _, free in pairs])

    def simulated(
        self, name: str, which: int, likeliest: tuple[str, int], count: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Runs (count, T, m) of a model at its fitted clock, with noise as the likeliest model leaves, and that of their starts.

        What a wrong model leaves is no noise: simulated as such, it would excuse the model.
        """
        fitted, _ = self.fits[name][which]
        left, noise = self.fits[likeliest[0]][likeliest[1]]
        errors = noise.simulate(left, count, rng)
        return at(self.paths[name][which], fitted.tau[0]) + errors, errors[:, 0]


def predict(runs: Sequence[Measured], names: Sequence[str], tolerance: float) -> list[PredictedRun]:
    """The runs with the predictions of some models, parameters at common values where they are likely.

    Raises ValueError for entry statistics that are not those of a run's first epoch.
    """
    states = [PredictedRun(run, names, tolerance) for run in runs]
    for name in names:
        if MODELS[name].values:
            _search(states, name)
    return states


def judge(runs: Sequence[Measured], rule: Rule | None = None) -> Selection:
    """The models that survive on several runs of one experiment: one model and parameter for all, a clock for each.

    Raises ValueError for entry statistics that are not those of a run's first epoch.
    """
    rule = rule or Rule()
    if not runs:
        return Selection(NOT_COMPARED, "", (), "no run was given", {})
    if min(len(run.t) for run in runs) < FEWEST:
        return Selection(NOT_COMPARED, "", (), f"a run has fewer than {FEWEST} usable epochs", {})
    missing = {name: next((m for m in (available(run.entry)[name] for run in runs) if m), "") for name in MODELS}
    names = [name for name in MODELS if not missing[name]]
    return judge_predicted(predict(runs, names, rule.tolerance), missing, rule)


def judge_predicted(states: Sequence[PredictedRun], missing: Mapping[str, str], rule: Rule) -> Selection:
    """The same from predictions; `missing` says of every model what it lacks, "" where it is predicted."""
    names = [name for name, why in missing.items() if not why]
    given = [state.given for state in states]
    observed = {name: _total(states, name, given) for name in names}
    count = rule.simulations(len(names), 2 if len(states) == 1 else 3)
    support = {}
    for position, name in enumerate(names):
        rng = np.random.default_rng([rule.seed, position])
        support[name] = _support(states, names, name, observed, count, rng)
    for name, why in missing.items():
        if why:
            support[name] = Support(NAN, None, NAN, NAN, NAN, NAN, NAN, False, why)
    return _verdict(support)


def _search(states: Sequence[PredictedRun], name: str) -> None:
    """Add values of a model's parameter where it is likely: the likeliest listed and its neighbours, then, as long as one is at
    the end, the next one, else the top of the parabola in its logarithm; and the reciprocal, which is as near to the limit r = 1.
    """
    listed = np.array(MODELS[name].values)
    top = int(np.sum([state.rough(name) for state in states], axis=0).argmax())
    for value in listed[max(top - 1, 0) : top + 2]:
        _add(states, name, float(value))
    for _ in range(REFINEMENTS):
        values = np.array([path.parameter for path in states[0].paths[name]], dtype=float)
        scores = np.sum([state.scores(name, *state.given)[0][:, 0] for state in states], axis=0)
        order = np.argsort(values)
        x, y = np.log(values[order]), scores[order]
        top = int(y.argmax())
        further = listed[listed < values.min()][-1:] if top == 0 else listed[listed > values.max()][:1]
        if 0 < top < len(x) - 1 and np.isfinite(x[top + 1]):
            a, b, _ = np.polyfit(x[top - 1 : top + 2] - x[top], y[top - 1 : top + 2], 2)
            new = float(np.exp(x[top] - b / (2 * a))) if a < 0 else float(values[order][top])
        elif len(further):
            new = float(further[0])
        else:
            break
        if abs(np.log(new) - x).min() <= CLOSE_VALUES:
            break
        _add(states, name, new)
    if name == KERNEL and values[order][top] != 1.0:
        _add(states, name, 1 / float(values[order][top]))


def _add(states: Sequence[PredictedRun], name: str, value: float) -> None:
    for state in states:
        if all(path.parameter != value for path in state.paths[name]):
            state.add(name, value)


def _total(
    states: Sequence[PredictedRun], name: str, samples: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log likelihood (runs, B) at the best common parameter, that of free paths of all runs (B,), and which it is (B,)."""
    scores = [state.scores(name, y, start) for state, (y, start) in zip(states, samples, strict=True)]
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
    simulated = np.empty((len(statistics), 0))
    while simulated.shape[1] < count and not _settled(statistics, simulated):
        samples = [state.simulated(name, which, noise, min(CHUNK, count - simulated.shape[1]), rng) for state in states]
        mine, mine_free, _ = _total(states, name, samples)
        rivals = [_total(states, other, samples)[0] for other in others]
        simulated = np.hstack([simulated, _statistics(mine, mine_free, rivals)])
    far = (simulated >= statistics[:, None]).sum(1)
    p = (1 + far) / (1 + np.where(far, simulated.shape[1], count))  # a model left behind by far is not simulated to the end
    refuted = bool(((far == 0) & (statistics > 0) & (simulated.shape[1] > 0)).any())
    rms = float(np.sqrt(np.mean([(state.fits[name][which][0].r[0, 1:] ** 2).mean() for state in states])))
    p_rival = float(p[:-1].min()) if statistics[:-1].max(initial=0.0) > 0 else 1.0
    parameter = states[0].paths[name][which].parameter
    behind, ahead = float(statistics[0]), float(statistics[-1])
    return Support(float(own.sum()), parameter, rms, behind, ahead, p_rival, float(p[-1]), refuted)


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
    spread = simulated.std(1)
    beyond = (statistics > 0) & (statistics > simulated.max(1) + BEYOND * np.maximum(spread, 1.0))
    return bool(far.all() or beyond.any())


def _verdict(support: Mapping[str, Support]) -> Selection:
    left = tuple(name for name, own in support.items() if not own.missing and not own.refuted)
    unknown = tuple(name for name, own in support.items() if own.missing and MODELS[name].needs != "classifier")
    if not left:
        if unknown:
            return Selection(UNDECIDED, "", (), f"every model predicted is refuted; not predicted: {', '.join(unknown)}", support)
        return Selection(REFUTED, "", (), "every model is refuted", support)
    single = [name for name in left if all(other == name or name in MODELS[other].contains for other in left)]
    if len(single) == 1 and not unknown:
        return Selection(NAMED, single[0], left, "every other model is refuted or contains it", support)
    if len(single) == 1:
        why = f"{single[0]} is the one left, but {', '.join(unknown)} {support[unknown[0]].missing}"
        return Selection(UNDECIDED, "", left, why, support)
    return Selection(UNDECIDED, "", left, f"cannot be told apart here: {', '.join(left)}", support)
