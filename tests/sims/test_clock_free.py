"""The clock-free tests through the command: numbers, table and figure of a log of features, and what is too little for them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sims.comparison.clock_free import clock_free_figure, clock_free_tests, entries_in_one_basis
from sims.comparison.entries import entry_of_features
from sims.comparison.runs import load_observed
from tests.ufm.compare.descents import descend, labelled, white_start
from ufm.compare.comparison import compare
from ufm.compare.implied import contradiction

SIZES = [20] * 5


def log_of(path: Path, scale: float = 0.0) -> Path:
    """Features of plain descent from an anisotropic start, shrunk by exp(-scale) an epoch, as files."""
    rng, y = np.random.default_rng(1), labelled(SIZES)
    E = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    start = (E * np.exp(rng.uniform(-0.5, 0.5, 8))) @ E.T @ white_start(rng, SIZES, 8, 1.0)
    path.mkdir()
    for k, H in enumerate(descend(start, y, 0.3, 2000, 200)):
        np.savez(path / f"features-{k:04d}.npz", features=np.exp(-scale * k) * H.T, labels=y, epoch=k)
    return path


@pytest.mark.usefixtures("unrendered")
def test_the_command_reports_the_tests_without_a_clock(tmp_path: Path) -> None:
    from sims.compare import main

    assert main([str(log_of(tmp_path / "log")), "--from-epoch", "0", "--out", str(tmp_path / "out"), "--quiet"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["verdict"] == "unnormalized"
    tests = report["groups"][0]["runs"][0]["clock_free"]
    assert tests["sigma_t_factor"][0] == pytest.approx(1.0, abs=0.005)
    assert tests["sigma_t_rest"][0] < 0.01
    assert tests["signal_share"][0] == pytest.approx(tests["signal_share_predicted"], abs=0.02)
    assert tests["signal_share"][1] <= tests["signal_share"][0] <= tests["signal_share"][2]
    assert tests["rotation_coefficient"][0] == pytest.approx(1.0, abs=0.1)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "share of the class means" in page
    assert "need no clock" in page


def test_feature_decay_is_one_common_factor(tmp_path: Path) -> None:
    run = load_observed(log_of(tmp_path / "log", 0.05))
    tests = clock_free_tests(run, compare(run.trajectory, from_epoch=0))
    assert tests.conservation is not None
    np.testing.assert_allclose(tests.conservation.factor, np.exp(-0.1 * np.arange(11)), rtol=5e-3)
    assert tests.conservation.last_rest.value < 0.01
    figure = clock_free_figure(tests)
    assert figure is not None
    assert len(figure.axes) == 3
    figure.savefig(tmp_path / "figure.svg")  # its labels are read when it is drawn


def test_one_epoch_is_not_enough_and_says_so(tmp_path: Path) -> None:
    run = load_observed(log_of(tmp_path / "log"))
    few = replace(run, files=dict(list(run.files.items())[:1]))
    tests = clock_free_tests(few, compare(run.trajectory, from_epoch=0))
    assert tests.conservation is None
    assert "need 2" in tests.notes[0]
    assert clock_free_figure(tests) is None
    assert entries_in_one_basis({})[1] == []


@pytest.mark.parametrize(("dtype", "far"), [("float64", 0.0), ("float32", 0.0), ("float32", 1e6)])
def test_the_directions_of_all_epochs_are_those_that_the_entry_has(dtype: str, far: float, tmp_path: Path) -> None:
    """Six directions of eight, turned: far from zero, float32 fills the other two with more than 1e-10 of the variance."""
    rng, y = np.random.default_rng(0), labelled(SIZES)
    E, files = np.linalg.qr(rng.standard_normal((8, 8)))[0][:, :6], {}
    start = white_start(rng, SIZES, 6, 1.0)
    for epoch in range(3):
        path = tmp_path / f"features-{epoch}.npz"
        np.savez(path, features=(100 * E @ start * 1.1**epoch + far).T.astype(dtype), labels=y)
        files[path] = float(epoch)
    epochs, entries = entries_in_one_basis(files)
    assert list(epochs) == [0.0, 1.0, 2.0]
    assert {entry.M.shape for entry in entries} == {(6, 5)}
    own = entry_of_features(next(iter(files)))
    np.testing.assert_allclose(entries[0].gram(), own.gram(), rtol=0, atol=1e-9 * abs(own.gram()).max())


def test_class_means_that_come_in_directions_that_did_not_vary_are_told(tmp_path: Path) -> None:
    """A unit without variation at first: its class means are in the SNR that is recorded of the later epochs."""
    rng, y = np.random.default_rng(1), labelled(SIZES)
    start = white_start(rng, SIZES, 8, 1.0)
    (tmp_path / "log").mkdir()
    means = 3 * rng.standard_normal(5)[y]
    for k, H in enumerate(descend(start, y, 0.3, 400, 100)):
        late = means + rng.standard_normal(len(y)) if k >= 2 else np.zeros(len(y))
        arrays = {"features": np.vstack([H, late]).T, "W": np.zeros((5, 9)), "b": np.zeros(5)}
        np.savez(tmp_path / "log" / f"features-{k:04d}.npz", labels=y, epoch=k, **arrays)
    run = load_observed(tmp_path / "log", lam=1e-3)
    seen = clock_free_tests(run, compare(run.trajectory, from_epoch=0)).seen
    assert isinstance(seen, str)
    assert "other directions than at first" in seen
    for name in ("renormalized", "embedded", "unnormalized", "kernel"):
        assert contradiction(name, None, [None, seen], 0.1) == seen
    assert contradiction("joint", 1.0, [seen], 0.1) == contradiction("layer", None, [seen], 0.1) == ""
