"""`python -m sims.measure`: a file's measures are those of its features, and bad files have one line."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sims import measure
from sims.compare import main as compare_main
from sims.measure import main, measure_features
from sims.training.folder import load_run
from ufm.files.store import load_arrays, save_arrays
from ufm.monitor import NeuralCollapse
from ufm.monitor.logs import CsvLog, RunLog
from ufm.monitor.record import Record


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(3), 20))
    features = (rng.standard_normal((3, 5))[labels] + 0.3 * rng.standard_normal((60, 5))).astype(np.float32)
    return {"features": features, "labels": labels, "W": rng.standard_normal((3, 5)), "b": rng.standard_normal(3)}


def test_several_files_become_one_trajectory(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for k, epoch in enumerate((3, 8)):
        save_arrays(tmp_path / f"{k}.npz", {**arrays(k), "epoch": np.asarray(epoch)})
    names = [str(tmp_path / f"{k}.npz") for k in range(2)]
    assert main([*names, "--lambda", "0.1", "--out", str(tmp_path / "t.npz")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (len(lines), lines[-1]) == (4, f"wrote {tmp_path / 't.npz'}")
    record = Record.load(tmp_path / "t.npz")
    np.testing.assert_array_equal(record.epochs, [3, 8])
    data = arrays(1)
    expected = measure_features(data["features"], data["labels"], data["W"], data["b"], 0.1)
    for name, value in expected.scalars.items():
        assert record.arrays[name][1] == value, name


def test_without_a_classifier_the_least_squares_one_stands_in(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = {name: arrays()[name] for name in ("features", "labels")}
    save_arrays(tmp_path / "f.npz", data)
    assert main([str(tmp_path / "f.npz"), "--lambda", "0.1", "--json"]) == 0
    s = json.loads(capsys.readouterr().out)
    assert s["loss_perp"] < 1e-25
    assert s["loss_nc1"] + s["loss_nc23"] == pytest.approx(s["loss"], rel=1e-12)


def test_bad_files_are_one_line_and_exit_code_two_and_what_was_measured_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    good = tmp_path / "good.npz"
    save_arrays(good, arrays())
    for change, message in (
        ({"labels": arrays()["labels"].astype(float)}, "labels are float64, integers are needed"),
        ({"labels": arrays()["labels"] + 1}, "labels run from 1 to 3, outside 0..2"),
        ({"features": arrays()["features"][:, :4]}, "do not fit"),
        ({"features": arrays()["features"] * np.float32(np.nan)}, "NaN or infinite"),
        ({"features": arrays()["features"][:0], "labels": arrays()["labels"][:0]}, "no examples"),
        ({"features": arrays()["features"].astype(int)}, "features are int64"),
        ({"epoch": np.arange(2)}, "epoch is int64 (2,), one integer"),
        ({"epoch": np.asarray(0.5)}, "epoch is float64 (), one integer"),
        ({"W": np.asarray(1.0)}, "W is float64 ()"),
        ({"W": np.full((3, 5), "a")}, "W is <U1 (3, 5)"),
        ({"W": arrays()["W"] * 1j}, "W is complex128"),
        ({"W": arrays()["W"] * np.nan}, "W has NaN"),
        ({"b": np.asarray(1.0)}, "b is float64 ()"),
        ({"b": np.full(3, np.inf)}, "b has NaN or infinite"),
        ({"features": arrays()["features"].astype(np.longdouble)}, f"features are {np.dtype(np.longdouble)}"),
        ({"labels": arrays()["labels"] * 10**9}, "labels run from 0 to 2000000000"),
        ({"labels": arrays()["labels"][:9]}, r"labels (9,)"),
        ({"features": np.zeros((60, 0)), "W": np.zeros((3, 0))}, "features are float64 (60, 0)"),
        ({"features": arrays()["features"][:, :4], "W": arrays()["W"][:, :4]}, "U is (4, 2), (5, 2) at the epochs before it"),
    ):
        bad = tmp_path / "bad.npz"
        save_arrays(bad, arrays() | change)
        assert main([str(good), str(bad), "--out", str(tmp_path / "t.npz")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("sims.measure: error: ")
        assert error.count("\n") == 1
        assert message in error
        assert len(Record.load(tmp_path / "t.npz").epochs) == 1
    (tmp_path / "cut.npz").write_bytes(good.read_bytes()[:200])
    for arguments, message in (
        ([str(tmp_path / "cut.npz")], "cannot read"),
        ([str(tmp_path / "absent.npz")], "No such file"),
        ([str(good), "--lambda", "-1"], "--lambda -1.0"),
        ([str(good), "--out", str(tmp_path / "no" / "t.npz")], "cannot write"),
        ([str(good), "--out", str(tmp_path / ("x" * 300))], "File name too long"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


def test_labels_far_beyond_the_examples_need_no_memory(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_arrays(tmp_path / "f.npz", {"features": arrays()["features"], "labels": arrays()["labels"] * 10**9})
    assert main([str(tmp_path / "f.npz"), "--lambda", "0.1"]) == 2
    assert "labels run up to 2000000000 with 60 examples" in capsys.readouterr().err


def test_dead_features_without_a_classifier_ask_for_lambda(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = {name: arrays()[name] for name in ("features", "labels")}
    data["features"] = np.hstack([data["features"], np.zeros((60, 1), dtype=np.float32)])
    save_arrays(tmp_path / "f.npz", data)
    assert main([str(tmp_path / "f.npz")]) == 2
    assert "use lambda > 0" in capsys.readouterr().err
    assert "W" not in load_arrays(tmp_path / "f.npz")


def test_a_file_is_read_once_and_of_its_members_only_the_known_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that nobody asked for may be anything, and as large as it likes."""
    path = tmp_path / "f.npz"
    np.savez(path, features=np.random.default_rng(1).standard_normal((12, 2)), labels=np.repeat([0, 1, 2], 4))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("unused.npy", b"no array")
    opened, read = set[str](), list[tuple[int, ...]]()
    member, whole = zipfile.ZipFile.open, np.lib.format.read_array

    def noted(self: zipfile.ZipFile, name: zipfile.ZipInfo, *args: Any, **options: Any) -> Any:
        opened.add(name.filename)
        return member(self, name, *args, **options)

    def counted(*args: Any, **options: Any) -> np.ndarray:
        read.append((array := whole(*args, **options)).shape)
        return array

    monkeypatch.setattr(zipfile.ZipFile, "open", noted)
    monkeypatch.setattr(np.lib.format, "read_array", counted)
    assert main([str(path), "--quiet"]) == 0
    assert opened == {"features.npy", "labels.npy"}
    assert sorted(read) == [(12,), (12, 2)]


@pytest.mark.parametrize("stored", [False, True])
def test_an_interrupt_says_what_is_kept_of_the_files(
    stored: bool, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [str(tmp_path / f"{k}.npz") for k in range(2)]
    for k, name in enumerate(names):
        save_arrays(Path(name), arrays(k))
    original = measure.measure_features

    def interrupted(features: np.ndarray, *rest: Any) -> Any:
        if np.array_equal(features, arrays(1)["features"]):
            raise KeyboardInterrupt
        return original(features, *rest)

    monkeypatch.setattr(measure, "measure_features", interrupted)
    out = tmp_path / "out.npz"
    assert main([*names, *(["--out", str(out)] if stored else [])]) == 130
    kept = "the files measured so far are in --out" if stored else "nothing was written"
    assert capsys.readouterr().err == f"\nsims.measure: interrupted; {kept}\n"
    assert out.exists() == stored
    if stored:
        assert len(Record.load(out).epochs) == 1


def test_a_file_without_features_is_told_by_names_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "f.npz"
    np.savez(path, H=np.zeros((2, 2)))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("unused.npy", b"no array")
    assert main([str(path)]) == 2
    assert "it has: H, unused" in capsys.readouterr().err


def test_a_stand_in_for_the_classifier_and_an_unknown_lambda_are_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """On the screen, in every line of --json and in the report; the loss of an unknown lambda is undefined, as in the monitor."""
    data = {name: arrays()[name] for name in ("features", "labels")}
    save_arrays(tmp_path / "f.npz", data)
    save_arrays(tmp_path / "w.npz", arrays())
    assert main([str(tmp_path / "f.npz"), "--report", str(tmp_path / "f.html")]) == 0
    shown = capsys.readouterr()
    assert "W: least squares at lambda = 0, since the file has no W; measures that need a classifier use this one" in shown.out
    assert "f.npz: loss: lambda is not known: give --lambda, C wd / 2 for MSELoss and weight decay wd" in shown.out
    assert shown.err == ""
    page = (tmp_path / "f.html").read_text()
    assert "least squares at lambda = 0, since the file has no W" in page
    assert "lambda is not known" in page
    for name, classifier in (("f.npz", "least squares"), ("w.npz", "file")):
        assert main([str(tmp_path / name), "--json"]) == 0
        line = json.loads(capsys.readouterr().out)
        assert (line["classifier"], line["lambda"]) == (classifier, None)
        assert [line[part] for part in ("loss", "loss_nc1", "loss_nc23", "loss_perp")] == [None] * 4
        assert line["nc3"] > 0
        assert main([str(tmp_path / name), "--json", "--lambda", "0.1"]) == 0
        line = json.loads(capsys.readouterr().out)
        assert (line["classifier"], line["lambda"], line["loss"] > 0) == (classifier, 0.1, True)
    assert main([str(tmp_path / "w.npz"), "--lambda", "0.1"]) == 0
    assert "least squares" not in capsys.readouterr().out


def test_an_unknown_lambda_of_a_logged_run_is_said_and_can_be_given(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """On the screen and in the report; given afterwards, the loss is split from the statistics; one that was logged is kept."""
    data = arrays()
    unknown = "loss: lambda is not known: give --lambda, C wd / 2 for MSELoss and weight decay wd; cross-entropy has none\n"
    of = data["features"], data["labels"], data["W"], data["b"]
    measured = {lam: measure_features(*of, lam) for lam in (float("nan"), 0.1)}
    for name, (lam, measurement) in zip(("without", "with"), measured.items(), strict=True):
        RunLog(tmp_path / name, lam=None if name == "without" else lam)(1, {}, measurement)
    page = tmp_path / "page.html"
    assert main([str(tmp_path / "without"), "--report", str(page)]) == 0
    assert unknown in capsys.readouterr().out
    assert "lambda is not known" in page.read_text()
    assert "<td>None</td>" not in page.read_text()
    assert main([str(tmp_path / "without"), "--lambda", "0.1", "--json"]) == 0
    line = json.loads(capsys.readouterr().out)
    for part in ("loss", "loss_nc1", "loss_nc23", "loss_perp"):
        assert line[part] == pytest.approx(measured[0.1].scalars[part], rel=1e-9)
    assert main([str(tmp_path / "without"), "--lambda", "0.1", "--report", str(page)]) == 0
    assert "lambda is not known" not in page.read_text()
    assert "<td>lambda</td><td>0.1</td>" in page.read_text()
    assert main([str(tmp_path / "with")]) == 0
    assert not any(line.startswith(("loss:", "lambda:")) for line in capsys.readouterr().out.splitlines())
    assert main([str(tmp_path / "with"), "--lambda", "0.2"]) == 0
    assert "lambda: the run was measured at 0.1, which is kept: the 0.2 given does not apply to it" in capsys.readouterr().out
    (tmp_path / "without" / "statistics-0001.npz").unlink()
    assert main([str(tmp_path / "without"), "--lambda", "0.1"]) == 0
    assert "loss: the folder has no class statistics with a classifier (they are kept up to P = 512)" in capsys.readouterr().out


def test_files_have_every_measure_of_the_monitor(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = arrays()
    save_arrays(tmp_path / "w.npz", data)
    metric = NeuralCollapse(3, lam=0.1)
    H, y, W, b = (torch.from_numpy(data[name]) for name in ("features", "labels", "W", "b"))
    metric.update(H, y, classifier=(W, b))
    assert main([str(tmp_path / "w.npz"), "--lambda", "0.1", "--json"]) == 0
    line = json.loads(capsys.readouterr().out)
    for name, value in metric.compute().items():
        if name not in ("omega_rounding", "lost_signal", "examples", "classes_seen"):  # of the input, and of the SNR's arrays
            assert line[name] == pytest.approx(value, rel=1e-9, abs=1e-13), name
    assert main([str(tmp_path / "w.npz"), "--lambda", "0.1"]) == 0
    header = capsys.readouterr().out.splitlines()[0].split()
    assert {"nc0", "ncc_accuracy", "effective_rank", "omega_geometric_mean"} <= set(header)


def test_a_record_that_was_begun_without_the_later_measures_goes_on(tmp_path: Path) -> None:
    data = arrays()
    measurement = measure_features(data["features"], data["labels"], data["W"], data["b"], 0.1)
    later = ("nc0", "ncc_accuracy", "effective_rank", "omega_geometric_mean")
    begun = Record.empty().with_epoch(1, measurement, 0.1)
    before = Record({name: value for name, value in begun.arrays.items() if name not in later})
    assert before.with_epoch(2, measurement, 0.1).arrays.keys() == before.arrays.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": arrays()["labels"] + 1, "W": None}, "labels run from 1 to 3, and of class 0 there is no example: 0..C-1 are"),
        ({"labels": arrays()["labels"] * 2, "W": None}, "labels run from 0 to 4, and of class 1 there is no example"),
        ({"labels": arrays()["labels"] - 1, "W": None}, "labels run from -1 to 1, and none can be negative"),
        ({"features": arrays()["features"] * np.float32(np.nan), "W": None}, "NaN or infinite"),
        ({"W": arrays()["W"].T.copy(), "b": None}, "do not fit"),
        ({"labels": arrays()["labels"] // 2}, "class 2 has no example"),
    ],
)
def test_a_message_names_its_file_and_nothing_that_is_not_its_cause(
    change: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "of several.npz"
    save_arrays(path, {name: value for name, value in (arrays() | change).items() if value is not None})
    assert main([str(path), "--lambda", "0.1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"sims.measure: error: {path}: ")
    assert message in error
    assert "stands in" not in error


def test_what_is_given_for_features_is_told_by_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = arrays()
    run = tmp_path / "run"
    measurement = measure_features(data["features"], data["labels"], data["W"], data["b"], 0.1)
    CsvLog(tmp_path / "run.csv")(1, measurement.scalars)
    RunLog(run, lam=0.1)(1, {}, measurement)
    (tmp_path / "npy").mkdir()
    np.save(tmp_path / "npy" / "features.npy", data["features"])
    for command, given, message in (
        (main, tmp_path / "run.csv", "is a table: sims.figures draws it"),
        (main, run / "trajectory.npz", f"it is a file of a run, give the folder {run}"),
        (main, run / "statistics-0001.npz", f"it is a file of a run, give the folder {run}"),
        (main, tmp_path / "npy", f"for the features in it give {tmp_path / 'npy' / 'features.npy'}"),
    ):
        assert command([str(given)]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"it is a log of RunLog, which sims\.measure, sims\.figures, sims\.ledger and"):
        load_run(run)
    assert compare_main([str(tmp_path / "run.csv"), "--out", str(tmp_path / "out")]) == 2
    assert "is a table, without the singular vectors that are compared: give the folder of RunLog" in capsys.readouterr().err
