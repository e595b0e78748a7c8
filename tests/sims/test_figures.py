"""Figures 2-12 and Table 1 from stored runs: which lines, from which arrays, with the zero-error epoch marked."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sims import figures
from sims.training.folder import RunFolder
from sims.training.paper_figures import OVERLAYS, PLOTS, StoredRun, overlay_figure, plot_figure, table_one
from sims.training.protocol import TrainConfig, protocol
from ufm.monitor.record import Record, table

EPOCHS = np.array([1, 2, 5, 9])


def record(seed: int = 0, errors: tuple[float, ...] = (0.5, 0.0011, 0.001, 0.0)) -> Record:
    rng = np.random.default_rng(seed)
    names = {line.name for plot in PLOTS for line in plot.lines} | {overlay.name for overlay in OVERLAYS}
    arrays = {name: rng.uniform(0.01, 1, 4) for name in sorted(names)}
    arrays |= {"epoch": EPOCHS, "train_error": np.array(errors), "test_error": np.array([0.6, 0.3, 0.25, 0.1])}
    V = np.tile(np.eye(3)[:, :2], (4, 1, 1))
    arrays |= {"omega": np.ones((4, 2)), "V": V, "U": np.zeros((4, 5, 2)), "counts": np.array([7, 7, 7])}
    return Record(arrays)


def run(net: str = "resnet18", dataset: str = "mnist", loss: str = "mse", seed: int = 0) -> StoredRun:
    return StoredRun(TrainConfig(net=net, dataset=dataset, loss=loss), record(seed))


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: f"figure {plot.number}")
def test_every_line_is_the_stored_quantity_and_zero_error_is_marked(plot) -> None:
    one = run()
    figure = plot_figure(plot, [one])
    assert figure is not None
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    for line in plot.lines:
        np.testing.assert_array_equal(lines[line.label].get_xdata(), EPOCHS)
        np.testing.assert_array_equal(lines[line.label].get_ydata(), one.record.arrays[line.name])
    assert list(np.asarray(lines["zero training error"].get_xdata())) == [5, 5]
    assert len(lines) == len(plot.lines) + 1


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda overlay: f"figure {overlay.number}")
def test_overlays_show_both_losses(overlay) -> None:
    runs = [run(), run(loss="ce", seed=1)]
    figure = overlay_figure(overlay, runs)
    assert figure is not None
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    np.testing.assert_array_equal(lines["MSE"].get_ydata(), runs[0].record.arrays[overlay.name])
    np.testing.assert_array_equal(lines["cross-entropy"].get_ydata(), runs[1].record.arrays[overlay.name])
    marks = {"zero training error, MSE": "-", "zero training error, cross-entropy": "--"}
    assert {label: line.get_linestyle() for label, line in lines.items() if "zero" in str(label)} == marks
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"MSE", "cross-entropy", *marks}


def test_figure_12_shows_the_class_means_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, drawn = [run()], {}
    runs[0].record.arrays["test_nc1_train_means"] = np.array([4.0, 3.0, 2.0, 1.0])
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: drawn.__setitem__(path.stem, figure))
    for means, name in (("own", "test_nc1"), ("train", "test_nc1_train_means")):
        figures.draw(runs, tmp_path, "mse", "png", means)
        np.testing.assert_array_equal(drawn["figure-12"].axes[0].get_lines()[0].get_ydata(), runs[0].record.arrays[name])


def test_panels_are_datasets_across_and_kinds_of_network_down() -> None:
    runs = [run("vgg11", "cifar10"), run("densenet40", "mnist"), run("resnet50", "cifar10")]
    figure = plot_figure(PLOTS[0], runs)
    assert figure is not None
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["", "CIFAR-10, vgg11", "", "CIFAR-10, resnet50", "MNIST, densenet40", ""]


def test_the_zero_error_epoch_is_the_first_within_a_thousandth() -> None:
    assert record().zero_error_epoch == 5
    assert record(errors=(0.5, 0.4, 0.3, 0.2)).zero_error_epoch is None


def test_table_one_is_the_test_accuracy_at_zero_error_and_at_the_end() -> None:
    never = StoredRun(TrainConfig(net="vgg11", dataset="svhn"), record(errors=(0.5, 0.4, 0.3, 0.2)))
    text = table_one([never, run(), run("vgg11")])
    assert "| MNIST | resnet18 | mse | 75.00 | 90.00 | 5 |" in text
    assert "| SVHN | vgg11 | mse | not reached | 90.00 | - |" in text
    assert "Gain of accuracy, percentage points: median 15.0000, mean 15.0000, over 2 run(s)" in text
    robust = run().record.arrays["robustness"]
    assert f"Gain of robustness: median {robust[3] - robust[2]:.4f}" in text
    assert text.index("vgg11 | mse | 75") < text.index("resnet18 | mse | 75") < text.index("SVHN")


def stored(path: Path, config: TrainConfig, seed: int = 0) -> str:
    folder = RunFolder(path, config)
    folder.begin()
    record(seed).save(path / "trajectory.npz")
    return str(path)


def test_the_command_writes_every_figure_and_the_table(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    names = [stored(tmp_path / loss, protocol("mnist", "resnet18", loss)) for loss in ("mse", "ce")]
    out = tmp_path / "figures"
    assert figures.main([*names, "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == [*(f"figure-{n:02d}.png" for n in range(2, 13)), "table-1.md"]
    printed = capsys.readouterr().out
    assert (out / "table-1.md").read_text() in printed
    assert printed.endswith(f"wrote to {out}: {', '.join(sorted(path.name for path in out.iterdir()))}\n")


def test_what_was_not_measured_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    name = stored(tmp_path / "run", protocol("mnist", "resnet18", "mse"))
    arrays = record().arrays
    del arrays["robustness"]
    Record(arrays).save(tmp_path / "run" / "trajectory.npz")
    assert figures.main([name, "--out", str(tmp_path), "--format", "svg"]) == 0
    assert capsys.readouterr().err == "not measured by these runs: Figure 9, 11\n"
    assert not (tmp_path / "figure-09.svg").exists()


def test_bad_input_is_one_line_and_exit_code_two(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = protocol("mnist", "resnet18", "mse")
    a, b = stored(tmp_path / "a", config), stored(tmp_path / "b", replace(config, seed=1))
    (tmp_path / "cut").mkdir()
    cut = stored(tmp_path / "cut", config)
    (tmp_path / "cut" / "trajectory.npz").write_bytes((tmp_path / "a" / "trajectory.npz").read_bytes()[:300])
    empty = stored(tmp_path / "empty", config)
    Record(record().arrays | {"epoch": np.zeros(0, dtype=np.int64)}).save(tmp_path / "empty" / "trajectory.npz")
    for names, message in (
        ([a, b], "two runs of mnist, resnet, mse: give one of them"),
        ([str(tmp_path)], "is not the folder of a run"),
        ([cut], "cannot read"),
        ([empty], "has no measured epoch"),
        (["x" * 300], "File name too long"),
    ):
        assert figures.main([*names, "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("sims.figures: error: ")
        assert error.count("\n") == 1
        assert message in error


def test_singular_values_are_followed_by_their_vectors_through_a_crossing() -> None:
    arrays = record().arrays
    swap = np.eye(3)[:, [1, 0]]
    arrays["omega"] = np.array([[3.0, 1.0], [3.0, 2.0], [4.0, 3.0], [6.0, 2.0]])
    arrays["V"] = np.stack([np.eye(3)[:, :2], np.eye(3)[:, :2], swap, -swap])
    trajectory = Record(arrays).trajectory()
    np.testing.assert_array_equal(trajectory.omega, [[3, 1], [3, 2], [3, 4], [2, 6]])
    arrays["counts"] = np.array([7, 8, 7])
    unequal = Record(arrays).trajectory()
    assert unequal.counts == (7, 8, 7)
    np.testing.assert_array_equal(unequal.omega, trajectory.omega)
    np.testing.assert_array_equal(unequal.loss, arrays["loss_nc1"] + arrays["loss_nc23"])  # no function of omega alone


def test_the_table_of_a_run_is_aligned() -> None:
    text = table(record(), ["train_error", "absent"])
    assert text.splitlines()[0] == "epoch  train_error"
    assert text.splitlines()[-1] == "    9            0"


def test_cifar_10_as_jpeg_has_a_column_and_a_name_of_its_own() -> None:
    runs = [run("resnet50", "cifar10"), run("resnet50", "cifar10-jpeg")]
    figure = plot_figure(PLOTS[0], runs)
    assert figure is not None
    assert [axes.get_title() for axes in figure.axes] == ["CIFAR-10, resnet50", "CIFAR-10 (JPEG), resnet50"]
    assert "| CIFAR-10 (JPEG) | resnet50 |" in table_one(runs)
    assert protocol("cifar10-jpeg", "resnet50", "mse") == replace(protocol("cifar10", "resnet50", "mse"), dataset="cifar10-jpeg")
