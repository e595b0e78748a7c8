"""The model of a linear last layer over fixed features: against descent on the whole tensor, its law, and as a verdict."""

from dataclasses import replace

import numpy as np
import pytest

from tests.ufm.compare.descents import descend_layer, entry_of, labelled, measured, white_start
from tests.ufm.compare.test_motions import distance, ends
from ufm.compare.coordinates import Entry, LayerBelow, frame_of, log_gram
from ufm.compare.layer_motion import layer_motion
from ufm.compare.models import LAYER, available
from ufm.compare.motions import StiffFlowError, trace
from ufm.compare.outcome import NAMED
from ufm.compare.selection import judge
from ufm.features.statistics import statistics_of
from ufm.ledger.last_layer import LastLayer

SIZES = [23, 17, 13, 10]


def below(seed: int, d: int = 9, P: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features Z (d, n), labels, and a linear map that does not see much of their signal."""
    rng, y = np.random.default_rng(seed), labelled(SIZES)
    E = np.linalg.qr(rng.standard_normal((d, d)))[0]
    Z = (E * np.exp(rng.uniform(-0.7, 0.7, d))) @ E.T @ white_start(rng, SIZES, d, 6.0)
    return Z, y, rng.standard_normal((P, d)) / 3


def with_layer(Z: np.ndarray, y: np.ndarray, A: np.ndarray) -> Entry:
    one = entry_of(Z, y)
    return replace(entry_of(A @ Z, y), layer=LayerBelow(A, one.M, one.sigma_w))


def test_the_layer_predicts_descent_of_a_linear_map_on_the_whole_tensor() -> None:
    Z, y, A = below(1)
    entry = with_layer(Z, y, A)
    frame = frame_of(entry.gram())
    seen = log_gram(np.array([entry_of(B @ Z, y).gram() for B in descend_layer(Z, y, A, 0.01, 4000, 400)]), frame)
    assert abs(seen[-1] - seen[0]).max() > 0.4
    path, _ = trace(layer_motion(entry), frame, *ends(seen), 0.005)
    assert distance(path, seen).max() < 3e-4  # the descent's in proportion to its rate, the path's to its spacing squared


def test_the_layer_follows_its_law_keeps_A_A_and_stops_at_the_layer_below() -> None:
    Z, y, A = below(2)
    entry = with_layer(Z, y, A)
    law = LastLayer.over(statistics_of(Z.T, y, 4))
    times = np.linspace(0.0, 40.0, 9)
    maps = law.follow(A, times)
    motion = layer_motion(entry)
    state = motion.state
    for k in range(1, 9):
        for _ in range(20):
            state = motion.step(state, 0.25)
        expected = entry_of(maps[k] @ Z, y).gram()
        np.testing.assert_allclose(motion.gram(state), expected, rtol=0, atol=3e-4 * abs(expected).max())
    np.testing.assert_allclose(state[0] @ state[0].T, A @ A.T, rtol=0, atol=1e-3 * abs(A @ A.T).max())
    path, _ = trace(motion, frame_of(entry.gram()), np.inf, np.inf, 0.02)
    top = np.sort(np.linalg.eigvalsh(entry_of(Z, y).gram()))[1:]
    np.testing.assert_allclose(np.linalg.eigvalsh(path[-1]), np.log(top) / 2, atol=0.02 / 4 + 1e-3)  # a path ends that near


def test_a_linear_last_layer_is_named() -> None:
    Z, y, A = below(3)
    rng = np.random.default_rng(0)
    maps = descend_layer(Z, y, A, 0.05, 3000, 200)
    run = measured([B @ Z for B in maps], y, 0.003, rng)
    assert run.entry is not None
    one = entry_of(Z, y)
    q = np.sqrt(one.priors)
    # the class means below that give the noisy ones above: the least change of M
    turn = np.linalg.pinv(A) @ (run.entry.M - A @ one.M)
    run = replace(run, entry=replace(run.entry, layer=LayerBelow(A, one.M + turn, one.sigma_w)))
    assert abs((one.M + turn) @ q**2).max() < 1e-9
    answer = judge([run])
    assert (answer.outcome, answer.name) == (NAMED, LAYER)


def test_what_is_no_linear_layer_says_so() -> None:
    Z, y, A = below(4)
    entry = with_layer(Z, y, A)
    assert available(entry)[LAYER] == ""
    assert "layer below" in available(replace(entry, layer=None))[LAYER]
    one = entry_of(Z, y)
    assert "not linear" in available(replace(entry, layer=LayerBelow(A + 0.1, one.M, one.sigma_w)))[LAYER]
    with pytest.raises(ValueError, match="do not fit"):
        LayerBelow(A[:, :3], one.M, one.sigma_w)
    with pytest.raises(ValueError, match="NaN"):
        LayerBelow(A, one.M * np.nan, one.sigma_w)
    with pytest.raises(ValueError, match="needs the last linear map"):
        layer_motion(replace(entry, layer=None))


def test_past_what_was_measured_a_flow_that_comes_to_rest_is_followed_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directions of hardly any variance keep a layer moving for a long time, in ever smaller steps."""
    Z, y, A = below(4, d=14)
    values, E = np.linalg.eigh(Z @ Z.T / Z.shape[1])
    Z = (E * np.geomspace(1e-3, 1.0, 14)) @ (E / np.sqrt(values)).T @ Z
    entry = with_layer(Z, y, A)
    frame = frame_of(entry.gram())
    start = float(np.diagonal(log_gram(entry.gram(), frame)).mean())
    top = np.sort(np.linalg.eigvalsh(entry_of(Z, y).gram()))[1:]
    enough = start + 0.6 * (float(np.log(top).mean() / 2) - start)
    monkeypatch.setattr("ufm.compare.motions.MOST_FLOW_STEPS", 3000)
    with pytest.raises(StiffFlowError):
        trace(layer_motion(entry), frame, np.inf, np.inf, 0.08)
    path, _ = trace(layer_motion(entry), frame, np.inf, np.inf, 0.08, enough=enough)
    reached = float(np.diagonal(path[-1]).mean())
    assert reached > enough
