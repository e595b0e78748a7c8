"""The clock-free tests through the command: numbers, table and figure of a log of features, and what is too little for them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sims.comparison.clock_free import clock_free_figure, clock_free_tests, entries_in_one_basis
from sims.comparison.runs import load_observed
from tests.ufm.compare.descents import descend, labelled, white_start
from ufm.compare.comparison import compare

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
