"""Regression collapse: NRC1-3 and the error against loops over examples; 0 where features are what the theory says."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torch import nn

from ufm.monitor import NeuralCollapse, watch
from ufm.monitor.regression import nrc3


def problem(seed: int, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    d, P, n = int(rng.integers(2, 4)), int(rng.integers(5, 9)), int(rng.integers(30, 50))
    targets = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + 3
    features = targets @ rng.standard_normal((d, P)) + noise * rng.standard_normal((n, P)) + 10
    return features, targets, rng.standard_normal((d, P)), rng.standard_normal(d)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 1e-3]))
def test_every_value_equals_the_definition(seed: int, noise: float) -> None:
    H, Y, W, b = problem(seed, noise)
    metric = NeuralCollapse(targets="regression")
    for h, y in zip(torch.from_numpy(H).split(7), torch.from_numpy(Y).split(7), strict=True):
        metric.update(h, y, classifier=(torch.from_numpy(W), torch.from_numpy(b)))
    values, d = metric.compute(), Y.shape[1]
    unit = [(h - H.mean(0)) / np.linalg.norm(h - H.mean(0)) for h in H]
    principal = np.linalg.svd(H - H.mean(0))[2][:d]
    own = np.linalg.qr(W.T)[0]
    for name, basis in (("nrc1", principal.T), ("nrc2", own)):
        expected = np.mean([np.sum((h - basis @ basis.T @ h) ** 2) for h in unit])
        assert values[name] == pytest.approx(expected, rel=1e-8, abs=1e-13), name
    assert values["mse"] == pytest.approx(np.mean([np.sum((W @ h + b - y) ** 2) for h, y in zip(H, Y, strict=True)]))
    sigma = np.cov(Y.T, bias=True)
    root, least = np.real(sqrtm(sigma)), np.linalg.eigvalsh(sigma)[0]
    distances = []
    for gamma in np.linspace(0, least, 1001)[:-1]:
        ideal = root - gamma**0.5 * np.eye(d)
        distances.append(np.sum((W @ W.T / np.linalg.norm(W @ W.T) - ideal / np.linalg.norm(ideal)) ** 2))
    assert values["nrc3"] == pytest.approx(min(distances), rel=1e-2, abs=1e-5)
    assert values["nrc3"] <= min(distances) + 1e-9
    assert metric.undefined == {}


def test_the_minimiser_of_the_unconstrained_features_model_is_collapsed() -> None:
    rng = np.random.default_rng(0)
    A = rng.standard_normal((3, 3))
    sigma = torch.from_numpy(A @ A.T + np.eye(3))
    values, E = torch.linalg.eigh(sigma)
    ideal = E @ torch.diag(values.sqrt() - 0.4) @ E.mT
    W = torch.linalg.cholesky(ideal) @ torch.from_numpy(np.linalg.qr(rng.standard_normal((7, 3)))[0].T)
    distance, gamma = nrc3(W, sigma)
    assert distance < 1e-18  # the square of round-off
    assert gamma == pytest.approx(0.16, rel=1e-6)


def test_what_is_undefined_has_its_reason() -> None:
    H, Y, W, b = problem(1, 0.5)
    metric = NeuralCollapse(targets="regression")
    metric.update(
        torch.from_numpy(H), torch.from_numpy(Y[:, 0]), classifier=(torch.from_numpy(0 * W[:1]), torch.from_numpy(b[:1]))
    )
    assert np.isnan(metric.compute()["nrc3"])
    assert "d = 1" in metric.undefined["nrc3"]
    assert "W = 0" in metric.undefined["nrc2"]
    assert metric.compute()["nrc1"] > 0
    plain = NeuralCollapse(targets="regression")
    plain.update(torch.from_numpy(H), torch.from_numpy(Y))
    plain.compute()
    assert set(plain.undefined) == {"nrc2", "nrc3", "mse"}


def test_targets_of_another_shape_than_the_outputs_are_refused_by_their_number() -> None:
    x = torch.randn(30, 5)
    watched = watch(nn.Sequential(nn.Linear(5, 2)), "0", targets="regression")
    for targets, d in ((torch.randn(30), 1), (torch.randn(30, 3), 3)):
        with pytest.raises(ValueError, match=rf"targets with d = {d}: the classifier is W \({d}, 5\) .* got \(2, 5\)"):
            watched.measure([(x, targets)])
    assert watched.measure([(x, torch.randn(30, 2))])["mse"] > 0
