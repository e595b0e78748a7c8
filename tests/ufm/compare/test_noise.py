"""The noise of a run as its residuals beside a fitted clock tell it: sizes, how sure they are, verdicts that rested on them."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from sims.comparison.controls import Case, make
from ufm.compare.likelihood import Fitted, Path
from ufm.compare.models import available
from ufm.compare.noise import Noise
from ufm.compare.outcome import Rule
from ufm.compare.predicted import PredictedRun, predict
from ufm.compare.response import Response
from ufm.compare.selection import judge_predicted

SIZE = 0.01
KINDS = np.zeros(3, dtype=int)


def fitted_run(rng: np.random.Generator, T: int, velocity: tuple[float, ...]) -> tuple[Path, Fitted]:
    """A straight path seen T times with white noise of one size on every value, the start included, and its fit."""
    G, m = 800, len(velocity)
    values = np.linspace(0, 1, G)[:, None] * velocity
    path = Path(values, Response(np.array([0.0, G - 1.0]), np.zeros((2, m, m))))
    y = values[np.linspace(0, 0.9 * G, T).astype(int)] + SIZE * rng.standard_normal((T, m))
    y -= y[0]
    run = cast(PredictedRun, SimpleNamespace(kinds=KINDS, tolerance=1e-6))
    return path, PredictedRun.fit(run, path, y[None], np.zeros((1, m)))


@pytest.mark.parametrize("velocity", [(4.0, 0.4, 0.2), (0.3, 5.0, 0.3)])
def test_a_value_that_the_clock_follows_has_the_noise_of_its_kind(velocity: tuple[float, ...]) -> None:
    """Its residuals are small because the clock takes them up: 0.1 of the noise and less."""
    sizes, simulated = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        path, fitted = fitted_run(rng, 60, velocity)
        assert fitted.r[0, 1:, int(np.argmax(velocity))].std() < 0.2 * SIZE
        sizes.append(1 / np.sqrt(fitted.weight[0]))
        e, start = Noise(path, fitted, KINDS, 1e-6).simulate(fitted, 200, rng)
        simulated.append([e.std((0, 1)), start[:, 3:].std(0)])
    np.testing.assert_allclose(np.median(sizes, 0) / SIZE, 1.0, atol=0.5)  # 1.2: the first epoch's noise is in all others
    np.testing.assert_allclose(np.median(simulated, 0) / SIZE, 1.0, atol=0.5)


def test_few_epochs_leave_the_size_of_the_noise_uncertain() -> None:
    """Of chi-square with f freedoms, the 95th percentile of the size simulated over its median: 2.4 at f = 4, 1.1 at f = 100."""
    furthest = []
    for T in (4, 60):
        rng = np.random.default_rng(T)
        path, fitted = fitted_run(rng, T, (2.0, 2.0, 2.0))
        e, _ = Noise(path, fitted, KINDS, 1e-6).simulate(fitted, 4000, rng)
        size = np.sqrt((e**2).mean((1, 2)))
        furthest.append(np.quantile(size, 0.95) / np.median(size))
    assert furthest[0] > 1.8
    assert furthest[1] < 1.4


@pytest.mark.parametrize(
    ("T", "noise", "rho", "seed"),
    [(60, 0.01, 0.0, 88), pytest.param(60, 0.01, 0.0, 89, marks=pytest.mark.slow), (4, 0.03, 0.7, 14)],
)
def test_plain_descent_is_not_refuted_by_a_start_whose_error_was_underestimated(
    T: int, noise: float, rho: float, seed: int
) -> None:
    case = Case("unnormalized", C=3, T=T, growth=30.0, noise=noise, rho=rho, unequal=True)
    runs = make(case, seed)
    names = [name for name, missing in available(runs[0].entry).items() if not missing]
    states = predict(runs, names, Rule().tolerance)
    p = []
    for simulated in range(3):
        selection = judge_predicted(states, dict.fromkeys(names, ""), Rule(seed=simulated))
        assert selection.name in ("", "unnormalized")
        p.append(selection.support["unnormalized"].p_rival)
    assert np.median(p) > 0.01  # 159 runs simulated tell a p of 0.006 from one of 0.05 by chance only: three times as many
