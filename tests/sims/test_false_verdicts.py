"""False verdicts of the past, through the command: logs of features in, the right outcome in report.json."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sims import compare as command
from tests.ufm.compare.descents import descend, entry_of, labelled, white_start
from tests.ufm.compare.test_selection import growing
from ufm.flow.command import main as flow_main

EQUAL = [50] * 10
pytestmark = pytest.mark.usefixtures("unrendered")


def compared(path: Path, *options: str) -> dict[str, Any]:
    """What report.json of the command says of one run."""
    out = path.parent / f"{path.stem}-report"
    assert command.main([str(path), "--from-epoch", "0", "--out", str(out), "--quiet", *options]) == 0
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    (group,) = report["groups"]
    assert (group["outcome"], group["verdict"]) == (report["outcome"], report["verdict"])
    return group


def written(folder: Path, features: list[np.ndarray], y: np.ndarray, dtype: str = "float64") -> Path:
    """Features (P, n) of every epoch as a user stores them."""
    folder.mkdir()
    for epoch, H in enumerate(features):
        np.savez(folder / f"features-{epoch:04d}.npz", features=H.T.astype(dtype), labels=y, epoch=epoch)
    return folder


def with_noise(features: list[np.ndarray], y: np.ndarray, size: float, rho: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Features whose every omega is off by AR(1) noise, relative, by class means that are moved; the deviations are kept."""
    noisy, error = [], np.zeros(0)
    for position, H in enumerate(features):
        entry = entry_of(H, y)
        values, E = np.linalg.eigh(entry.sigma_w)
        root = (E * np.sqrt(values)) @ E.T
        U, omega, Vt = np.linalg.svd(np.linalg.solve(root, entry.M), full_matrices=False)
        fresh = size * rng.standard_normal(len(omega))
        error = rho * error + np.sqrt(1 - rho**2) * fresh if position else fresh
        moved = root @ (U * omega * np.exp(error)) @ Vt - entry.M
        noisy.append(H + (moved - moved.mean(1, keepdims=True))[:, y])
    return noisy


def stretched(rng: np.random.Generator, P: int, spread: float) -> np.ndarray:
    """An invertible matrix of condition up to exp(2 spread)."""
    first, second = (np.linalg.qr(rng.standard_normal((P, P)))[0] for _ in range(2))
    return (first * np.exp(rng.uniform(-spread, spread, P))) @ second


@pytest.mark.parametrize(
    ("growth", "noise"),
    [(1.2, 0.01), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1.2, 0.0), (1.4, 0.0), (1.4, 0.01)))],
)
def test_plain_descent_from_white_noise_is_not_renormalized(growth: float, noise: float, tmp_path: Path) -> None:
    """500 free features, Sigma_W = I, u about 1, W at least squares: p is 1 there, as that of the renormalized flow."""
    rng, y = np.random.default_rng(0), labelled(EQUAL)
    features = growing(white_start(rng, EQUAL, 20, 1.0), y, growth, 15)
    if noise:
        features = with_noise(features, y, noise, 0.0, rng)
    group = compared(written(tmp_path / "plain", features, y))
    assert group["verdict"] in (None, "unnormalized")
    assert "unnormalized" in group["compatible"]
    if not noise:
        assert (group["outcome"], group["verdict"]) == ("named", "unnormalized")


@pytest.mark.parametrize(
    ("u", "spread", "far"),
    [*(pytest.param(u, 0.0, 0.0, marks=pytest.mark.slow) for u in (1.0, 10.0)), (1.0, 0.7, 30.0)],
)
def test_logs_of_plain_descent_from_any_start_are_unnormalized(u: float, spread: float, far: float, tmp_path: Path) -> None:
    """p is 1.5 or -1 or anything, by the start, and the model is named all the same; in float32, means far from zero."""
    rng, y = np.random.default_rng(3), labelled(EQUAL)
    H = stretched(rng, 20, spread) @ white_start(rng, EQUAL, 20, u) + far
    features = growing(H, y, 2.0, 15, 15.0 * (1 + u))
    group = compared(written(tmp_path / "plain", features, y, "float32" if far else "float64"))
    assert (group["outcome"], group["verdict"]) == ("named", "unnormalized")
    assert abs(group["exponent"]["value"]) > 0.25  # 0 is what the law has from Sigma_T = I


def test_a_simulation_from_features_as_they_are_is_unnormalized(tmp_path: Path) -> None:
    options = ["--C", "5", "--N", "20", "--P", "8", "--flow", "unnormalized", "--start", "raw", "--points", "15", "--quiet"]
    assert flow_main([*options, "--out", str(tmp_path / "raw.npz")]) == 0
    group = compared(tmp_path / "raw.npz")
    assert (group["outcome"], group["verdict"]) == ("named", "unnormalized")


@pytest.mark.parametrize(
    ("model", "rho"),
    [
        ("renormalized", 0.95),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("unnormalized", 0.95), ("unnormalized", 0.7))),
        pytest.param("renormalized", 0.7, marks=pytest.mark.slow),
    ],
)
def test_noise_with_a_correlation_in_time_refutes_no_true_model(model: str, rho: float, tmp_path: Path) -> None:
    """AR(1) noise of 2 % over 15 epochs and a threefold growth: it was "no law" nine times of ten."""
    rng, y = np.random.default_rng(1), labelled(EQUAL)
    H = white_start(rng, EQUAL, 20, 1.0)
    features = growing(stretched(rng, 20, 0.5) @ H, y, 3.0, 15, 20.0) if model == "unnormalized" else renormalized(H, y, 3.0, 15)
    group = compared(written(tmp_path / "noisy", with_noise(features, y, 0.02, rho, rng), y))
    assert model in group["compatible"]
    assert group["verdict"] in (None, model)


def renormalized(H: np.ndarray, y: np.ndarray, growth: float, epochs: int) -> list[np.ndarray]:
    """Plain descent by one step at a time, renormalized to Sigma_W = I after each, until omega has grown so far."""

    def level(X: np.ndarray) -> float:
        return float(np.log(np.linalg.svd(entry_of(X, y).M, compute_uv=False)[: int(y.max())]).mean())

    rows, H = [H], H
    while level(H) - level(rows[0]) < np.log(growth):
        H = descend(H, y, 200.0, 1, 1)[1]
        values, E = np.linalg.eigh(entry_of(H, y).sigma_w)
        H = (E / np.sqrt(values)) @ E.T @ H
        rows.append(H)
    return [rows[k] for k in np.unique(np.round(np.linspace(0, len(rows) - 1, epochs)).astype(int))]


def test_a_renormalized_flow_seen_in_any_basis_is_renormalized(tmp_path: Path) -> None:
    rng, y = np.random.default_rng(2), labelled(EQUAL)
    features = renormalized(white_start(rng, EQUAL, 20, 1.0), y, 3.0, 12)
    A = stretched(rng, 20, 3.0)
    assert np.linalg.cond(A) > 20
    group = compared(written(tmp_path / "seen", [A @ X + 5 for X in features], y))
    assert (group["outcome"], group["verdict"]) == ("named", "renormalized")


def test_the_snr_of_a_renormalized_flow_made_by_deviations_alone_is_not_called_renormalized(tmp_path: Path) -> None:
    """As in a network after zero training error: class means that stand still, deviations that shrink. At any clock, a
    renormalized flow has it the other way round.
    """
    rng, y = np.random.default_rng(2), labelled(EQUAL)
    features = renormalized(white_start(rng, EQUAL, 20, 1.0), y, 3.0, 12)
    first = entry_of(features[0], y).M
    seen = []
    for X in features:
        M = entry_of(X, y).M
        back = np.linalg.pinv(M, rcond=1e-10)
        seen.append((first @ back + np.eye(20) - M @ back) @ (X - X.mean(1, keepdims=True)))
        np.testing.assert_allclose(entry_of(seen[-1], y).M, first, atol=1e-9)
    group = compared(written(tmp_path / "still", seen, y))
    assert (group["outcome"], group["verdict"], group["compatible"]) == ("undecided", None, ["renormalized"])
    assert group["runs"][0]["clock_free"]["signal_share"][0] == pytest.approx(0.0, abs=1e-6)
    assert "the class means make" in group["reason"]
    assert "0.00 of the growth of log omega" in group["reason"]
    assert "1.00 under it" in group["reason"]


def test_a_renormalized_flow_to_which_a_direction_of_the_features_comes_later_is_not_called_renormalized(tmp_path: Path) -> None:
    """A unit without class means that answers from the sixth epoch on: the SNR is the same, Sigma_W is not."""
    rng, y = np.random.default_rng(2), labelled(EQUAL)
    features = renormalized(white_start(rng, EQUAL, 20, 1.0), y, 3.0, 12)
    apart = np.linalg.svd(entry_of(features[0], y).M)[0][:, 19:]
    folder = tmp_path / "late"
    folder.mkdir()
    for epoch, H in enumerate(features):
        seen = H if epoch >= 6 else H - apart @ (apart.T @ H)
        classifier = {"W": np.zeros((10, 20)), "b": np.zeros(10)}
        np.savez(folder / f"features-{epoch:04d}.npz", features=seen.T, labels=y, epoch=epoch, **classifier)
    group = compared(folder, "--lambda", "0.001")
    assert (group["outcome"], group["compatible"]) == ("undecided", ["renormalized"])
    assert "Sigma_W, which it conserves up to a common factor, has changed by" in group["reason"]
