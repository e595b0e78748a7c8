"""`python -m ufm.flow` as its users meet it: what it computes, what it stores, what it refuses, what survives a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from manifolds.class_centering import ClassLayout
from tests.strategies import features
from ufm.features import measures, spectral_loss
from ufm.features.least_squares import ls_classifier
from ufm.features.loss_decomposition import decompose
from ufm.features.snr import renormalized_features, snr
from ufm.features.statistics import block_statistics
from ufm.files import store
from ufm.files.plot import save_figure, trajectory_figure
from ufm.flow import command as flow
from ufm.flow import result
from ufm.flow.config import FlowConfig
from ufm.flow.result import distance_warnings
from ufm.flow.start import prepare
from ufm.laws.discrete_singular_values import run_discrete
from ufm.laws.domain import keep_blocks
from ufm.laws.singular_value_dynamics import LAWS
from ufm.tensor.renormalized_flow import advance_means, central_path_gradient, renormalize_after_step

ROOT = Path(__file__).parents[3]
SMALL = ["--C", "4", "--N", "20", "--P", "7"]
ARRAYS = {
    "t", "omega", "loss", "loss_nc1", "loss_nc23", "eta", "t_discrete", "omega_discrete", "U", "V", "residual",
    "complete", "u", "counts",
    "config",
}  # fmt: skip


def run(*arguments: str | Path) -> int:
    return flow.main([str(argument) for argument in arguments])


def refused(capsys: pytest.CaptureFixture, *arguments: str | Path) -> str:
    """The one line that a refused command prints."""
    try:
        code = run(*arguments)
    except SystemExit as stop:  # argparse
        code = stop.code
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    return printed.err


def write_features(
    path: Path, sizes: tuple[int, ...] = (20, 20, 20), P: int = 5, dtype: str = "float64"
) -> tuple[np.ndarray, np.ndarray]:
    layout = ClassLayout(sizes)
    rng = np.random.default_rng(0)
    order = rng.permutation(layout.n)
    rows, labels = features(layout, P, rng).T[order].astype(dtype), layout.labels[order]
    store.save_arrays(path, {"features": rows, "labels": labels})
    return rows, labels


@pytest.mark.parametrize("name", LAWS)
def test_the_file_holds_exactly_the_named_arrays_and_they_are_right(tmp_path: Path, name: str) -> None:
    out = tmp_path / "run.npz"
    assert run(*SMALL, "--flow", name, "--out", out, "--points", "50", "--quiet") == 0
    arrays = store.load_arrays(out)
    assert arrays.keys() == ARRAYS
    C, N, P, K = 4, 20, 7, 3
    H = np.random.default_rng(0).standard_normal((P, C * N))
    spectrum = snr(H, ClassLayout.equal(C, N))
    t, omega = arrays["t"], arrays["omega"]
    assert t.shape == (50,)
    assert t[0] == 0
    assert omega.shape == (50, K)
    np.testing.assert_allclose(omega[0], spectrum.omega, rtol=1e-12)
    np.testing.assert_allclose(omega, LAWS[name].omega(t, spectrum.omega, C, N), rtol=1e-13)
    np.testing.assert_allclose(omega[-1].min(), 10 * omega[0].min(), rtol=1e-12)
    for key, function in (("loss", "spectral_loss"), ("loss_nc1", "spectral_loss_nc1"), ("loss_nc23", "spectral_loss_nc23")):
        np.testing.assert_allclose(arrays[key], getattr(spectral_loss, function)(omega, C), rtol=1e-14)
    scheme = run_discrete(spectrum.omega, float(arrays["eta"]), 1000, C, N)
    np.testing.assert_allclose(arrays["omega_discrete"], scheme.omega, rtol=1e-12)
    np.testing.assert_allclose(arrays["t_discrete"], scheme.t, rtol=1e-12)
    np.testing.assert_allclose(arrays["t_discrete"][-1], t[-1], rtol=1e-12)
    np.testing.assert_allclose(
        (arrays["U"] * omega[0]) @ arrays["V"].T, (spectrum.left_vectors * spectrum.omega) @ spectrum.V.T, atol=1e-10
    )
    assert arrays["residual"] < 1e-12
    config = json.loads(str(arrays["config"]))
    assert (config["C"], config["flow"], config["seed"]) == (4, name, 0)
    assert {"project", "commit", "python", "numpy", "platform", "processors"} <= config["provenance"].keys()
    assert os.listdir(tmp_path) == ["run.npz"]


def test_malloc_is_asked_to_keep_its_blocks_before_the_whitening() -> None:
    keep_blocks.cache_clear()
    prepare(FlowConfig(C=4, N=20, P=6))
    assert keep_blocks.cache_info().currsize == 1


def test_all_flows_write_one_file_each_and_one_json_object(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out, plot = tmp_path / "run.npz", tmp_path / "run.svg"
    assert run(*SMALL, "--flow", "all", "--out", out, "--plot", plot, "--json") == 0
    names = sorted(f"run.{name}{suffix}" for name in LAWS for suffix in (".npz", ".svg"))
    assert sorted(os.listdir(tmp_path)) == names
    report = json.loads(capsys.readouterr().out)
    assert report["flows"].keys() == set(LAWS)
    gaps = {name: report["flows"][name]["gap"] for name in LAWS}
    assert gaps["renormalized"] < 0.01  # the scheme follows law (a)
    assert gaps["embedded"] > 0.5  # and not the printed Proposition 2: the erratum
    assert gaps["unnormalized"] > 0.5


def test_table_and_json_say_the_same(capsys: pytest.CaptureFixture) -> None:
    assert run(*SMALL, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert run(*SMALL) == 0
    text = capsys.readouterr().out
    assert f"{summary['gap']:.3e}" in text
    for row in summary["table"]:
        assert "".join(f"{value:10.3g}" for value in row.values()) in text
    assert run(*SMALL, "--quiet") == 0
    assert capsys.readouterr().out == ""


def test_a_flow_that_outruns_the_scheme_says_so(capsys: pytest.CaptureFixture) -> None:
    assert run(*SMALL, "--growth", "1e5", "--json") == 0
    printed = capsys.readouterr()
    assert "choose more steps or a larger eta" in printed.err
    table = json.loads(printed.out)["table"]
    assert table[-1]["step min"] is None
    assert table[-1]["flow min"] > 1e4


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_figures_of_every_format(tmp_path: Path, suffix: str) -> None:
    assert run(*SMALL, "--plot", tmp_path / f"figure{suffix}", "--quiet") == 0
    head = (tmp_path / f"figure{suffix}").read_bytes()[:200]
    assert {".png": b"PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix] in head


def test_own_features_in_any_order_and_dtype(tmp_path: Path) -> None:
    path = tmp_path / "features.npz"
    rows, labels = write_features(path, dtype="float32")
    assert run("--features", path, "--out", tmp_path / "run.npz", "--quiet") == 0
    order = np.argsort(labels, kind="stable")
    expected = snr(rows[order].T, ClassLayout.equal(3, 20)).omega
    np.testing.assert_allclose(store.load_arrays(tmp_path / "run.npz")["omega"][0], expected, rtol=1e-10)


@pytest.mark.parametrize("options", [[], ["--device", "cpu"], ["--device", "cpu", "--dtype", "float32"], ["--dtype", "float32"]])
@pytest.mark.parametrize("name", LAWS)
def test_the_full_state_gives_the_reduced_numbers(tmp_path: Path, name: str, options: list[str]) -> None:
    common = [*SMALL, "--flow", name, "--steps", "30", "--points", "20", "--growth", "4", "--quiet", *options]
    assert run(*common, "--out", tmp_path / "reduced.npz") == 0
    assert run(*common, "--full", "--out", tmp_path / "full.npz") == 0
    reduced, full = store.load_arrays(tmp_path / "reduced.npz"), store.load_arrays(tmp_path / "full.npz")
    assert full.keys() == ARRAYS
    single = "float32" in options
    np.testing.assert_allclose(full["t"], reduced["t"], rtol=1e-6 if single else 1e-12)
    np.testing.assert_allclose(full["omega"], reduced["omega"], rtol=1e-3 if single else 1e-6)
    np.testing.assert_allclose(full["omega_discrete"], reduced["omega_discrete"], rtol=1e-4 if single else 1e-11)
    assert full["residual"] < (1e-4 if single else 1e-7)
    assert not (tmp_path / "full.partial.npz").exists()


@pytest.mark.parametrize("full", [[], ["--full"]])
def test_the_raw_start_keeps_the_features_as_they_are(tmp_path: Path, full: list[str]) -> None:
    path = tmp_path / "features.npz"
    write_features(path)
    common = [
        "--features",
        path,
        "--flow",
        "unnormalized",
        "--start",
        "raw",
        "--t-end",
        "60",
        "--points",
        "8",
        "--steps",
        "5",
        "--quiet",
    ]
    assert run(*common, *full, "--out", tmp_path / "raw.npz") == 0
    raw = store.load_arrays(tmp_path / "raw.npz")
    assert raw["omega"].shape == (8, 2)
    assert run(*common[:4], "--t-end", "60", "--points", "8", "--quiet", "--out", tmp_path / "white.npz") == 0
    white = store.load_arrays(tmp_path / "white.npz")
    np.testing.assert_allclose(raw["omega"][0], white["omega"][0], rtol=1e-9)
    assert abs(np.log(raw["omega"][-1] / white["omega"][-1])).max() > 0.01
    if full:
        assert run(*common, "--out", tmp_path / "reduced.npz") == 0
        np.testing.assert_allclose(raw["omega"], store.load_arrays(tmp_path / "reduced.npz")["omega"], rtol=1e-6)


def test_a_stored_run_can_be_loaded_and_drawn_again(tmp_path: Path) -> None:
    assert run(*SMALL, "--out", tmp_path / "run.npz", "--quiet", "--steps", "50") == 0
    flow, scheme = result.load_flow(tmp_path / "run.npz")
    arrays = store.load_arrays(tmp_path / "run.npz")
    np.testing.assert_array_equal(flow.loss, arrays["loss"])
    np.testing.assert_array_equal(scheme.steps, np.arange(51))
    np.testing.assert_allclose(scheme.t, arrays["t_discrete"], rtol=1e-15)
    save_figure(trajectory_figure(flow, scheme), tmp_path / "again.pdf")
    assert b"Type3" not in (tmp_path / "again.pdf").read_bytes()
    write_features(tmp_path / "features.npz")
    with pytest.raises(ValueError, match="it lacks U, V"):
        result.load_flow(tmp_path / "features.npz")


def test_times_begin_before_anything_moves(tmp_path: Path) -> None:
    for name in LAWS:
        assert run(*SMALL, "--flow", name, "--growth", "1e3", "--out", tmp_path / "run.npz", "--quiet") == 0
        omega = store.load_arrays(tmp_path / "run.npz")["omega"]
        assert (omega[1] < 1.011 * omega[0]).all()


def test_lost_signal_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "features.npz"
    rows, labels = write_features(path)
    rows[:, 2] = 5.0 * labels
    store.save_arrays(path, {"features": rows, "labels": labels})
    assert run("--features", path, "--reduce", "--quiet") == 0
    assert "of the between-class signal, with infinite SNR" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m ufm.flow {' '.join(SMALL)} --points 5000 --json | head -c 10"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.startswith('{"config"')
    assert done.stderr == ""


def test_table_columns_are_what_their_heads_say(capsys: pytest.CaptureFixture) -> None:
    assert run(*SMALL, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    layout = ClassLayout.equal(4, 20)
    H = np.random.default_rng(0).standard_normal((7, 80))
    X, spectrum = renormalized_features(H, layout)
    scheme = run_discrete(spectrum.omega, printed["eta"], 1000, 4, 20)
    assert 0 < printed["residual"] < 1e-12
    for row in printed["table"]:
        omega = LAWS["renormalized"].omega(np.array(row["t"]), spectrum.omega, 4, 20)
        moved = advance_means(X.copy(), spectrum, spectrum.omega, omega, layout)
        stats = block_statistics(moved, layout)
        W, b = ls_classifier(stats, 0.0)
        parts = decompose(stats, W, b, 0.0)
        stepped = scheme.omega[int(row["t"] / printed["eta"] * (1 + 1e-9))]
        expected = {
            "flow min": omega.min(),
            "flow max": omega.max(),
            "step min": stepped.min(),
            "step max": stepped.max(),
            "L_LS": parts.ls,
            "L_NC1": parts.nc1,
            "L_NC2/3": parts.nc23,
            "NC1": measures.phd_nc1(stats),
            "NC2 norm": measures.phd_equinorm(stats.centred_means),
            "NC2 angle": measures.phd_maximal_angle(stats.centred_means),
            "NC3": measures.phd_nc3(stats, W),
        }
        np.testing.assert_allclose([row[key] for key in expected], list(expected.values()), rtol=1e-6)


@pytest.mark.parametrize("dtype", [">f8", ">f4", "longdouble", "float16"])
@pytest.mark.parametrize("device", [[], ["--device", "cpu"]])
def test_features_of_any_floating_dtype(tmp_path: Path, dtype: str, device: list[str]) -> None:
    write_features(tmp_path / "features.npz", dtype=dtype)
    assert run("--features", tmp_path / "features.npz", "--quiet", *device) == 0


def test_balance_draws_by_the_seed(tmp_path: Path) -> None:
    write_features(tmp_path / "features.npz", sizes=(20, 40, 60))
    starts = []
    for seed in ("1", "1", "2"):
        options = ["--features", tmp_path / "features.npz", "--balance", "--seed", seed, "--quiet", "--out", tmp_path / "run.npz"]
        assert run(*options) == 0
        starts.append(store.load_arrays(tmp_path / "run.npz")["omega"][0])
    np.testing.assert_array_equal(starts[0], starts[1])
    assert abs(starts[0] / starts[2] - 1).max() > 1e-3


def test_a_checkpoint_knows_the_contents_of_its_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = tmp_path / "features.npz", tmp_path / "run.npz"
    rows, labels = write_features(path)
    monkeypatch.setattr("ufm.flow.checkpoints.CHECKPOINT_SECONDS", 0.0)
    options = ["--features", path, "--full", "--t-end", "5e3", "--steps", "20", "--points", "20", "--quiet", "--out", out]

    def stop(self: object, *arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("ufm.flow.stages.SchemeStage.record", stop)
        assert run(*options) == 130
    assert (tmp_path / "run.partial.npz").exists()
    store.save_arrays(path, {"features": rows + 0.1 * rows**2, "labels": labels})
    assert run(*options) == 2
    store.save_arrays(path, {"features": rows, "labels": labels})
    assert run(*options) == 0


def test_full_steps_are_the_library_s(tmp_path: Path) -> None:
    assert (
        run(*SMALL, "--full", "--eta", "500", "--t-end", "2000", "--points", "3", "--quiet", "--out", tmp_path / "run.npz") == 0
    )
    layout = ClassLayout.equal(4, 20)
    X, _ = renormalized_features(np.random.default_rng(0).standard_normal((7, 80)), layout)
    for _ in range(4):
        X = renormalize_after_step(X, 500.0, lambda X: central_path_gradient(X, layout), layout)
    omega = store.load_arrays(tmp_path / "run.npz")["omega_discrete"]
    assert omega.shape == (5, 3)
    np.testing.assert_allclose(omega[-1], np.linalg.svd(layout.means(X), compute_uv=False)[:3], rtol=1e-12)


def test_eta_beyond_the_safe_step_warns_and_gives_the_right_numbers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(*SMALL, "--eta", "4000", "--t-end", "40000", "--quiet", "--out", tmp_path / "run.npz") == 0
    assert "beyond the safe step, 4 C^2 N = 1280" in capsys.readouterr().err
    arrays = store.load_arrays(tmp_path / "run.npz")
    expected = run_discrete(arrays["omega"][0], 4000.0, 10, 4, 20).omega
    np.testing.assert_allclose(arrays["omega_discrete"], expected, rtol=1e-12)
    assert run(*SMALL, "--full", "--eta", "4000", "--t-end", "40000", "--quiet", "--out", tmp_path / "full.npz") == 0
    np.testing.assert_allclose(store.load_arrays(tmp_path / "full.npz")["omega_discrete"], expected, rtol=1e-9)


@pytest.mark.parametrize("options", [["--flow", "unnormalized"], ["--start", "raw", "--flow", "unnormalized"], ["--full"], []])
def test_a_scheme_of_another_flow_is_said_with_its_gap(options: list[str], capsys: pytest.CaptureFixture) -> None:
    assert run(*SMALL, *options, "--steps", "50", "--points", "20", "--json") == 0
    out, err = capsys.readouterr()
    summary = json.loads(out)
    lines = [line for line in err.splitlines() if line.startswith("warning: the scheme is that of the renormalized flow")]
    if "unnormalized" not in options:
        assert (lines, summary["gap"] < 0.1) == ([], True)
        return
    assert summary["gap"] > 0.1
    (line,) = lines
    assert f"(gap {summary['gap']:.3e})" in line
    assert f"a factor {np.exp(summary['gap']):.3g}" in line
    assert line.removeprefix("warning: ") in summary["config"]["warnings"]


def test_a_residual_far_above_rounding_is_said_with_its_number() -> None:
    config = FlowConfig(dtype="float32")
    assert distance_warnings(config, 0.5, 1e-3) == ()  # a gap of the scheme to its own flow is its step size's
    (line,) = distance_warnings(config, 0.5, 3e-2)
    assert "3.0e-02" in line
    assert len(distance_warnings(FlowConfig(flow="embedded"), 0.5, 1e-5)) == 2


def test_balance_and_reduce_are_explicit_choices(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "features.npz"
    rows, labels = write_features(path, sizes=(20, 25, 31))
    assert run("--features", path, "--json") == 0  # unequal classes need no option
    config = json.loads(capsys.readouterr().out)["config"]
    assert (config["counts"], config["N"], config["notes"]) == ([20, 25, 31], None, [])
    assert run("--features", path, "--balance", "--json") == 0
    config = json.loads(capsys.readouterr().out)["config"]
    assert (config["C"], config["N"], config["P"]) == (3, 20, 5)
    assert any("16 left out" in note for note in config["notes"])
    rows[:, 2] = 0
    store.save_arrays(path, {"features": rows, "labels": labels})
    assert "1 of 5 directions" in refused(capsys, "--features", path, "--balance")
    assert run("--features", path, "--balance", "--reduce") == 0
    assert "1 of 5 directions dropped" in capsys.readouterr().out
    assert run("--features", path, "--balance", "--reduce", "--json") == 0
    assert json.loads(capsys.readouterr().out)["config"]["dropped"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--C", "1"], "C = 1"),
        (["--N", "1"], "N = 1"),
        (["--C", "3", "--N", "3", "--P", "7"], r"C(N-1) = 6 < P = 7"),
        (["--P", "0"], "P = 0"),
        (["--growth", "1"], "growth = 1.0"),
        (["--t-end", "-5"], "t_end = -5.0"),
        (["--points", "1"], "points = 1"),
        (["--eta", "0"], "eta = 0.0"),
        (["--steps", "0"], "steps = 0"),
        (["--eta", "1", "--steps", "5"], "not allowed with"),
        (["--flow", "sideways"], "invalid choice"),
        (["--unknown"], "unrecognized arguments: --unknown\n"),
        (["--sizes", "50,", "20,", "5"], "write --sizes 50,20,5 without spaces"),
        (["--features", "a.npz", "b.npz"], "put quotes around a pattern of files"),
        (["--feature-decay", "-1"], "feature_decay = -1.0: it must be finite and cannot be negative"),
        (["--start", "raw"], "start raw goes with"),
        (["--out", "run.txt"], "must end in .npz"),
        (["--plot", "run.bmp"], "must end in .png"),
        (["--out", "/nonexistent/run.npz"], "cannot write /nonexistent/run.npz"),
        (["--features", "none.npz"], "cannot read none.npz"),
        (["--features", "none.npz", "--P", "4"], "leave out --P"),
        (["--features", "same.npz", "--out", "./same.npz"], "would overwrite same.npz, which is read"),
        (["--balance"], "balance goes with given features"),
        (["--seed", "-1"], "seed = -1"),
        (["--t-end", "1e-320"], "at least 1e-290"),
        (["--eta", "1e-320"], "at least 1e-290"),
        (["--t-end", "1e300", "--eta", "1"], "needs 1e+300 steps"),
        (["--steps", "100000000000000000000000"], "between 1 and 1e+12"),
        (["--growth", "1e160"], "fourth power overflows float64"),
        (["--flow", "all", "--t-end", "1e9", "--out", "run.npz"], "overflows float64"),
        (["--full", "--device", "nonsense"], "device 'nonsense' cannot be used"),
        (["--flow", "unnormalized", "--t-end", "1e9"], "overflows float64"),
    ],
)
def test_bad_options_exit_2_with_the_number(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = [] if {"--C", "--N", "--P", "--features"} & set(arguments) else SMALL
    assert message in refused(capsys, *sizes, *arguments)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f, y: {"features": f}, "it has: features"),
        (lambda f, y: {"features": f, "labels": y[:-1]}, "60 rows of features but 59 labels"),
        (lambda f, y: {"features": f, "labels": np.where(y == 1, 3, y)}, "labels skip class 1"),
        (lambda f, y: {"features": f, "labels": y + 1}, "start at 1: subtract 1"),
        (lambda f, y: {"features": f, "labels": y - 1}, "negative"),
        (lambda f, y: {"features": f, "labels": y + 0.5}, "integers"),
        (lambda f, y: {"features": f, "labels": y * 0}, "at least C = 2"),
        (lambda f, y: {"features": np.where(f == f[7, 2], np.nan, f), "labels": y}, "first in row 7"),
        (lambda f, y: {"features": np.where(f == f[3, 0], np.inf, f), "labels": y}, "infinite"),
        (lambda f, y: {"features": f[:, 0], "labels": y}, "shapes"),
        (lambda f, y: {"features": f.astype(int), "labels": y}, "floating point"),
        (lambda f, y: {"features": f * 1e160, "labels": y}, "rescale the features"),
        (lambda f, y: {"features": f[:, :0], "labels": y}, "at least one example and one feature"),
        (lambda f, y: {"features": f[:0], "labels": y[:0]}, "at least one example and one feature"),
        (lambda f, y: {"features": f, "labels": np.where(y == 0, np.inf, y)}, "integers"),
        (lambda f, y: {"features": f, "labels": np.where(y == 2, 10**15, y)}, "label 1000000000000000 with 60 examples"),
        (lambda f, y: {"features": f[np.argsort(y)][[0, 20, 40]], "labels": np.arange(3)}, "N = 1"),
        (
            lambda f, y: {"features": f[np.argsort(y)][[0, 1, 20, 21, 40, 41]], "labels": np.repeat(range(3), 2)},
            "C(N-1) = 3 < P = 5",
        ),
    ],
)
def test_bad_features_exit_2_with_the_number(capsys: pytest.CaptureFixture, tmp_path: Path, spoil: object, message: str) -> None:
    path = tmp_path / "features.npz"
    rows, labels = write_features(path)
    store.save_arrays(path, spoil(rows, labels))  # type: ignore[operator]
    assert message in refused(capsys, "--features", path, "--out", tmp_path / "run.npz")
    assert os.listdir(tmp_path) == ["features.npz"]


def test_coinciding_means_need_an_end_time(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    path = tmp_path / "features.npz"
    rows, labels = write_features(path)
    rows -= np.stack([rows[labels == c].mean(0) for c in range(3)])[labels]
    store.save_arrays(path, {"features": rows, "labels": labels})
    rows[labels == 0] += 1.0
    store.save_arrays(tmp_path / "one.npz", {"features": rows, "labels": labels})
    assert "give t_end" in refused(capsys, "--features", tmp_path / "one.npz")
    assert run("--features", tmp_path / "one.npz", "--t-end", "10", "--quiet") == 0


def test_ctrl_c_keeps_what_was_computed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ufm.flow", *SMALL, "--t-end", "1e6", "--eta", "0.02", "--out", str(tmp_path / "run.npz")]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job starts with it ignored
    )
    assert process.stderr is not None
    shown = b""
    while b"scheme" not in shown and process.poll() is None:  # the progress line: the scheme is under way
        shown += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"what was computed is kept" in err
    arrays = store.load_arrays(tmp_path / "run.npz")
    assert arrays.keys() == ARRAYS
    steps = len(arrays["t_discrete"])
    assert 1 < steps <= 10_001
    np.testing.assert_allclose(arrays["t_discrete"][1] / 0.02, 5000, rtol=1e-9)  # 5e7 steps, evenly thinned
    assert (np.diff(arrays["omega_discrete"], axis=0) > 0).all()


def test_a_killed_full_run_resumes_to_bitwise_the_same_result(tmp_path: Path) -> None:
    options = [
        "--C",
        "4",
        "--N",
        "50",
        "--P",
        "30",
        "--flow",
        "embedded",
        "--full",
        "--steps",
        "120",
        "--points",
        "12",
        "--quiet",
    ]
    code = (
        "import sys, ufm.flow.checkpoints, ufm.flow.command as command; "
        "ufm.flow.checkpoints.CHECKPOINT_SECONDS = 0.0; sys.exit(command.main(sys.argv[1:]))"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}

    def command(out: str) -> list[str]:
        return [sys.executable, "-c", code, *options, "--out", str(tmp_path / out)]

    subprocess.run(command("whole.npz"), cwd=ROOT, check=True, env=environment)
    checkpoint = tmp_path / "killed.partial.npz"
    kills = 0
    for wait_for_scheme in (False, True):
        process = subprocess.Popen(command("killed.npz"), cwd=ROOT, env=environment)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if checkpoint.exists() and (not wait_for_scheme or "scheme_state" in store.load_arrays(checkpoint)):
                if not wait_for_scheme:
                    os.kill(process.pid, signal.SIGSTOP)
                    second = subprocess.run(
                        command("killed.npz"), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
                    )
                    assert (second.returncode, second.stdout) == (2, "")
                    said = f"another command is writing {tmp_path / 'killed.npz'}: wait until it has ended, or write elsewhere"
                    assert second.stderr == f"ufm.flow: error: {said}\n"
                process.kill()
                kills += 1
                break
            time.sleep(0.002)
        process.wait(timeout=60)
    assert kills == 2
    assert not (tmp_path / "killed.npz").exists()
    refused_process = subprocess.run(
        [*command("killed.npz"), "--seed", "5"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert refused_process.returncode == 2
    assert "belongs to another run (seed = 0, now 5)" in refused_process.stderr
    subprocess.run(command("killed.npz"), cwd=ROOT, check=True, env=environment)
    whole, killed = store.load_arrays(tmp_path / "whole.npz"), store.load_arrays(tmp_path / "killed.npz")
    for name in ARRAYS - {"config"}:
        np.testing.assert_array_equal(killed[name], whole[name], err_msg=name)
    assert not checkpoint.exists()
