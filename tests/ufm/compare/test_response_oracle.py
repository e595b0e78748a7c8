"""The response of a flow to errors of its start, against central differences of dense integrations by scipy's DOP853."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from tests.ufm.compare.test_response import anisotropic_entry, start_of
from ufm.compare import models
from ufm.compare.coordinates import Entry, log_gram
from ufm.compare.models import JOINT, KERNEL, Predictor
from ufm.compare.response import TURN, response, turns

WHERE = np.triu_indices(3)
SHORT = 5  # steps of a trace that follow a classifier to rest, over which the response is interpolated


def integrated(entry: Entry, name: str, value: float, M: np.ndarray, times: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Y along the flow from class means M (with their mean), of the class means and a factor of Sigma_W. (T, K, K)"""
    assert entry.W is not None
    assert entry.b is not None
    (P, C), pi = entry.M.shape, entry.priors
    shapes = [(C, P), (C,), (P, C), (P, P)]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])

    def parts(y: np.ndarray) -> list[np.ndarray]:
        return [x.reshape(shape) for x, shape in zip(np.split(y, ends[:-1]), shapes, strict=True)]

    def velocity(_: float, y: np.ndarray) -> np.ndarray:
        W, b, M, D = parts(y)
        r, kappa, decay_w, decay_h = 1.0, value, entry.decay_w, entry.decay_h
        if name == KERNEL:  # W and b at least squares
            r, kappa, decay_w, decay_h = value, 0.0, 0.0, 0.0
            mean = M @ pi
            centred = M - mean[:, None]
            W = np.linalg.solve(D @ D.T + (centred * pi) @ centred.T, centred * pi).T
            b = pi - W @ mean
        off = W @ M + b[:, None] - np.eye(C)
        of_W = W @ D @ D.T + (off * pi) @ M.T + decay_w * W
        of_M, of_D = W.T @ off + decay_h * M, W.T @ (W @ D) + decay_h * D
        return -np.concatenate([x.ravel() for x in (kappa * of_W, kappa * (off @ pi), r * of_M, of_D)])

    values, E = np.linalg.eigh(entry.sigma_w)
    start = np.concatenate([x.ravel() for x in (entry.W, entry.b, M, E * np.sqrt(values))])
    solved = solve_ivp(velocity, (0, times[-1]), start, "DOP853", times, rtol=1e-10, atol=1e-13)
    grams = []
    for y in solved.y.T:
        _, _, M, D = parts(y)
        white = np.linalg.solve(D, (M - (M @ pi)[:, None]) * np.sqrt(pi))
        grams.append(white.T @ white)
    return log_gram(np.array(grams), frame)


def dense_response(start: Predictor, name: str, value: float, T: np.ndarray, times: np.ndarray) -> np.ndarray:
    """d Y_t / d Y_0 at times (S,), by starts in error by TURN either way. (S, 6, 6)"""
    entry = start.entry
    assert entry is not None
    assert entry.mean is not None
    q, ends = np.sqrt(entry.priors), []
    for sign in (1, -1):
        starts = [(entry.M * q) @ (np.eye(4) + sign * (t - np.eye(4))) / q + entry.mean[:, None] for t in T[1:]]
        ends.append(np.array([integrated(entry, name, value, M, times, start.frame) for M in starts]))
    return ((ends[0] - ends[1]) / (2 * TURN))[:, :, *WHERE].transpose(1, 2, 0)


@pytest.mark.parametrize(
    ("name", "value", "watched", "quick"),
    [
        (KERNEL, 0.3, 5e-4, 1e-3),
        (KERNEL, 4.0, 5e-4, 1e-3),
        (JOINT, 1.0, 2e-4, 1e-3),
        *(pytest.param(JOINT, *case, marks=pytest.mark.slow) for case in ((10.0, 2e-4, 3e-3), (100.0, 2e-4, 4e-3))),  # stiff
    ],
)
def test_the_response_is_the_derivative_of_the_dense_flow(name: str, value: float, watched: float, quick: float) -> None:
    """Of order 1, at every place after the short first steps: by steps that watch their error, and by the cheaper ones."""
    start = start_of(anisotropic_entry(np.random.default_rng(2)))
    ((_, Y, times),) = start.traces(name, (value,))
    T = turns(Y[0], start.frame, WHERE)
    ((_, motion),) = models.motions(name, start.gram, start.counts, start.entry, (value,), T)
    grid = np.arange(len(times), dtype=float)
    expected = dense_response(start, name, value, T, times)[SHORT:]
    assert abs(expected[-1] - np.eye(6)).max() > 0.5
    for one, allowed in ((replace(motion, quick=None), watched), (motion, quick)):
        D = response(one, start.frame, Y, times, grid, WHERE).at(grid)[SHORT:]
        np.testing.assert_allclose(D, expected, rtol=0, atol=allowed)
