"""One measured run in the coordinates of the comparison, every model's predictions of it, and runs simulated from them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ufm.compare.coordinates import Entry, frame_of, gram_of_spectrum, log_gram
from ufm.compare.likelihood import Fitted, Noise, Path, at, fit_clock, simulate
from ufm.compare.models import path_of, paths, select

MOST_EPOCHS = 60  # of a longer run, so many are compared, spread evenly
SAME_START = 1e-3  # of log omega between the statistics of the entry and the spectrum there


@dataclass(frozen=True, eq=False)
class Measured:
    """One run as it is judged: epochs t (T,), omega (T, K), right vectors V (T, C, K) or, where they were not measured, (C, K),
    class counts (C,), and the class statistics of the first of these epochs where they are known.
    """

    t: np.ndarray
    omega: np.ndarray
    V: np.ndarray
    counts: np.ndarray
    entry: Entry | None = None


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
        self._given = (start, priors, frame, run.entry, float(diagonal.max()), float(diagonal.mean(1).max()))
        predicted = paths(names, *self._given)
        self.where = select(predicted, frozen)
        self.kinds = (self.where[0] != self.where[1]).astype(int)
        self.y = Y[:, self.where[0], self.where[1]]
        self.tolerance = tolerance
        self.paths: dict[str, list[Path]] = {name: [] for name in names}
        self.fits: dict[str, list[tuple[Fitted, Noise]]] = {name: [] for name in names}
        for name, found in predicted.items():
            for one in found:
                self._take_in(name, path_of(one, self.where))

    def _take_in(self, name: str, path: Path) -> None:
        fitted = self.fit(path, self.y[None], np.zeros((1, self.y.shape[1])))
        self.paths[name].append(path)
        self.fits[name].append((fitted, Noise(fitted.d[0], self.kinds, self.tolerance)))

    def add(self, name: str, value: float) -> None:
        """One more value of a model's parameter."""
        self._take_in(name, path_of(paths([name], *self._given, (value,))[name][0], self.where))

    def fit(self, path: Path, y: np.ndarray, start: np.ndarray) -> Fitted:
        """Runs y (B, T, m) at their best clocks, values weighted by what they leave."""
        first = fit_clock(path, y, start, np.ones_like(start))
        variance = (first.r[:, 1:] ** 2).mean(1) + self.tolerance**2
        floor = 0.05 * variance.mean(1, keepdims=True)  # one value that fits by chance must not set the clock alone
        return fit_clock(path, y, start, 1 / np.maximum(variance, floor))

    def scores(self, name: str, y: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log likelihoods (values of the parameter, B) of runs under a model, plain and with free paths."""
        plain, free = [], []
        for path, (_, noise) in zip(self.paths[name], self.fits[name], strict=True):
            own, other, _ = noise.evaluate(self.fit(path, y, start).r)
            plain.append(own)
            free.append(other)
        return np.array(plain), np.array(free)

    def simulated(self, name: str, which: int, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Runs (count, T, m) of a model at its fitted clock and noise, and the noise of their starts (count, m)."""
        fitted, noise = self.fits[name][which]
        _, _, best = noise.evaluate(fitted.r)
        errors = simulate(noise.innovations(fitted.r[0], best[0]), best[0], count, rng)
        return at(self.paths[name][which], fitted.tau[0]) + errors, errors[:, 0]
