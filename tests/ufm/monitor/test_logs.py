"""Logs keep every epoch through a kill, hand the same numbers to every tool, and make runs that the comparison reads."""

import json
import math
import signal
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sims.comparison.runs import load_observed
from tests.fresh import FreshProcesses
from tests.ufm.monitor.killed import train
from ufm.monitor import NeuralCollapse, watch
from ufm.monitor.logged import load_log
from ufm.monitor.logs import CsvLog, RunLog, StepLog, TensorBoardLog
from ufm.monitor.measurement import Measurement
from ufm.monitor.record import Record
from ufm.monitor.tables import read_csv

ROOT = Path(__file__).parents[3]
TEXT: Any = {"nc1": "abc"}


def test_a_killed_and_resumed_run_loses_nothing(tmp_path: Path, fresh: FreshProcesses) -> None:
    script = [fresh.python, "-m", "tests.ufm.monitor.killed", str(tmp_path / "killed"), "5"]
    done = subprocess.run(script, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert Record.load(tmp_path / "killed" / "run" / "trajectory.npz").epochs.tolist() == [1, 2, 3, 4, 5]
    train(tmp_path / "killed")  # goes on from the checkpoint of epoch 4, and repeats epoch 5
    train(tmp_path / "whole")
    data, expected = (Record.load(tmp_path / name / "run" / "trajectory.npz") for name in ("killed", "whole"))
    assert data.epochs.tolist() == [1, 2, 3, 4, 5, 6]
    assert data.arrays.keys() == expected.arrays.keys()
    for name, value in expected.arrays.items():
        np.testing.assert_allclose(data.arrays[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
    tables = [read_csv(tmp_path / name / "run.csv") for name in ("killed", "whole")]
    for name, column in tables[1].items():
        np.testing.assert_allclose(tables[0][name], column, rtol=1e-9, atol=1e-12, err_msg=name)
    observed = load_observed(tmp_path / "killed" / "run")
    assert observed.config["optimizer"] == "SGD"
    assert observed.config["lambda"] == 1e-3
    np.testing.assert_array_equal(observed.trajectory.t, [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(observed.rates, np.full(6, 0.5))


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    RunLog(tmp_path, lam=0.1, optimizer="SGD")
    RunLog(tmp_path, lam=0.1, optimizer="SGD")
    with pytest.raises(ValueError, match="optimizer = 'SGD', now 'AdamW'"):
        RunLog(tmp_path, lam=0.1, optimizer="AdamW")
    assert json.loads((tmp_path / "run.json").read_text()) == {"lambda": 0.1, "optimizer": "SGD"}
    with pytest.raises(ValueError, match="needs the measurement of classes"):
        RunLog(tmp_path, lam=0.1, optimizer="SGD")(1, {"nc1": 1.0})


def test_every_tool_gets_the_same_numbers_and_nothing_undefined() -> None:
    values = {"nc1": 0.5, "nc3": math.nan}
    sent: list[Any] = []

    class Writer:
        def add_scalar(self, name: str, value: float, step: int) -> None:
            sent.append((name, value, step))

    TensorBoardLog(Writer())(3, values)
    StepLog(sent.append)(3, values)
    assert sent == [("collapse/nc1", 0.5, 3), {"epoch": 3, "collapse/nc1": 0.5}]


def test_another_lambda_than_the_folders_is_refused_with_both_numbers(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 3))
    data = [(torch.randn(30, 3), torch.arange(30) % 3)]
    watched = watch(network, "1", lam=0.02)
    values = watched.measure(data)
    assert watched.measurement.lam == 0.02
    with pytest.raises(ValueError, match=r"lambda = 0\.02, and .*/run is a run of lambda = 0\.01: give the same lam"):
        RunLog(tmp_path / "run", lam=0.01)(1, values, watched.measurement)
    assert not (tmp_path / "run" / "trajectory.npz").exists()
    RunLog(tmp_path / "same", lam=0.02)(1, values, watched.measurement)
    RunLog(tmp_path / "silent", lam=0.01)(1, *_measured_without_lambda(network, data))


def _measured_without_lambda(network: torch.nn.Module, data: list) -> tuple[dict[str, float], Measurement]:
    watched = watch(network, "1")
    return watched.measure(data), watched.measurement


def test_lambda_can_be_told_after_the_training(tmp_path: Path) -> None:
    """The parts of the loss at every epoch are those of a run that was logged with it."""
    network, labels = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3)), torch.arange(30) % 3
    data = [(torch.randn(3, 5)[labels] + 0.3 * torch.randn(30, 5), labels)]
    for lam, name in ((None, "without"), (0.1, "with")):
        log, watched = RunLog(tmp_path / name, lam=lam), watch(network, "1", lam=lam)
        for epoch in (1, 2):
            values = watched.measure(data)
            log(epoch, values, watched.measurement)
    _, told = load_log(tmp_path / "without", 0.1)
    _, logged = load_log(tmp_path / "with")
    assert told.arrays.keys() == logged.arrays.keys()
    for name in ("loss", "loss_nc1", "loss_nc23", "loss_perp", "lambda"):
        np.testing.assert_allclose(told.arrays[name], logged.arrays[name], rtol=1e-12, err_msg=name)
        assert np.isnan(load_log(tmp_path / "without")[1].arrays[name]).all()
        np.testing.assert_array_equal(load_log(tmp_path / "with", 0.7)[1].arrays[name], logged.arrays[name])
    np.testing.assert_allclose(
        load_observed(tmp_path / "without", 0.1).trajectory.observed["loss_perp"],
        load_observed(tmp_path / "with").trajectory.observed["loss_perp"],
        rtol=1e-12,
    )
    (tmp_path / "without" / "statistics-0002.npz").unlink()  # as of features that are too wide to keep them
    assert np.isnan(load_log(tmp_path / "without", 0.1)[1].arrays["loss"]).tolist() == [False, True]


def test_lambda_told_to_the_log_or_to_the_watch_alone_is_that_of_the_run(tmp_path: Path) -> None:
    network, labels = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3)), torch.arange(30) % 3
    data = [(torch.randn(3, 5)[labels] + 0.3 * torch.randn(30, 5), labels)]
    for name, of_log, of_watch in (("both", 0.1, 0.1), ("log", 0.1, None), ("watch", None, 0.1)):
        log, watched = RunLog(tmp_path / name, lam=of_log), watch(network, "1", lam=of_watch)
        for epoch in (1, 2):
            log(epoch, watched.measure(data), watched.measurement)
    expected = load_log(tmp_path / "both")[1].arrays
    for name in ("log", "watch"):
        for given in (None, 0.7):
            told = load_log(tmp_path / name, given)[1].arrays
            for key in ("loss", "loss_nc1", "loss_nc23", "loss_perp", "lambda"):
                np.testing.assert_allclose(told[key], expected[key], rtol=1e-12, err_msg=f"{name}: {key}")
        assert load_observed(tmp_path / name).trajectory.observed["loss_perp"][-1] == pytest.approx(expected["loss_perp"][-1])


def test_a_table_keeps_its_digits_and_other_files_are_refused(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "t.csv")
    log(1, {"nc1": 0.1 + 0.2})
    log(2, {"nc1": 1.0, "later": 2.0})
    table = read_csv(tmp_path / "t.csv")
    assert table["nc1"].tolist() == [0.1 + 0.2, 1.0]
    assert np.isnan(table["later"][0])
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    for make in (CsvLog, read_csv):
        with pytest.raises(ValueError, match="column 'epoch'"):
            make(tmp_path / "other.csv")


def test_a_missing_class_leaves_a_run_folder_as_it_was(tmp_path: Path) -> None:
    metric = NeuralCollapse(3)
    metric.update(torch.randn(8, 4), torch.zeros(8, dtype=torch.int64))
    metric.compute()
    assert not metric.measured
    with pytest.raises(ValueError, match="needs the measurement"):
        RunLog(tmp_path)(1, metric.compute())
    assert not (tmp_path / "trajectory.npz").exists()


def test_two_logs_of_one_file_are_refused_before_one_loses_what_the_other_wrote(tmp_path: Path) -> None:
    first, second = CsvLog(tmp_path / "t.csv"), CsvLog(tmp_path / "t.csv")
    first(1, {"nc1": 1.0})
    with pytest.raises(
        ValueError, match=r"t\.csv was written by another log in the meantime: give every log a file or folder of its own"
    ):
        second(1, {"nc1": 2.0})
    first(2, {"nc1": 3.0})
    CsvLog(tmp_path / "t.csv")(3, {"nc1": 4.0})  # goes on with it
    assert read_csv(tmp_path / "t.csv")["nc1"].tolist() == [1.0, 3.0, 4.0]
    metric = NeuralCollapse(3)
    metric.update(torch.randn(30, 4), torch.arange(30) % 3)
    values = metric.compute()
    one, other = RunLog(tmp_path / "run"), RunLog(tmp_path / "run")
    one(1, values, metric.measurement)
    one(2, values, metric.measurement)
    with pytest.raises(ValueError, match="was written by another log in the meantime"):
        other(1, values, metric.measurement)
    assert Record.load(tmp_path / "run" / "trajectory.npz").epochs.tolist() == [1, 2]


@pytest.mark.parametrize("epoch", [1.5, -1, True])
def test_epochs_are_whole_numbers(tmp_path: Path, epoch: Any) -> None:
    metric = NeuralCollapse(3)
    metric.update(torch.randn(30, 4), torch.arange(30) % 3)
    values = metric.compute()
    for log in (CsvLog(tmp_path / "t.csv"), RunLog(tmp_path / "run")):
        first: Any = np.int64(1)  # as epochs come from arrays
        log(first, values, metric.measurement)
        with pytest.raises(ValueError, match="epochs are counted by whole numbers"):
            log(epoch, values, metric.measurement)
    assert read_csv(tmp_path / "t.csv")["epoch"].tolist() == [1]
    with pytest.raises(ValueError, match="cannot make the folder"):
        RunLog(tmp_path / "t.csv")


def measured() -> tuple[dict[str, float], Measurement]:
    metric = NeuralCollapse(3)
    metric.update(torch.randn(30, 4), torch.arange(30) % 3)
    return metric.compute(), metric.measurement


def test_a_training_that_begins_anew_leaves_the_log_of_an_earlier_one(tmp_path: Path) -> None:
    """Twice, and one from an early checkpoint; one that repeats the last epochs goes on with the log."""
    values, measurement = measured()
    table, folder = tmp_path / "run.csv", tmp_path / "run"
    for first, last in ((1, 6), (1, 1), (1, 6), (3, 5)):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for log in (CsvLog(table), RunLog(folder, seed=3)):
                for epoch in range(first, last + 1):
                    log(epoch, {**values, "nc1": 10.0 * first + epoch}, measurement)
        assert all("begins anew: they are kept in" in str(one.message) for one in said)
    assert read_csv(tmp_path / "run.earlier-1.csv")["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert read_csv(tmp_path / "run.earlier-2.csv")["epoch"].tolist() == [1]
    assert read_csv(tmp_path / "run.earlier-3.csv")["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert read_csv(table)["epoch"].tolist() == [1, 2, 3, 4, 5]
    kept = folder / "earlier-1"
    assert load_observed(kept).trajectory.t.tolist() == [1, 2, 3, 4, 5, 6]
    assert len(list(kept.glob("statistics-*.npz"))) == 6
    assert load_observed(folder).trajectory.t.tolist() == [1, 2, 3, 4, 5]
    assert {path.name for path in folder.glob("statistics-*.npz")} == {f"statistics-000{k}.npz" for k in range(1, 6)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CsvLog(table)(4, values)  # goes on from a checkpoint, and repeats two epochs
        RunLog(folder, seed=3)(4, values, measurement)
    assert read_csv(table)["epoch"].tolist() == [1, 2, 3, 4]
    assert Record.load(folder / "trajectory.npz").epochs.tolist() == [1, 2, 3, 4]


def test_facts_that_statistics_cannot_hold_are_left_to_the_folder(tmp_path: Path) -> None:
    values, measurement = measured()
    facts: dict[str, Any] = {"learning_rate": "cosine", "momentum": True, "loss": 3, "batch_size": "32", "optimizer": "SGD"}
    RunLog(tmp_path, lam=torch.tensor(0.5), seed=np.int64(4), **facts)(1, values, measurement)  # type: ignore[arg-type]
    assert json.loads((tmp_path / "run.json").read_text()) == {"lambda": 0.5, "seed": 4, **facts}
    assert load_observed(tmp_path).trajectory.t.tolist() == [1]
    RunLog(tmp_path, lam=0.5, seed=4, **facts)
    assert math.isnan(RunLog(tmp_path / "unknown", lam=math.nan)._lam)
    RunLog(tmp_path / "unknown")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: RunLog(folder, lam=-1.0), r"lam = -1\.0: lambda is at least 0"),
        (lambda folder: RunLog(folder, optimizer=torch.nn.Linear(2, 2)), "optimizer = Linear.*: a fact of a run is a number"),
        (lambda folder: CsvLog(folder / "t.csv")(1, TEXT), r"values\['nc1'\] = 'abc' is no number"),
        (lambda folder: CsvLog(folder / "half.csv"), r"half\.csv: line 3 has the epoch '1\.5', no whole number"),
        (lambda folder: CsvLog(folder / "wide.csv"), r"wide\.csv: line 2 has more cells than there are columns"),
    ],
)
def test_what_a_log_cannot_hold_is_named(make: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "half.csv").write_text("epoch,nc1\n1,2\n1.5,2\n")
    (tmp_path / "wide.csv").write_text("epoch,nc1\n1,2,9\n")
    with pytest.raises(ValueError, match=message):
        make(tmp_path)


def test_a_table_that_another_program_wrote_back_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("epoch,nc1\n1.0,0.5\n,\n2.0,0.25\n")
    CsvLog(tmp_path / "t.csv")(3, {"nc1": 0.125, "epoch": 7.0})
    assert read_csv(tmp_path / "t.csv")["epoch"].tolist() == [1, 2, 3]
