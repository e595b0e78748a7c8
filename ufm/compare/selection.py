"""Which models survive: likelihood ratios against every rival and against free paths, calibrated by a parametric bootstrap.

A model is refuted where its likelihood falls behind the best rival's, of all runs or of one, or behind that of values that also
follow smooth paths of their own, further than in every one of the runs that are simulated from it: its fitted clock, noise with
the fitted correlation in time and across values, the start measured with that noise. There are so many that this has probability
at most (1 - level) / (models x choices x 3) in each of the three tests under the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ufm.compare.models import MODELS, available
from ufm.compare.predicted_run import Measured, PredictedRun

NAMED, UNDECIDED, REFUTED, NOT_COMPARED = "named", "undecided", "refuted", "not compared"
FEWEST = 4  # epochs
REFINEMENTS, CLOSE_VALUES = 3, 0.02  # of a parameter, and the distance in its logarithm that ends them
CHUNK = 20  # runs simulated at once
NAN = float("nan")


@dataclass(frozen=True)
class Rule:
    """level: of all refutations together; choices: how many ways to choose the epochs were tried; tolerance: of log omega, the
    accuracy below which no model is held to account; seed: of the bootstrap.
    """

    level: float = 0.95
    choices: int = 1
    tolerance: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level = {self.level}: it must be between 0 and 1")
        if self.choices < 1:
            raise ValueError(f"choices = {self.choices}: at least 1 way to choose the epochs was taken")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance = {self.tolerance}: it must be between 0 and 1, 0.001 for example")
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed}: it cannot be negative")

    def simulations(self, models: int) -> int:
        """Runs simulated of a model, of which not one may fall as far behind."""
        return int(np.ceil(3 * models * self.choices / (1 - self.level))) - 1


@dataclass(frozen=True)
class Support:
    """What speaks for and against a model: log likelihood, its parameter, rms of log omega left, p-values, why it was not judged.

    behind     log likelihood behind the best rival; free: behind free paths
    p_rival, p_free   shares of runs simulated from the model that fall as far behind, (1 + count) / (1 + simulated)
    """

    log_likelihood: float
    parameter: float | None
    rms: float
    behind: float
    free: float
    p_rival: float
    p_free: float
    refuted: bool
    missing: str = ""


@dataclass(frozen=True)
class Selection:
    """outcome: "named", "undecided", "refuted" (every model) or "not compared"; name of the model, "" unless named; `compatible`
    names those that are left, a model with a parameter beside its special cases too; `support` by name; the reason in a sentence.
    """

    outcome: str
    name: str
    compatible: tuple[str, ...]
    reason: str
    support: Mapping[str, Support]


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
    states = [PredictedRun(run, names, rule.tolerance) for run in runs]
    given = [(state.y[None], np.zeros((1, state.y.shape[1]))) for state in states]
    for name in names:
        for _ in range(REFINEMENTS if MODELS[name].values else 0):
            _refine(states, name)
    observed = {name: _total(states, name, given) for name in names}
    count = rule.simulations(len(names))
    support = {}
    for position, name in enumerate(names):
        rng = np.random.default_rng([rule.seed, position])
        support[name] = _support(states, names, name, observed, count, rng)
    for name, why in missing.items():
        if why:
            support[name] = Support(NAN, None, NAN, NAN, NAN, NAN, NAN, False, why)
    return _verdict(support)


def _refine(states: Sequence[PredictedRun], name: str) -> None:
    """Add the value of the parameter at the top of the parabola, in its logarithm, through the likeliest and its neighbours."""
    values = np.array([path.parameter for path in states[0].paths[name]], dtype=float)
    scores = sum(state.scores(name, state.y[None], np.zeros((1, state.y.shape[1])))[0][:, 0] for state in states)
    order = np.argsort(values)
    x, y = np.log(values[order]), np.asarray(scores)[order]
    top = int(y.argmax())
    if 0 < top < len(x) - 1:
        a, b, _ = np.polyfit(x[top - 1 : top + 2] - x[top], y[top - 1 : top + 2], 2)
        new = x[top] - b / (2 * a) if a < 0 else x[top]
        if abs(new - x).min() > CLOSE_VALUES:
            for state in states:
                state.add(name, float(np.exp(new)))


def _total(
    states: Sequence[PredictedRun], name: str, samples: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log likelihood (runs, B) at the best common parameter, that of free paths of all runs (B,), and which it is (B,)."""
    scores = [state.scores(name, y, start) for state, (y, start) in zip(states, samples, strict=True)]
    plain, free = (np.stack([found[k] for found in scores]) for k in (0, 1))  # (runs, values, B)
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
    own, free, best = observed[name]
    others = [other for other in names if other != name]
    behind, worst = (float(x[0]) for x in _behind(own, [observed[other][0] for other in others]))
    ahead, which = float(free[0] - own[:, 0].sum()), int(best[0])
    done, far, far_one, far_free = 0, 0, 0, 0
    while done < count and not ((far or not behind > 0) and (far_one or not worst > 0) and far_free):
        size = min(CHUNK, count - done)
        samples = [state.simulated(name, which, size, rng) for state in states]
        mine, mine_free, _ = _total(states, name, samples)
        if worst > 0 and not (far and far_one):
            together, one = _behind(mine, [_total(states, other, samples)[0] for other in others])
            far, far_one = far + int((together >= behind).sum()), far_one + int((one >= worst).sum())
        far_free += int((mine_free - mine.sum(0) >= ahead).sum())
        done += size
    p_rival = min(1.0 if not behind > 0 else (1 + far) / (1 + done), 1.0 if not worst > 0 else (1 + far_one) / (1 + done))
    p_free = (1 + far_free) / (1 + done)
    refuted = (behind > 0 and not far) or (worst > 0 and not far_one) or (ahead > 0 and not far_free)
    rms = float(np.sqrt(np.mean([(state.fits[name][which][0].r[0, 1:] ** 2).mean() for state in states])))
    return Support(float(own.sum()), states[0].paths[name][which].parameter, rms, float(behind), ahead, p_rival, p_free, refuted)


def _behind(own: np.ndarray, others: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """How far (runs, B) log likelihoods fall behind the best rival's: together, and in the run where most. (B,) each"""
    if not others:
        return np.full(own.shape[1], -np.inf), np.full(own.shape[1], -np.inf)
    together = np.max([other.sum(0) for other in others], axis=0) - own.sum(0)
    return together, (np.max(others, axis=0) - own).max(0)


def _verdict(support: Mapping[str, Support]) -> Selection:
    left = tuple(name for name, found in support.items() if not found.missing and not found.refuted)
    unknown = tuple(name for name, found in support.items() if found.missing and MODELS[name].needs != "classifier")
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
