"""Measured runs with the predictions of every model: paths at common parameters, their fits, likelihoods, and simulated runs."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ufm.compare.coordinates import frame_of, gram_of_spectrum, log_gram
from ufm.compare.likelihood import Fitted, Path, at, most_likely_clock, predicted_from
from ufm.compare.models import KERNEL, MODELS, PLAIN, SAME_START, Predictor, select
from ufm.compare.noise import Noise, shrunk
from ufm.compare.outcome import Measured
from ufm.compare.response import Response

REFINEMENTS, SMALL_GAIN = 8, 0.1  # of a parameter, and the gain of log likelihood that ends them
NO_PARABOLA = (
    10.0  # log likelihood between the best value and the next, over which it is no parabola: the gain of its top says little
)
MOST_COMPARED = 60  # of a longer run, so many are compared, spread evenly


class FollowedRun:
    """One run in coordinates, with the flow of every model from its start, and the clock at which one suits it best."""

    def __init__(self, run: Measured, names: Sequence[str], tolerance: float) -> None:
        rows = np.arange(len(run.t))
        if len(rows) > MOST_COMPARED:
            rows = np.unique(np.round(np.linspace(0, len(rows) - 1, MOST_COMPARED)).astype(int))
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
        self.begin = Predictor(start, run.counts, frame, run.entry, float(diagonal.max()), float(diagonal.mean(1).max()))
        self.traced = {name: self.begin.traces(name, rough=MODELS[name].stiff) for name in names}
        self.where = select(self.traced, frozen)
        self.kinds = (self.where[0] != self.where[1]).astype(int)
        self.y = Y[:, self.where[0], self.where[1]]
        self.given = self.y[None], np.zeros((1, self.y.shape[1]))
        self.tolerance = tolerance

    def path_alone(self, traced: tuple[float | None, np.ndarray, np.ndarray]) -> Path:
        """A trace on an even grid, for runs whose start is not in error."""
        values = self.begin.on_grid(traced[1], self.where)
        return Path(values, Response.unchanged(values.shape[1]), traced[0])

    def fit(self, path: Path, y: np.ndarray, start: np.ndarray) -> Fitted:
        """Runs y (B, T, m) at their best clocks, values weighted by the noise they have, shrunk to that of their kind.

        A value that grows fastest leaves little because the clock follows it: weighted by that, it would set the clock alone.
        """
        Q = predicted_from(path, start)
        first = most_likely_clock(Q, y, np.ones((len(y), y.shape[2])))
        squares = (first.r[:, 1:] ** 2).sum(1) + (y.shape[1] - 1) * self.tolerance**2
        variance = np.empty_like(squares)
        for kind in (0, 1):
            of = self.kinds == kind
            if of.any():
                variance[:, of] = shrunk(squares[:, of], first.freedoms[:, of])
        return most_likely_clock(Q, y, 1 / variance)


class PredictedRun(FollowedRun):
    """One run in coordinates, with the predictions of every model."""

    def __init__(self, run: Measured, names: Sequence[str], tolerance: float) -> None:
        super().__init__(run, names, tolerance)
        self.paths: dict[str, list[Path]] = {name: [] for name in names}
        self.fits: dict[str, list[tuple[Fitted, Noise]]] = {name: [] for name in names}
        for name in names:
            if not MODELS[name].values:
                self._take_in(name, self.begin.path(name, self.traced[name][0], self.where))
        for name in names:
            if PLAIN in MODELS[name].contains:  # its limit
                self.paths[name].append(replace(self.paths[PLAIN][0], parameter=MODELS[name].limit))
                self.fits[name].append(self.fits[PLAIN][0])

    def _take_in(self, name: str, path: Path) -> None:
        fitted = self.fit(path, *self.given)
        path = replace(path, response=path.response.widened(self.kinds, 1 / np.sqrt(fitted.weight[0])))
        self.paths[name].append(path)
        self.fits[name].append((fitted, Noise(path, fitted, self.kinds, self.tolerance)))

    def rough(self, name: str) -> np.ndarray:
        """Log likelihood under white noise after the start, of every listed value of a model's parameter."""
        n, likely = len(self.y) - 1, list[float]()
        for traced in self.traced[name]:
            weight = self.fit(self.path_alone(traced), *self.given).weight
            likely.append(float(0.5 * n * np.log(weight).sum()))
        return np.array(likely)

    def add(self, name: str, value: float) -> None:
        """One more value of a model's parameter."""
        known = [one for one in self.traced[name] if one[0] == value and not MODELS[name].stiff]
        (traced,) = known or self.begin.traces(name, (value,))
        self._take_in(name, self.begin.path(name, traced, self.where))

    def observed(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """`scores` of the run itself, of the fits that there are: (values of the parameter, 1) each."""
        pairs = [noise.evaluate(fitted.r) for fitted, noise in self.fits[name]]
        return np.array([plain for plain, _ in pairs]), np.array([free for _, free in pairs])

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
        errors, start = noise.simulate(left, count, rng)
        return at(self.paths[name][which], fitted.tau[0]) + errors, start


def predict(runs: Sequence[Measured], names: Sequence[str], tolerance: float) -> list[PredictedRun]:
    """The runs with the predictions of some models, parameters at common values where they are likely.

    Raises ValueError for entry statistics that are not those of a run's first epoch.
    """
    states = [PredictedRun(run, names, tolerance) for run in runs]
    for name in names:
        if MODELS[name].values:
            _search_parameter(states, name)
    return states


def _search_parameter(states: Sequence[PredictedRun], name: str) -> None:
    """Add values of a model's parameter where it is likely: the likeliest listed and its neighbours, then, as long as one is at
    the end, the next one, else the top of the parabola in its logarithm, until that gains little and a neighbour is nearly as
    likely (before, the middle between them); and the reciprocal, which is as near to the limit r = 1.
    """
    listed = np.array(MODELS[name].values)
    top = int(np.sum([state.rough(name) for state in states], axis=0).argmax())
    for value in (*listed[max(top - 1, 0) : top + 2], *MODELS[name].distinct):
        _add_value(states, name, float(value))
    for _ in range(REFINEMENTS):
        values = np.array([path.parameter for path in states[0].paths[name]], dtype=float)
        scores = np.sum([state.observed(name)[0][:, 0] for state in states], axis=0)
        order = np.argsort(values)
        x, y = np.log(values[order]), scores[order]
        top = int(y.argmax())
        further = listed[listed < values.min()][-1:] if top == 0 else listed[listed > values.max()][:1]
        if 0 < top < len(x) - 1 and np.isfinite(x[top + 1]):
            a, b, _ = np.polyfit(x[top - 1 : top + 2] - x[top], y[top - 1 : top + 2], 2)
            nearest = top + 1 if y[top + 1] > y[top - 1] else top - 1
            if a < 0 and b**2 > -4 * a * SMALL_GAIN:
                new = float(np.exp(x[top] - b / (2 * a)))
            elif y[top] - y[nearest] > NO_PARABOLA:
                new = float(np.exp((x[top] + x[nearest]) / 2))
            else:
                break
        elif len(further):
            new = float(further[0])
        else:
            break
        _add_value(states, name, new)
    if name == KERNEL and values[order][top] != 1.0:
        _add_value(states, name, 1 / float(values[order][top]))


def _add_value(states: Sequence[PredictedRun], name: str, value: float) -> None:
    for state in states:
        if all(path.parameter != value for path in state.paths[name]):
            state.add(name, value)
