"""Any log is drawn, and a network has its page: measures, reasons and figures in one file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sims import figures, measure
from sims.training import network_report
from sims.training.log_figures import LoggedRun, layers_overview, load_all_logged, load_logged, measures_of, overview
from tests.sims.test_measure import arrays
from ufm.files.store import save_arrays
from ufm.monitor import NeuralCollapse, Watched, watch
from ufm.monitor.logs import CsvLog, RunLog
from ufm.monitor.measurement import Measurement, measure_features
from ufm.monitor.record import Record


def measured(C: int = 3, seed: int = 0) -> Measurement:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(C), 12)
    features = rng.standard_normal((C, C + 2))[labels] + 0.3 * rng.standard_normal((12 * C, C + 2))
    return measure_features(features, labels, rng.standard_normal((C, C + 2)), np.zeros(C), 0.1)


def log_of(path: Path, C: int = 3, epochs: int = 4) -> Path:
    log = RunLog(path, lam=0.1, optimizer="SGD")
    for epoch in range(1, epochs + 1):
        measurement = measured(C, epoch)
        log(epoch, measurement.scalars, measurement)
    return path


@pytest.mark.usefixtures("unrendered")
def test_runs_of_any_kind_are_overlaid_one_panel_a_measure(tmp_path: Path) -> None:
    log_of(tmp_path / "one")
    table = CsvLog(tmp_path / "two.csv")
    table(1, {"nc1": 0.5, "nc3": float("nan")})
    table(3, {"nc1": 0.2, "nc3": 0.1})
    runs = [load_logged(tmp_path / "one"), load_logged(tmp_path / "two.csv"), load_logged(tmp_path / "one" / "trajectory.npz")]
    drawn = overview(runs)
    titled = [axes for axes in drawn.axes if axes.get_title()]
    assert len(titled) == len(measures_of(runs))
    nc1 = next(axes for axes in titled if "Sigma_W" in axes.get_title())
    assert len(nc1.get_lines()) == 3
    np.testing.assert_array_equal(nc1.get_lines()[1].get_ydata(), [0.5, 0.2])
    assert figures.main([str(tmp_path / "one"), str(tmp_path / "two.csv"), "--out", str(tmp_path / "f"), "--format", "pdf"]) == 0
    assert {"measures.pdf", "measure-nc1.pdf", "measure-omega.pdf"} <= {path.name for path in (tmp_path / "f").iterdir()}
    assert (tmp_path / "f" / "measures.pdf").read_bytes() == b"%PDF"


def test_a_measure_without_a_number_has_no_panel(tmp_path: Path) -> None:
    table = CsvLog(tmp_path / "t.csv")
    for epoch in (1, 2):
        table(epoch, {"nc1": 0.5, "loss": float("nan"), "nc3": float("nan") if epoch == 1 else 0.2})
    assert measures_of([load_logged(tmp_path / "t.csv")]) == ["nc3", "nc1"]
    CsvLog(tmp_path / "u.csv")(1, {"nc1": 0.5, "loss": 1.0})
    assert measures_of([load_logged(tmp_path / f"{name}.csv") for name in "tu"]) == ["loss", "nc3", "nc1"]


@pytest.mark.usefixtures("unrendered")
def test_the_commands_say_what_they_wrote(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, out, page = str(log_of(tmp_path / "run")), tmp_path / "f", tmp_path / "r.html"
    assert figures.main([run, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"wrote to {out}: measures.png, ")
    assert all(path.name in printed for path in out.iterdir())
    assert measure.main([run, "--report", str(page), "--out", str(tmp_path / "all.npz")]) == 0
    assert capsys.readouterr().out.endswith(f"wrote {tmp_path / 'all.npz'}\nwrote {page}\n")
    assert figures.main([run, "--out", str(out), "--quiet"]) == measure.main([run, "--report", str(page), "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_runs_of_one_name_have_an_entry_of_the_legend_each(tmp_path: Path) -> None:
    paths = [log_of(tmp_path / seed / "run") for seed in ("seed0", "seed1")]
    CsvLog(tmp_path / "seed1" / "run.csv")(1, {"nc1": 0.5})
    other = CsvLog(tmp_path / "other.csv")
    other(1, {"nc1": 0.5})
    runs = load_all_logged([*paths, tmp_path / "seed1" / "run.csv", other.path])
    names = ["seed0/run", "seed1/run", "run.csv", "other"]
    assert [run.name for run in runs] == names
    assert [text.get_text() for text in overview(runs).legends[0].get_texts()] == names


def test_singular_values_are_counted_by_whole_numbers() -> None:
    for K in (1, 2, 3, 200):
        ticks = network_report.spectrum_figure(np.arange(K, 0, -1.0)).axes[0].get_xticks()
        assert (ticks == np.round(ticks)).all()


def test_a_hundred_classes_are_a_band_and_few_are_lines() -> None:
    for C, lines in ((5, 4), (100, 1)):
        omega = np.abs(np.random.default_rng(0).standard_normal((6, C - 1))) + 1
        axes = overview([LoggedRun("r", {"epoch": np.arange(6), "omega": omega}, {})]).axes[0]
        assert len(axes.get_lines()) == lines
        assert len(axes.collections) == (0 if C == 5 else 2)
        assert ("quartiles" in axes.get_title()) == (C == 100)


@pytest.mark.parametrize(("last", "scale"), [(0.3, "linear"), (0.01, "log"), (0.0, "linear")])
def test_an_axis_is_logarithmic_where_a_measure_spans_more_than_a_decade(last: float, scale: str) -> None:
    run = LoggedRun("r", {"epoch": np.arange(3), "nc1": np.array([0.5, np.nan, last])}, {})
    assert overview([run]).axes[0].get_yscale() == scale


def test_every_value_of_the_metric_is_explained_on_the_page(tmp_path: Path) -> None:
    labels = torch.arange(30) % 3
    metric, log = NeuralCollapse(3, lam=0.1), RunLog(tmp_path / "run", lam=0.1)
    metric.update(torch.randn(3, 4, generator=torch.Generator().manual_seed(0))[labels] + torch.rand(30, 4), labels,
                  (torch.eye(3, 4), torch.zeros(3)))  # fmt: skip
    log(1, metric.compute(), metric.measurement)
    assert measure.main([str(tmp_path / "run"), "--report", str(tmp_path / "r.html"), "--quiet"]) == 0
    page = (tmp_path / "r.html").read_text()
    assert "effective_rank" in page
    assert "<td></td>" not in page


def test_the_page_of_a_network_stands_alone_and_says_what_is_undefined(tmp_path: Path) -> None:
    data = arrays()
    save_arrays(tmp_path / "f.npz", {**data, "W": 0 * data["W"]})
    assert measure.main([str(tmp_path / "f.npz"), "--report", str(tmp_path / "r.html"), "--quiet"]) == 0
    text = (tmp_path / "r.html").read_text()
    assert "a vector is zero" in text
    assert "undefined" in text
    assert 'src="data:image/png;base64,' in text
    assert "http" not in text.replace("http-equiv", "")
    log_of(tmp_path / "a<b")
    assert measure.main([str(tmp_path / "a<b"), "--report", str(tmp_path / "run.html"), "--quiet"]) == 0
    page = (tmp_path / "run.html").read_text()
    assert "a&lt;b" in page
    assert "optimizer</td><td>SGD" in page
    assert page.count("<img") == 2
    assert "<td></td>" not in text  # every measure says what it is, or why it is undefined


def test_what_is_no_log_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_arrays(tmp_path / "f.npz", arrays())
    assert figures.main([str(tmp_path / "f.npz"), "--out", str(tmp_path / "f")]) == 2
    assert "no array 'epoch'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no measure"):
        overview([LoggedRun("r", {"epoch": np.arange(2)}, {})])


def watched_layers(inner: tuple[str, ...] = ("1", "10", "2")) -> tuple[Watched, nn.Linear, Any]:
    """A watch over inner layers, the first of them, and a batch."""
    torch.manual_seed(0)
    linear = [nn.Linear(4, 4) for _ in range(10)]
    net = nn.Sequential(*linear, nn.Tanh(), nn.Linear(4, 3)).double()
    y = torch.arange(60) % 3
    x = torch.randn(3, 4).double()[y] + 0.5 * torch.randn(60, 4).double()
    return watch(net, "11", inner=inner), linear[0], (x, y)


def layers_logged(path: Path) -> tuple[Path, Path, list[dict[str, float]]]:
    """A run of a network with inner layers as RunLog and as a table, and what was measured at every epoch."""
    watched, first, batch = watched_layers()
    logs, values = (RunLog(path / "run"), CsvLog(path / "run.csv")), list[dict[str, float]]()
    for epoch in (1, 2, 3):
        values.append(watched.measure([batch]))
        for log in logs:
            log(epoch, values[-1], watched.measurement)
        with torch.no_grad():
            first.weight.mul_(1.3)
    return path / "run", path / "run.csv", values


def test_gain_goes_to_the_logs(tmp_path: Path) -> None:
    run, table, values = layers_logged(tmp_path)
    for path in (run, table):
        columns = load_logged(path).columns
        for name in ("10/gain", "2/gain", "gain"):
            np.testing.assert_array_equal(columns[name], [row[name] for row in values], err_msg=name)
        assert "1/gain" not in columns  # the first has none before it
    logarithms = {name: np.log(values[0][f"{name}omega_geometric_mean"]) for name in ("1/", "10/", "2/", "")}
    assert values[0]["10/gain"] == logarithms["10/"] - logarithms["1/"]
    assert values[0]["gain"] == logarithms[""] - logarithms["2/"]


def test_a_run_logged_without_gain_goes_on(tmp_path: Path) -> None:
    run, _, values = layers_logged(tmp_path)
    record = Record.load(run / "trajectory.npz")
    Record({name: value for name, value in record.arrays.items() if "gain" not in name}).save(run / "trajectory.npz")
    watched, _, batch = watched_layers()
    watched.measure([batch])
    RunLog(run)(4, values[-1], watched.measurement)
    assert not any("gain" in name for name in Record.load(run / "trajectory.npz").arrays)


def test_an_undefined_gain_has_its_reason() -> None:
    first = nn.Linear(4, 4)
    watched = watch(nn.Sequential(first, nn.Tanh(), nn.Linear(4, 3)), "2", inner=("0", "1"))
    x, y = torch.randn(6, 4), torch.arange(6) % 3
    with torch.no_grad():
        first.weight.zero_()
    values = watched.measure([(x, y)])
    undefined = {name for name, value in values.items() if np.isnan(value)}
    assert {"1/gain", "gain"} <= undefined <= set(watched.undefined)
    assert watched.undefined["gain"].startswith("omega is undefined there, or before it: ")
    assert [np.isnan(float(row["gain"])) for row in watched.by_layer()] == [True] * 3


@pytest.mark.usefixtures("unrendered")
def test_inner_layers_are_drawn_over_the_epochs(tmp_path: Path) -> None:
    run, table, values = layers_logged(tmp_path)
    for path in (run, table):
        drawn = layers_overview(load_logged(path))
        assert drawn is not None
        assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["1", "2", "10", "classifier's features"]
        nc1 = next(axes for axes in drawn.axes if "Sigma_W" in axes.get_title())
        for line, prefix in zip(nc1.get_lines(), ("1/", "2/", "10/", ""), strict=True):
            np.testing.assert_array_equal(line.get_ydata(), [row[f"{prefix}nc1"] for row in values])
        gain = next(axes for axes in drawn.axes if axes.get_title() == "gain of log omega")
        assert len(gain.get_lines()) == 3
    assert layers_overview(load_logged(log_of(tmp_path / "plain"))) is None
    assert figures.main([str(run), str(table), str(tmp_path / "plain"), "--out", str(tmp_path / "f")]) == 0
    written = {path.name for path in (tmp_path / "f").glob("layers*")}
    assert written == {"layers-run.png", "layers-run.csv.png"}
    assert figures.main([str(run), "--out", str(tmp_path / "one")]) == 0
    assert (tmp_path / "one" / "layers.png").exists()
    assert measure.main([str(run), "--report", str(tmp_path / "r.html"), "--quiet"]) == 0
    page = (tmp_path / "r.html").read_text()
    assert "Layers against the epoch" in page
    assert "layer 10: tr(Sigma_W Sigma_B^+) / C" in page
