"""The response of a path to errors of its start, against paths traced from starts that are in error."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import CubicSpline
from scipy.linalg import expm_frechet

from tests.ufm.compare.descents import entry_of, labelled, white_start
from ufm.compare import models
from ufm.compare.coordinates import Entry, frame_of, log_gram
from ufm.compare.joint_tangents import relaxation
from ufm.compare.models import JOINT, KERNEL, PLAIN, Predictor
from ufm.compare.motions import FIRST_HALVINGS, trace
from ufm.compare.response import MOST_FULL, krylov, response, turns
from ufm.compare.unnormalized_motion import unnormalized_motion
from ufm.laws.singular_value_dynamics import EMBEDDED, RENORMALIZED

SIZES = [23, 17, 13, 10]


def start_of(entry: Entry) -> Predictor:
    gram = entry.gram()
    frame = frame_of(gram)
    x = np.diagonal(log_gram(gram, frame))
    return Predictor(gram, entry.counts, frame, entry, float(x.max() + 0.5), float(x.mean() + 0.7))


def anisotropic_entry(rng: np.random.Generator) -> Entry:
    E = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    H = (E * np.exp(rng.uniform(-0.7, 0.7, 6))) @ E.T @ white_start(rng, SIZES, 6, 1.0) + rng.standard_normal((6, 1))
    W, b = 0.3 * rng.standard_normal((4, 6)), 0.1 * rng.standard_normal(4)
    return entry_of(H, labelled(SIZES), W, b, decay_w=0.01, decay_h=0.02)


def in_error(entry: Entry, frame: np.ndarray, E: np.ndarray) -> Entry:
    """The entry with class means such that Y_0 is larger by E (K, K)."""
    q = np.sqrt(entry.priors)
    values, vectors = np.linalg.eigh(log_gram(entry.gram(), frame) + E)
    scaled = (vectors * np.exp(values)) @ vectors.T
    half, turn = np.linalg.eigh(entry.sigma_w)
    root = (turn * np.sqrt(half)) @ turn.T
    U, _, Vt = np.linalg.svd(np.linalg.solve(root, entry.M * q @ frame), full_matrices=False)
    return replace(entry, M=root @ U @ Vt @ scaled @ frame.T / q)


def nearest(path: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Of every point (T, m) the vector from the cubic spline through a path (S, m). (T, m)"""
    path = CubicSpline(np.arange(len(path)), path)(np.linspace(0, len(path) - 1, 8 * len(path)))
    a, b = path[:-1], path[1:]
    apart = []
    for p in points:
        share = np.clip(((p - a) * (b - a)).sum(1) / ((b - a) ** 2).sum(1), 0, 1)
        difference = p - a - share[:, None] * (b - a)
        apart.append(difference[(difference**2).sum(1).argmin()])
    return np.array(apart)


@pytest.mark.parametrize(
    ("name", "value"),
    [(RENORMALIZED.name, None), (EMBEDDED.name, None), (PLAIN, None), (KERNEL, 4.0), (JOINT, 1.0)],
)
def test_the_path_from_a_start_in_error_is_the_path_and_its_response(name: str, value: float | None) -> None:
    """What the response leaves is of second order in the error, for unequal classes, anisotropic features and any direction."""
    rng = np.random.default_rng(2)
    entry = anisotropic_entry(rng)
    start = start_of(entry)
    where = np.triu_indices(3)
    parameter = None if value is None else (value,)
    path = start.path(name, start.traces(name, parameter)[0], where)
    E = rng.standard_normal((3, 3))
    E = (E + E.T) / 2
    left = []
    for size in (0.04, 0.01):
        wrong = in_error(entry, start.frame, size * E)
        np.testing.assert_allclose(log_gram(wrong.gram(), start.frame)[where], path.values[0] + size * E[where], atol=1e-9)
        other = replace(start, gram=wrong.gram(), entry=wrong)
        ((_, Y, _),) = other.traces(name, parameter)
        predicted = path.values + path.response.moved(size * E[where][None], len(path.values))[0]
        points = Y[:: max(len(Y) // 12, 1), where[0], where[1]][1:-2]
        left.append(np.linalg.norm(nearest(predicted, points), axis=1).max())
        assert np.linalg.norm(nearest(path.values + size * E[where], points), axis=1).max() > 8 * left[-1] or size == 0.04
    assert left[0] < 0.012
    assert left[1] < left[0] / 6


@pytest.mark.parametrize("kappa", [0.3, 1.0, 100.0])
def test_the_response_by_cheap_steps_is_that_by_steps_that_watch_their_error(kappa: float) -> None:
    start = start_of(anisotropic_entry(np.random.default_rng(2)))
    where = np.triu_indices(3)
    ((_, Y, times),) = start.traces(JOINT, (kappa,))
    ((_, motion),) = models.motions(JOINT, start.gram, start.counts, start.entry, (kappa,), turns(Y[0], start.frame, where))
    assert motion.quick is not None
    grid = np.arange(len(times), dtype=float)
    ways = [response(one, start.frame, Y, times, grid, where) for one in (motion, replace(motion, quick=None))]
    cheap, careful = (one.at(grid) for one in ways)
    assert abs(careful[-1] - np.eye(6)).max() > 0.1
    np.testing.assert_allclose(cheap, careful, atol=0.004)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_between_few_places_of_a_long_path_the_response_is_that_of_all_places(seed: int) -> None:
    """Of a classifier that is not at rest, whose response bends most at first: after the steps that bring it to rest."""
    start = start_of(anisotropic_entry(np.random.default_rng(seed)))
    start = replace(start, mean=start.mean + 0.9, largest=start.largest + 1.9)
    where, rest = np.triu_indices(3), FIRST_HALVINGS + 1
    ((_, Y, times),) = start.traces(JOINT, (1.0,))
    ((_, motion),) = models.motions(JOINT, start.gram, start.counts, start.entry, (1.0,), turns(Y[0], start.frame, where))
    grid = np.arange(len(times), dtype=float)
    every = replace(motion, quick=None, places=(len(times), 1.0))
    few, all_of = (response(one, start.frame, Y, times, grid, where).at(grid)[rest:] for one in (motion, every))
    assert abs(np.diff(all_of, axis=0)).max() > 0.02
    np.testing.assert_allclose(few, all_of, rtol=0, atol=3e-3)


@pytest.mark.parametrize("kappa", [1.0, 100.0])
def test_steps_that_watch_their_error_take_many_starts_as_each(kappa: float) -> None:
    """To first order, though the first alone is watched: what is left falls with the square of what the starts differ by."""
    start = start_of(anisotropic_entry(np.random.default_rng(4)))
    many = turns(log_gram(start.gram, start.frame), start.frame, np.triu_indices(3))

    def stepped(T: np.ndarray) -> np.ndarray:
        ((_, motion),) = models.motions(JOINT, start.gram, start.counts, start.entry, (kappa,), T)
        return motion.gram(motion.step(motion.state, 0.1))

    left = []
    for size in (100.0, 10.0):
        T = np.eye(4) + size * (many - np.eye(4))
        together, alone = stepped(T), np.concatenate([stepped(one[None]) for one in T])
        np.testing.assert_allclose(together[0], alone[0], rtol=1e-10)
        left.append(abs(together - alone).max())
        assert abs(alone - alone[0]).max() > 50 * left[-1]
    assert left[1] < 0.02 * left[0]


@pytest.mark.parametrize("time", [1e-3, 0.7, 30.0])
def test_divided_differences_are_the_derivatives_of_functions_of_a_matrix(time: float) -> None:
    rng = np.random.default_rng(0)
    root, E = rng.standard_normal((5, 7)), rng.standard_normal((5, 5))
    S, E = root @ root.T, E + E.T
    a, F = np.linalg.eigh(S)
    growth, drive, of_growth, of_drive = relaxation(a, time, divided=True)
    assert of_growth is not None
    assert of_drive is not None
    exact, change = (np.asarray(value) for value in expm_frechet(-time * S, -time * E))
    np.testing.assert_allclose((F * (1 + growth)) @ F.T, exact, atol=1e-12)
    np.testing.assert_allclose(F @ (of_growth * (F.T @ E @ F)) @ F.T, change, atol=1e-10 * abs(change).max())
    integral = np.linalg.solve(S, np.eye(5) - exact)
    np.testing.assert_allclose((F * drive) @ F.T, integral, atol=1e-10 * abs(integral).max())
    of_integral = np.linalg.solve(S, -change - E @ integral)  # S f(S) = 1 - exp(-t S), differentiated
    np.testing.assert_allclose(F @ (of_drive * (F.T @ E @ F)) @ F.T, of_integral, atol=1e-8 * abs(of_integral).max())
    growth, drive, of_growth, of_drive = relaxation(np.array([0.0, 0.0, 2.0, 2.0]), 3.0, divided=True)
    assert of_growth is not None
    assert of_drive is not None
    np.testing.assert_allclose(of_growth[[0, 2], [1, 3]], [-3, -3 * np.exp(-6)])
    np.testing.assert_allclose(of_drive[[0, 2], [1, 3]], [-4.5, 3 * np.exp(-6) / 2 + np.expm1(-6) / 4])


@pytest.mark.parametrize(("name", "value"), [(JOINT, 3.0), (KERNEL, 0.4), (KERNEL, 4.0), (PLAIN, None)])
@pytest.mark.parametrize("white", [False, True])
def test_a_cheap_step_of_many_starts_at_once_is_that_of_each(name: str, value: float | None, white: bool) -> None:
    """To first order in what the starts differ by: what is left falls with its square. White features have equal eigenvalues."""
    entry = anisotropic_entry(np.random.default_rng(4))
    start = start_of(replace(entry, sigma_w=np.eye(6)) if white else entry)
    many = turns(log_gram(start.gram, start.frame), start.frame, np.triu_indices(3))

    def stepped(T: np.ndarray) -> np.ndarray:
        parameter = None if value is None else (value,)
        ((_, motion),) = models.motions(name, start.gram, start.counts, start.entry, parameter, T)
        assert motion.quick is not None
        return motion.gram(motion.quick(motion.state, 0.1))

    left = []
    for size in (100.0, 10.0):
        T = np.eye(4) + size * (many - np.eye(4))
        together, alone = stepped(T), np.concatenate([stepped(one[None]) for one in T])
        np.testing.assert_allclose(together[0], alone[0], rtol=1e-10)
        left.append(abs(together - alone).max())
        assert abs(alone - alone[0]).max() > 50 * left[-1]
    assert left[0] > 0
    assert left[1] < 0.02 * left[0]


def test_the_response_at_grid_positions_is_that_of_the_whole_grid() -> None:
    start = start_of(anisotropic_entry(np.random.default_rng(3)))
    where = np.triu_indices(3)
    path = start.path(PLAIN, start.traces(PLAIN)[0], where)
    e = np.arange(1.0, 7.0)
    whole = path.response.moved(e[None], len(path.values))[0]
    np.testing.assert_allclose(path.response.at(np.array([0.0, 7.0, 30.0])) @ e, whole[[0, 7, 30]], atol=1e-12)
    np.testing.assert_allclose(whole[0], e, atol=1e-12)


def test_many_values_respond_each_to_its_own_error_as_the_closed_law_says() -> None:
    """From Sigma_W = I and equal classes: d log omega_t / d log omega_0 = 1 - 2 (log omega_t - log omega_0) g / (1 + g)."""
    C = MOST_FULL + 3
    g = np.linspace(0.3, 2.0, C - 1)
    V = np.linalg.qr(np.eye(C) - 1 / C)[0][:, : C - 1]
    entry = Entry(np.full(C, 10), (V * np.sqrt(g * C)).T, np.eye(C - 1))
    frame = frame_of(entry.gram())
    x0 = log_gram(entry.gram(), frame)
    where = (np.arange(C - 1), np.arange(C - 1))
    path, times = trace(unnormalized_motion(entry), frame, np.inf, float(np.diagonal(x0).mean()) + 0.3)
    places = np.arange(float(len(times)))
    answer = response(unnormalized_motion(entry, 1.0, turns(x0, frame, where)), frame, path, times, places, where)
    x = np.diagonal(path[-1] - x0)
    ratio = g[::-1] / (1 + g[::-1])
    assert x.max() > 0.2
    np.testing.assert_allclose(np.diagonal(answer.D[-1]), 1 - 2 * x * ratio, atol=0.01)


def test_of_many_values_the_errors_of_all_others_do_as_much_as_drawn() -> None:
    rng = np.random.default_rng(8)
    C = MOST_FULL + 4
    P, K = C + 3, C - 1
    E = np.linalg.qr(rng.standard_normal((P, P)))[0]
    root = (E * np.exp(rng.uniform(-1, 1, P))) @ E.T
    M = rng.standard_normal((P, C))
    entry = Entry(np.full(C, 10), root @ (M - M.mean(1, keepdims=True)), root @ root.T)
    start = start_of(entry)
    where = np.triu_indices(K)
    traced = start.traces(PLAIN)[0]
    path = start.path(PLAIN, traced, where)
    kinds = (where[0] != where[1]).astype(int)
    sigma = np.where(kinds == 0, 0.01, 0.004)
    wide = path.response.widened(kinds, sigma)
    assert wide.D.shape[-1] == 2 * len(kinds)
    beside = np.diagonal(wide.D[-1][:, len(kinds) :]) * sigma
    assert abs(wide.D[0][:, len(kinds) :]).max() == 0
    seen = []
    for _ in range(6):
        error = rng.standard_normal((K, K)) * 0.01
        error = np.where(np.eye(K) > 0, error, 0.4 * np.triu(error, 1) + 0.4 * np.triu(error, 1).T)
        turned = unnormalized_motion(in_error(entry, start.frame, 1e-3 * error))
        state, times = turned.state, traced[2]
        for h in np.diff(times):
            state = turned.step(state, h)
        moved = (log_gram(turned.gram(state), start.frame) - traced[1][-1]) / 1e-3
        seen.append(moved[where] - np.diagonal(wide.D[-1]) * error[where])
    drawn = np.sqrt(np.mean(np.square(seen), axis=0))
    for kind in (0, 1):
        assert np.sqrt((drawn[kinds == kind] ** 2).mean()) > 1e-3  # not small beside the noise
        ratio = np.sqrt((beside[kinds == kind] ** 2).mean() / (drawn[kinds == kind] ** 2).mean())
        assert 0.75 < ratio < 1.33


def test_the_span_of_powers_of_sigma_w_keeps_the_path_of_many_features(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    P, C = 60, 4
    E = np.linalg.qr(rng.standard_normal((P, P)))[0]
    sigma_w = (E * np.exp(rng.uniform(-3, 3, P))) @ E.T
    M = rng.standard_normal((P, C))
    entry = Entry(np.full(C, 20), M - M.mean(1, keepdims=True), sigma_w)
    small = krylov(entry)
    assert len(small.M) <= 7 * (C - 1)
    assert len(krylov(entry, 4).M) <= 4 * (C - 1)
    np.testing.assert_allclose(small.gram(), entry.gram(), rtol=1e-9, atol=1e-9)
    frame = frame_of(entry.gram())
    ends = []
    for one in (entry, small):
        motion = unnormalized_motion(one)
        state = motion.state
        for _ in range(40):
            state = motion.step(state, 1.0)
        ends.append(log_gram(motion.gram(state), frame))
    moved = abs(ends[0] - log_gram(entry.gram(), frame)).max()
    assert abs(ends[0] - ends[1]).max() < 1e-3 * moved
    monkeypatch.setattr(models, "krylov", lambda entry, blocks: entry)
    whole = start_of(entry)
    where = np.triu_indices(3)
    full = whole.path(PLAIN, whole.traces(PLAIN)[0], where)
    monkeypatch.undo()
    reduced = whole.path(PLAIN, whole.traces(PLAIN)[0], where)
    np.testing.assert_allclose(reduced.response.D, full.response.D, atol=2e-3)
