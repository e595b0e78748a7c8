"""`python -m sims.ledger` and the study: every source, the page, refusals in one line, and resuming."""

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sims import ledger, ledger_study
from sims.ledgers.nets import Cell
from sims.ledgers.summary import mean_and_interval
from sims.ledgers.tasks import run_task
from sims.train import train
from sims.training.protocol import protocol
from ufm.files.write_lock import write_lock

SMALL = {"per_class": 20, "test_per_class": 20, "width": 0.02, "robustness": 0, "batch_size": 50}


def user_network() -> tuple[nn.Sequential, list[tuple[torch.Tensor, torch.Tensor]]]:
    """What a user of MODULE:FUNCTION writes."""
    torch.manual_seed(0)
    y = torch.arange(90) % 3
    x = torch.randn(90, 4) + y[:, None]
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), [(x, y)]


def only_a_model() -> nn.Sequential:
    """What a user may forget: the loader."""
    return user_network()[0]


def untraceable() -> tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]:
    """A model with functional operations that torch.fx cannot trace."""

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = user_network()[0]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.inner[0](x)
            return self.inner[2](torch.relu(h) if h.sum() < 1e9 else h)

    return Branching(), user_network()[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from dataclasses import replace

    folder = tmp_path_factory.mktemp("runs") / "digits <b>"
    config = replace(protocol("digits", "mlp", "mse").scaled(3), **SMALL)
    train(config, folder, cpu=True)
    return folder


def test_a_run_gives_the_ledgers_of_both_splits_and_a_page(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert ledger.main([str(run), "--out", str(tmp_path), "--forces"]) == 0
    told = capsys.readouterr().out
    assert "relu2" in told
    assert "forces on the parameter" in told
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    stored = json.loads((tmp_path / "report.json").read_text())["ledgers"]
    assert [e["split"] for e in stored] == ["train", "test"]
    forces = stored[0]["forces"]
    assert forces[-1]["parameter"] == "all"
    lines = [line.split() for line in told.splitlines()]
    assert all([f["parameter"][-24:], f"{f['means']:.3g}"] in [line[:2] for line in lines] for f in forces)
    page = (tmp_path / "report.html").read_text()
    assert "Learned and memorised" in page
    assert "digits &lt;b&gt;" in page  # what a path holds is text
    assert "digits <b>" not in page
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_forces_of_a_run_whose_features_decay(tmp_path: Path) -> None:
    from dataclasses import replace

    config = replace(protocol("digits", "mlp", "mse").scaled(3), **SMALL, feature_decay=0.01)
    train(config, tmp_path / "run", cpu=True)
    assert ledger.main([str(tmp_path / "run"), "--out", str(tmp_path / "page"), "--forces", "--quiet"]) == 0
    forces = json.loads((tmp_path / "page" / "report.json").read_text())["ledgers"][0]["forces"]
    assert forces[-1]["parameter"] == "all"
    assert forces[-1]["means"] > 0
    assert forces[-1]["decay_ratio"] is None  # these parameters do not decay


def test_charts_have_plain_numbers_and_names_of_operations() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    from sims.ledgers import figures
    from sims.ledgers.entry import entry
    from ufm.ledger import ledger as ledger_of

    stored = entry(ledger_of(*user_network()), "a network", "train", None)
    for figure in (figures.waterfall([stored]), figures.draw_spectra(stored)):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        (ax,) = figure.axes
        assert [label.get_text() for label in ax.get_xticklabels()] == ["input", "0", "1", "2"]
        low, high = ax.get_ylim()
        ticks = [float(label.get_text()) for label in ax.get_yticklabels() if label.get_text()]
        assert sum(low <= tick <= high for tick in ticks) >= 2
        assert {f"{tick:.0e}"[0] for tick in ticks} <= set("12357")
        legend = ax.get_legend()
        assert legend is not None
        assert legend.get_window_extent().y0 >= ax.get_window_extent().y1 - 1  # above the points
        title = next(text for text in ax.findobj(Text) if text.get_text() == "training examples")
        assert legend.get_window_extent().y1 <= title.get_window_extent().y0 + 1


def test_training_again_reaches_the_checkpoint(run: Path, tmp_path: Path) -> None:
    assert ledger.main([str(run), "--epochs", "0", "3", "--out", str(tmp_path / "again"), "--quiet"]) == 0
    assert ledger.main([str(run), "--out", str(tmp_path / "last"), "--quiet"]) == 0
    again, last = (json.loads((tmp_path / name / "report.json").read_text())["ledgers"] for name in ("again", "last"))
    assert [e["epoch"] for e in again] == [0, 0, 3, 3]
    np.testing.assert_allclose(again[2]["omega"], last[0]["omega"], rtol=1e-6)


def test_saved_features_and_a_function_are_sources_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, ((x, y),) = user_network()
    names = []
    for k, name in enumerate(("input", "linear", "relu")):
        np.savez(tmp_path / f"{name}.npz", features=net[:k](x).detach().numpy(), labels=y.numpy())
        names.append(str(tmp_path / f"{name}.npz"))
    for sources, out in ((names, "a"), (["tests.sims.test_ledger:user_network"], "b")):
        assert ledger.main([*sources, "--out", str(tmp_path / out)]) == 0
    a, b = (json.loads((tmp_path / name / "report.json").read_text())["ledgers"][0] for name in "ab")
    np.testing.assert_allclose(a["omega"], b["omega"][:3], rtol=1e-6)
    assert a["rows"][1]["operation"] == "linear"
    assert "held out" in capsys.readouterr().out


def test_rows_that_may_include_more_than_their_module_are_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ledger.main(["tests.sims.test_ledger:untraceable", "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert [line.split()[1:3] for line in told.splitlines() if line.startswith("inner.")] == [["Linear", "?"]] * 2
    assert "a row marked ? may have a gain" in told
    page = (tmp_path / "report.html").read_text()
    assert '<td class="t">Linear ?</td>' in page
    assert "a row marked ? may have a gain" in page
    assert "Learned and memorised" not in page  # one set of examples


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nowhere"], "is no folder of a run"),
        (["no.such.module:f"], "cannot import"),
        (["one.npz"], "at least two .npz files"),
        (["a.npz", "b.npz"], "cannot read"),
        (["tests.sims.test_ledger:user_network", "--limit", "1"], "at least 2 features"),
        (["tests.sims.test_ledger:only_a_model"], "gave Sequential: return (model, loader) or (model, loader, test loader)"),
        (["tests.sims.test_ledger:user_network", "--forces"], "--forces is for folders of sims.train runs"),
        (["a.npz", "b.npz", "--forces"], "--forces is for folders of sims.train runs"),
        (["tests.sims.test_ledger:user_network", "--measured", "3"], "--measured is for folders of sims.train runs and logs"),
        (["tests.sims.test_ledger:user_network", "--per-class", "5"], "user_network is a function"),
        (["a.npz", "b.npz", "--per-class", "5"], "--per-class is for folders of sims.train runs: a.npz is a file of features"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ledger.main(arguments) == 2
    error = capsys.readouterr().err
    assert word in error
    assert error.count("\n") == 1


def test_options_that_a_log_has_no_use_for_are_refused() -> None:
    for option in (["--limit", "9"], ["--reduction", "channels"], ["--per-class", "5"], ["--forces"]):
        with pytest.raises(ValueError, match=f"^{option[0]} is for .*: run is a log$"):
            ledger.check_options_used(ledger.parser().parse_args(["run", *option]), ledger.LOG, "run")
    ledger.check_options_used(ledger.parser().parse_args(["run", "--measured", "1", "10"]), ledger.LOG, "run")


def test_the_study_resumes_and_refuses_other_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        ledger_study, "study_cells", lambda _, seed, seeds: [Cell(width=12, depth=2, epochs=4, seed=seed + k) for k in range(2)]
    )
    arguments = ["--out", str(tmp_path), "--per-class", "20", "--test-per-class", "20", "--quiet"]
    assert ledger_study.main(arguments) == 0
    first = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("mse*")}
    assert len(first) == 2
    next(iter(sorted(tmp_path.glob("mse*")))).unlink()  # as after a kill between two networks
    assert ledger_study.main(arguments) == 0
    again = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("mse*")}
    assert sum(first[name] == again[name] for name in first) == 1
    told = json.loads((tmp_path / "summary.json").read_text())
    assert [row["split"] for row in told] == ["train", "test"]
    assert len(told[0]["omega_factors"]) == 2
    assert [stage["epoch"] for stage in told[0]["omega_course"]] == [0, 1, 2, 4]
    assert ledger_study.main([*arguments[:3], "25", *arguments[4:]]) == 2
    assert "choose another folder" in capsys.readouterr().err
    assert ledger_study.main([*arguments, "--seed", "4"]) == 0
    seeds = sorted(json.loads(path.read_text())["cell"]["seed"] for path in tmp_path.glob("mse*"))
    assert seeds == [0, 1, 4, 5]
    assert ledger_study.main([*arguments, "--seed", "-1"]) == 2
    assert capsys.readouterr().err == "sims.ledger_study: error: --seed -1: it cannot be negative\n"


def test_a_network_that_another_command_computes_is_reported_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [Cell(width=12, depth=2, epochs=4, seed=seed) for seed in range(2)]
    monkeypatch.setattr(ledger_study, "study_cells", lambda *_: cells)
    arguments = ["--out", str(tmp_path), "--per-class", "20", "--test-per-class", "20", "--quiet", "--engine", "serial"]
    tasks = list(ledger_study._tasks(ledger_study.parser().parse_args(arguments)).values())
    with write_lock(tasks[0].path):
        assert ledger_study.main(arguments) == 1
    reason = f"another command is writing {tasks[0].path}: wait until it has ended, or write elsewhere"
    assert capsys.readouterr().err.endswith(f"1 of 2 networks failed; {cells[0].name}, seed 0: {reason}\n")
    assert [task.path.exists() for task in tasks] == [False, True]
    stored = tasks[1].path.stat().st_mtime_ns
    for task in tasks:
        run_task(task)  # as a worker that comes to what another command has computed meanwhile
    assert tasks[1].path.stat().st_mtime_ns == stored
    assert sorted(tmp_path.iterdir()) == sorted([*(task.path for task in tasks), tmp_path / "summary.json"])


def test_every_size_is_a_list_of_distinct_networks() -> None:
    counts = {size: len(set(ledger_study.study_cells(size))) for size in ledger_study.SIZES}
    assert counts == {"tiny": 24, "small": 96, "full": 160, "conv": 40, "gaussians": 60}
    assert all(len(list(ledger_study.study_cells(size))) == count for size, count in counts.items())
    assert {cell.seed for cell in ledger_study.study_cells("tiny", 7)} == {7, 8, 9}
    assert {cell.seed for cell in ledger_study.study_cells("small", 7, 5)} == {7, 8, 9, 10, 11}


def test_intervals_over_networks_are_students() -> None:
    middle, low, high = mean_and_interval([1.0, 2.0, 3.0]) or []
    assert (middle, round(high - low, 3)) == (2.0, 4.968)
    assert mean_and_interval([np.nan]) is None


def logged_training(folder: Path, logs: list[Any], inner: tuple[str, ...] = ("10", "3", "2")) -> nn.Sequential:
    """A network trained for three epochs, logged; layers are watched in an order that neither names nor numbers have."""
    from ufm.monitor import watch

    torch.manual_seed(1)
    y = torch.arange(150) % 3
    x = torch.randn(150, 6, dtype=torch.float64) + 2 * torch.randn(3, 6, dtype=torch.float64)[y]
    parts: tuple[nn.Module, ...] = (nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3))
    model = nn.Sequential(OrderedDict(zip(("10", "relu", "3", "2", "head"), parts, strict=True))).double()
    watched, optimizer = watch(model, "head", inner=inner), torch.optim.SGD(model.parameters(), 0.1)
    for epoch in (1, 2, 3):
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        values = watched.measure([(x, y)])
        for log in logs:
            log(epoch, values, watched.measurement)
    np.savez(folder / "examples.npz", x=x.numpy(), y=y.numpy())
    return model


def test_a_log_of_the_monitor_gives_the_rows_of_the_ledger_of_its_network(tmp_path: Path) -> None:
    from ufm.ledger import ledger as ledger_of
    from ufm.monitor.logs import CsvLog, RunLog

    model = logged_training(tmp_path, [RunLog(tmp_path / "run"), CsvLog(tmp_path / "run.csv")])
    assert ledger.main([str(tmp_path / "run"), str(tmp_path / "run.csv"), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    of_folder, of_table = json.loads((tmp_path / "out" / "report.json").read_text())["ledgers"]
    with np.load(tmp_path / "examples.npz") as examples:
        oracle = ledger_of(model, [(torch.from_numpy(examples["x"]), torch.from_numpy(examples["y"]))])
    assert [row["operation"] for row in of_folder["rows"]] == ["10", "3", "2", "classifier's features", "logits"]
    expected = np.exp(oracle.level("omega"))[[1, 3, 4, 4, 5]]
    np.testing.assert_allclose([row["omega"] for row in of_folder["rows"]], expected, rtol=1e-9)
    np.testing.assert_allclose([row["omega_gain"] for row in of_folder["rows"][1:]], np.diff(np.log(expected)), atol=1e-9)
    np.testing.assert_allclose(of_folder["omega"][3:], oracle.omega[4:], rtol=1e-9)
    assert of_folder["omega"][0] == [None, None]
    np.testing.assert_allclose([row["omega"] for row in of_table["rows"]], expected[:4], rtol=1e-9)
    assert (tmp_path / "out" / "report.pdf").exists()


def test_a_log_has_its_epochs_and_needs_two_states(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ufm.monitor.logs import CsvLog

    logged_training(tmp_path, [CsvLog(tmp_path / "run.csv")])
    assert ledger.main([str(tmp_path / "run.csv"), "--epochs", "1", "3", "--json"]) == 0
    assert [json.loads(line)["epoch"] for line in capsys.readouterr().out.splitlines()] == [1, 3]
    assert ledger.main([str(tmp_path / "run.csv"), "--epochs", "4"]) != 0
    assert "epoch 4 is not in" in capsys.readouterr().err
    logged_training(tmp_path, [CsvLog(tmp_path / "alone.csv")], inner=())
    assert ledger.main([str(tmp_path / "alone.csv")]) != 0
    assert "one state" in capsys.readouterr().err
