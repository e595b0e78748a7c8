"""A run of training keeps what a comparison starts from: the same entry as from its features; logs without are read as before."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from sims.compare import main
from sims.comparison.analysis import Choice, analyse
from sims.comparison.entries import entry_of_features, entry_of_statistics
from sims.comparison.runs import load_observed
from ufm.compare.verdict import LawRule
from ufm.files.store import load_arrays, save_arrays
from ufm.monitor.epoch_statistics import load_statistics, statistics_files
from ufm.monitor.logs import RunLog
from ufm.monitor.measurement import measure_features


def test_an_entry_from_statistics_is_that_from_features(finished: Path) -> None:
    stored = load_statistics(finished / "statistics-0002.npz")
    lam = float(stored["lambda"])
    assert lam == float(stored["decay_w"]) == pytest.approx(10 * 5e-4 / 2)  # C wd / 2: the loss is C / 2 times torch's
    one = entry_of_statistics(finished / "statistics-0002.npz")
    two = entry_of_features(finished / "features-0002.npz", lam, lam)
    np.testing.assert_allclose(one.gram(), two.gram(), rtol=1e-6)
    for entry in (one, two):
        assert entry.W is not None
        assert entry.b is not None
        assert entry.mean is not None
    logits = [
        e.W @ (e.M + e.mean[:, None]) + e.b[:, None]
        for e in (one, two)
        if e.W is not None and e.mean is not None and e.b is not None
    ]
    np.testing.assert_allclose(*logits, rtol=1e-5, atol=1e-6)
    assert (one.lam, one.decay_w, one.decay_h) == (two.lam, two.decay_w, two.decay_h)


def test_every_measured_epoch_of_training_has_its_statistics(finished: Path) -> None:
    run = load_observed(finished)
    assert sorted(statistics_files(finished).values()) == run.trajectory.t.tolist()
    for epoch in run.trajectory.t:
        assert run.entry(float(epoch)) is not None
    assert run.entry(0.5) is None


def test_an_old_run_is_compared_by_what_it_holds(finished: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(finished, old)
    for file in statistics_files(old):
        file.unlink()
    run = load_observed(old)
    assert [run.entry(float(epoch)) is not None for epoch in (1, 2, 3, 4)] == [False, True, False, True]
    (group,) = analyse([run], Choice(from_epoch=1.0), LawRule())
    assert "needs the class means and Sigma_W of the entry" in group.selection.support["unnormalized"].missing
    (whole,) = analyse([load_observed(finished)], Choice(from_epoch=1.0), LawRule())
    assert not whole.selection.support["unnormalized"].missing


def log_of(path: Path, lam: float | None, epochs: int = 3) -> Path:
    log, rng = RunLog(path, lam=lam), np.random.default_rng(0)
    labels = np.arange(60) % 3
    for epoch in range(1, epochs + 1):
        H = rng.standard_normal((60, 4)) + 3 * labels[:, None] * np.arange(4)
        log(epoch, {}, measure_features(H, labels, rng.standard_normal((3, 4)), np.zeros(3), np.nan if lam is None else lam))
    return path


def test_an_unknown_lambda_is_refused_with_what_to_give(tmp_path: Path) -> None:
    path = log_of(tmp_path / "log", None)
    with pytest.raises(ValueError, match=r"no lambda.*give lambda, C wd / 2.*cross-entropy or AdamW.*from_epoch"):
        load_observed(path)
    run = load_observed(path, 0.25)
    entry = run.entry(1.0)
    assert entry is not None
    assert (run.lam, entry.lam, entry.decay_w) == (0.25, 0.25, 0.25)
    known = log_of(tmp_path / "known", 0.5)
    run = load_observed(known, 0.25)
    assert run.lam == 0.5
    assert any("lambda = 0.5, which is kept; the lambda = 0.25 given" in note and "leave it out" in note for note in run.notes)
    assert load_observed(known, 0.5).notes == load_observed(known).notes == ()


def test_features_with_a_classifier_and_no_lambda_are_refused_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    for epoch in (1, 2):
        arrays = {"features": rng.standard_normal((60, 4)) + labels[:, None], "labels": labels, "epoch": np.asarray(epoch)}
        save_arrays(tmp_path / f"features-{epoch}.npz", arrays | {"W": rng.standard_normal((3, 4))})
    with pytest.raises(ValueError, match="no lambda"):
        load_observed(tmp_path)
    assert load_observed(tmp_path, 0.0).lam == 0.0
    assert load_observed(tmp_path, 0.3).lam == 0.3
    for epoch in (1, 2):
        arrays = load_arrays(tmp_path / f"features-{epoch}.npz")
        save_arrays(tmp_path / f"features-{epoch}.npz", arrays | {"lambda": np.asarray(0.5)})
    said = [note for note in load_observed(tmp_path, 0.3).notes if "stores lambda = 0.5" in note]
    assert ["lambda = 0.3 given: leave it out" in note for note in said] == [True]
    assert not any("stores lambda" in note for note in load_observed(tmp_path, 0.5).notes)


def test_runs_that_differ_by_more_than_the_seed_are_not_pooled(tmp_path: Path) -> None:
    two = [log_of(tmp_path / name / "run", lam) for name, lam in (("a", 0.1), ("b", 0.2))]
    groups = analyse([load_observed(path) for path in two], Choice(from_epoch=1.0), LawRule())
    assert len(groups) == 2


@pytest.mark.parametrize("of_features", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_without_lambda_is_compared_from_a_chosen_epoch_and_has_no_central_path(of_features: bool, tmp_path: Path) -> None:
    path = tmp_path / "run"
    if of_features:
        rng, labels = np.random.default_rng(0), np.arange(60) % 3
        path.mkdir()
        for epoch in range(1, 6):
            H = rng.standard_normal((60, 4)) + 3 * labels[:, None] * np.arange(4)
            arrays = {"features": H, "labels": labels, "W": rng.standard_normal((3, 4)), "b": np.zeros(3)}
            save_arrays(path / f"features-{epoch}.npz", arrays | {"epoch": np.asarray(epoch)})
    else:
        log_of(path, None, epochs=5)
    run = load_observed(path, central_path=False)
    assert np.isnan(run.lam)
    assert run.trajectory.observed.keys() >= {"nc3", "nc4", "train_error"}
    assert not run.trajectory.observed.keys() & {"loss", "loss_nc1", "loss_nc23", "loss_perp"}
    entry = run.entry(1.0)
    assert entry is not None
    assert (entry.W, entry.b, entry.lam, entry.decay_w) == (None, None, 0.0, 0.0)
    assert [note for note in run.notes if note.startswith("lambda is not known: L_perp")] != []
    assert main([str(path), "--out", str(tmp_path / "refused")]) == 2
    assert main([str(path), "--from-epoch", "1", "--out", str(tmp_path / "out"), "--quiet"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (measured,) = report["groups"][0]["runs"]
    assert measured["proximity"]["loss_perp_over_loss_ls"] == [None] * 5
    assert "needs the classifier W and b of the entry" in json.dumps(report["groups"][0])
    assert "lambda is not known: L_perp" in (tmp_path / "out" / "report.html").read_text()


def test_the_command_names_its_options(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(log_of(tmp_path / "log", None)), "--out", str(tmp_path / "out")]) == 2
    assert re.search(r"give --lambda, C wd / 2 .* choose --from-epoch", capsys.readouterr().err)
