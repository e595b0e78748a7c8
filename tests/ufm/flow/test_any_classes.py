"""Unequal classes, ridge, kernel ratio, feature decay through the command: laws against the whole tensor and dense formulas."""

import json
from pathlib import Path

import numpy as np
import pytest

from manifolds.class_centering import ClassLayout
from tests.oracles import class_centering, inverse_sqrt
from tests.ufm.flow.test_command import refused, run, write_features
from tests.ufm.laws import oracles
from ufm.features.labels import class_blocks
from ufm.features.least_squares import ls_classifier
from ufm.features.loss_decomposition import decompose
from ufm.features.measures import phd_equinorm, phd_maximal_angle, phd_nc1, phd_nc3
from ufm.features.snr import renormalized_features
from ufm.features.statistics import block_statistics
from ufm.files import store
from ufm.flow.result import load_flow

SIZES, P = (12, 17, 31, 20), 6
CASES = {
    "sizes": ["--sizes", "12,17,31,20"],
    "few features": ["--sizes", "12,17,31,20", "--P", "2"],
    "ridge": ["--sizes", "12,17,31,20", "--ridge", "0.3"],
    "ridge, equal classes": ["--C", "4", "--N", "20", "--ridge", "0.3"],
    "kernel": ["--sizes", "12,17,31,20", "--kernel-ratio", "3"],
    "kernel, equal classes": ["--C", "4", "--N", "20", "--kernel-ratio", "0.4", "--ridge", "0.1"],
    "embedded": ["--sizes", "12,17,31,20", "--flow", "embedded"],
    "embedded, ridge": ["--sizes", "12,17,31,20", "--flow", "embedded", "--ridge", "0.2"],
    "unnormalized": ["--sizes", "12,17,31,20", "--flow", "unnormalized"],
    "unnormalized, raw": ["--sizes", "12,17,31,20", "--flow", "unnormalized", "--start", "raw"],
    "unnormalized, kernel": ["--sizes", "12,17,31,20", "--flow", "unnormalized", "--kernel-ratio", "2.5"],
    "decay": ["--sizes", "12,17,31,20", "--flow", "unnormalized", "--feature-decay", "1e-3"],
    "decay, equal classes": ["--C", "4", "--N", "20", "--flow", "unnormalized", "--feature-decay", "1e-3"],
    "raw, equal classes": ["--C", "4", "--N", "20", "--flow", "unnormalized", "--start", "raw"],
    "unnormalized, kernel, equal classes": ["--C", "4", "--N", "20", "--flow", "unnormalized", "--kernel-ratio", "2.5"],
    "decay, kernel, raw": [
        *("--sizes", "12,17,31,20", "--flow", "unnormalized"),
        *("--feature-decay", "1e-3", "--kernel-ratio", "0.5", "--start", "raw"),
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_the_whole_tensor_gives_the_numbers_of_the_law(case: str, tmp_path: Path) -> None:
    options = [*CASES[case], *([] if "--P" in CASES[case] else ["--P", str(P)])]
    common = [*options, "--steps", "30", "--points", "12", "--growth", "2.5", "--quiet"]
    assert run(*common, "--out", tmp_path / "law.npz") == 0
    assert run(*common, "--full", "--out", tmp_path / "full.npz") == 0
    law, full = store.load_arrays(tmp_path / "law.npz"), store.load_arrays(tmp_path / "full.npz")
    np.testing.assert_allclose(full["t"], law["t"], rtol=1e-12)
    for name in ("omega", "u", "loss", "loss_nc1", "loss_nc23"):
        np.testing.assert_allclose(full[name], law[name], rtol=2e-6, err_msg=name)
    np.testing.assert_allclose(full["omega_discrete"], law["omega_discrete"], rtol=1e-9)
    np.testing.assert_allclose(law["omega"][-1].min() / law["omega"][0].min(), 2.5, rtol=1e-5)
    assert (law["omega"][1] < 1.02 * law["omega"][0]).all()
    moves = len(set(law["counts"])) > 1 or "raw" in options
    for name in ("V_t", "U_t"):
        assert (name in law) == (name in full) == moves
    if moves:
        np.testing.assert_allclose(full["U_t"], law["U_t"], atol=2e-5)
        np.testing.assert_allclose(full["V_t"], law["V_t"], atol=2e-5)
        np.testing.assert_allclose(law["V_t"][0], law["V"], atol=1e-9)
        assert abs(law["V_t"][-1] - law["V_t"][0]).max() > 1e-3
    else:
        assert abs(np.diff(law["omega"], axis=0)).max() > 0
    assert full["residual"] < 1e-6


@pytest.mark.parametrize(("ridge", "ratio", "features"), [(0.0, 1.0, 6), (0.3, 4.0, 6), (0.05, 0.4, 2)])
def test_the_file_of_a_run_is_the_flow_of_the_whole_tensor_to_1e_9(
    ridge: float, ratio: float, features: int, tmp_path: Path
) -> None:
    """Hidden features of unequal classes through the command, against X itself integrated to 1e-12 with dense matrices.

    The features are skewed, scaled apart by a factor of 1000, and far from zero.
    """
    path, out, rng = tmp_path / "features.npz", tmp_path / "run.npz", np.random.default_rng(7)
    layout = ClassLayout((9, 17, 12, 14))
    rows = rng.standard_normal((layout.n, features)) + rng.standard_normal((layout.C, features))[layout.labels]
    rows = 50 + rows @ (np.geomspace(1, 1e-3, features)[:, None] * np.linalg.qr(rng.standard_normal((features, features)))[0])
    order = rng.permutation(layout.n)
    store.save_arrays(path, {"features": rows[order], "labels": layout.labels[order]})
    options = ["--ridge", ridge, "--kernel-ratio", ratio, "--growth", 2, "--points", 6, "--steps", 20, "--quiet"]
    assert run("--features", path, *map(str, options), "--out", out) == 0
    stored = store.load_arrays(out)
    H, _ = class_blocks(rows[order], layout.labels[order])
    H = H - H.mean(1, keepdims=True)
    E, deviations, _ = np.linalg.svd(layout.deviations(H), full_matrices=False)  # Sigma_W itself would square their condition
    X = (E * (np.sqrt(layout.n) / deviations)) @ E.T @ H
    kernel = oracles.class_kernel(layout, ratio)
    states = oracles.integrated(lambda X: oracles.renormalized_velocity(X, layout, ridge, kernel), X, stored["t"])
    K = min(layout.C - 1, features)
    for k, state in enumerate(states):
        M = layout.means(state)
        np.testing.assert_allclose(stored["omega"][k], oracles.singular_values(state, layout), rtol=1e-9)
        u = np.linalg.svd(M * np.sqrt(layout.priors), compute_uv=False)[:K] ** 2
        np.testing.assert_allclose(stored["u"][k], u, rtol=1e-9)
        np.testing.assert_allclose((stored["U_t"][k] * stored["omega"][k]) @ stored["V_t"][k].T, M, atol=1e-9 * abs(M).max())
        np.testing.assert_allclose(stored["loss"][k], oracles.ridge_loss(state, layout, ridge), rtol=1e-9)


def test_a_class_of_one_example_runs_and_is_refused_only_where_nothing_is_left_to_whiten(
    capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    """Sigma_W pools the deviations of the other classes, so that the law needs no second example of a rare class."""
    layout, rng, out = ClassLayout((1, 17, 12)), np.random.default_rng(3), tmp_path / "run.npz"
    rows = rng.standard_normal((layout.n, 4)) + 2 * rng.standard_normal((layout.C, 4))[layout.labels]
    path, lonely = tmp_path / "features.npz", tmp_path / "lonely.npz"
    store.save_arrays(path, {"features": rows, "labels": layout.labels})
    store.save_arrays(lonely, {"features": rows[[0, 3, 20]], "labels": np.arange(3)})
    assert run("--features", path, "--growth", "2", "--points", "4", "--steps", "20", "--quiet", "--out", out) == 0
    stored = store.load_arrays(out)
    H = rows.T - rows.mean(0)[:, None]
    X, kernel = inverse_sqrt(H @ class_centering(layout) @ H.T) @ H, oracles.class_kernel(layout, 1.0)
    states = oracles.integrated(lambda X: oracles.renormalized_velocity(X, layout, 0.0, kernel), X, stored["t"])
    for k, state in enumerate(states):
        np.testing.assert_allclose(stored["omega"][k], oracles.singular_values(state, layout), rtol=1e-9)
        np.testing.assert_allclose(stored["loss"][k], oracles.ridge_loss(state, layout, 0.0), rtol=1e-9)
    assert run("--sizes", "1,20,9", "--P", "4", "--points", "4", "--steps", "20", "--quiet") == 0
    assert "N = 1" in refused(capsys, "--features", lonely)
    assert "N = 1" in refused(capsys, "--features", str(tmp_path / "lon*.npz"))
    assert "N = 1" in refused(capsys, "--features", path, "--balance")
    assert "N = 1" in refused(capsys, "--sizes", "1,1,1", "--P", "4")
    assert run("--features", str(tmp_path / "feat*.npz"), "--growth", "2", "--points", "4", "--steps", "20", "--quiet") == 0


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        (["--flow", "embedded", "--ridge", "0.3"], (9, 17, 12, 14)),
        (["--flow", "embedded"], (13, 13, 13, 13)),
        (["--flow", "unnormalized", "--kernel-ratio", "4", "--feature-decay", "1e-3"], (9, 17, 12, 14)),
        (["--flow", "unnormalized", "--kernel-ratio", "0.4", "--start", "raw"], (9, 17, 12, 14)),
        (["--flow", "unnormalized", "--start", "raw"], (13, 13, 13, 13)),
    ],
)
@pytest.mark.parametrize("features", [6, 2])
def test_the_other_flows_of_hidden_features_are_those_of_the_whole_tensor_to_1e_9(
    options: list[str], sizes: tuple[int, ...], features: int, tmp_path: Path
) -> None:
    """The embedded flow of X, and the unnormalized flow of features of total covariance I or as they are, as dense matrices."""
    path, out, rng = tmp_path / "features.npz", tmp_path / "run.npz", np.random.default_rng(7)
    layout, raw = ClassLayout(sizes), "raw" in options
    rows = rng.standard_normal((layout.n, features)) + rng.standard_normal((layout.C, features))[layout.labels]
    rows = 5 + rows @ (np.geomspace(1, 0.3, features)[:, None] * np.linalg.qr(rng.standard_normal((features, features)))[0])
    store.save_arrays(path, {"features": rows, "labels": layout.labels})
    assert run("--features", path, *options, "--growth", "2", "--points", "6", "--steps", "20", "--quiet", "--out", out) == 0
    stored, H = store.load_arrays(out), rows.T - rows.mean(0)[:, None]
    given = {
        name: float(value) for name, value in zip(options[::2], options[1::2], strict=True) if name not in ("--flow", "--start")
    }
    ridge, decay = given.get("--ridge", 0.0), given.get("--feature-decay", 0.0)
    kernel, C_M = oracles.class_kernel(layout, given.get("--kernel-ratio", 1.0)), class_centering(layout)
    X = inverse_sqrt(H @ C_M @ H.T) @ H

    def embedded(X: np.ndarray) -> np.ndarray:
        Z = oracles.ridge_gradient(X, layout, ridge)
        return -(Z - 0.5 * layout.n * (X @ C_M @ Z.T + Z @ C_M @ X.T) @ X @ C_M)

    def unnormalized(H: np.ndarray) -> np.ndarray:
        return -oracles.ridge_gradient(H, layout, 0.0) @ kernel - decay * H

    if "embedded" in options:
        states = oracles.integrated(embedded, X, stored["t"])
    else:
        states = oracles.integrated(unnormalized, H if raw else inverse_sqrt(X @ X.T / layout.n) @ X, stored["t"])
    for k, state in enumerate(states):
        M = oracles.snr_matrix(state, layout)
        np.testing.assert_allclose(stored["omega"][k], oracles.singular_values(state, layout), rtol=1e-9)
        np.testing.assert_allclose(stored["loss"][k], oracles.ridge_loss(state, layout, ridge), rtol=1e-9)
        U, V = (stored[f"{name}_t"][k] if f"{name}_t" in stored else stored[name] for name in "UV")
        np.testing.assert_allclose((U * stored["omega"][k]) @ V.T, M, atol=1e-9 * abs(M).max())


def test_unequal_classes_of_a_file_run_without_an_option_and_omega_is_that_of_eq_9(tmp_path: Path) -> None:
    path, out = tmp_path / "features.npz", tmp_path / "run.npz"
    rows, labels = write_features(path, sizes=SIZES, P=P)
    assert run("--features", path, "--growth", "3", "--points", "9", "--quiet", "--out", out) == 0
    arrays = store.load_arrays(out)
    H, layout = class_blocks(rows, labels)
    D = layout.deviations(H)
    values, E = np.linalg.eigh(D @ D.T / layout.n)
    snr = (E / np.sqrt(values)) @ E.T @ (layout.means(H) - H.mean(1, keepdims=True))
    np.testing.assert_allclose(arrays["omega"][0], np.linalg.svd(snr, compute_uv=False)[:3], rtol=1e-10)
    weighted = snr * np.sqrt(layout.priors)
    np.testing.assert_allclose(arrays["u"][0], np.linalg.svd(weighted, compute_uv=False)[:3] ** 2, rtol=1e-10)
    np.testing.assert_allclose((arrays["U"] * arrays["omega"][0]) @ arrays["V"].T, snr, atol=1e-9)
    assert arrays["counts"].tolist() == list(SIZES)
    assert (arrays["V_t"].shape, arrays["U_t"].shape) == ((9, 4, 3), (9, P, 3))
    for t in range(9):  # V_t and U_t are singular vectors of one matrix: its weighted columns sum to nothing
        M = (arrays["U_t"][t] * arrays["omega"][t]) @ arrays["V_t"][t].T
        np.testing.assert_allclose(M @ layout.priors, 0, atol=1e-10)
        np.testing.assert_allclose(
            np.linalg.svd(M * np.sqrt(layout.priors), compute_uv=False)[:3] ** 2, arrays["u"][t], rtol=1e-8
        )
    flow, scheme = load_flow(out)
    assert flow.counts == SIZES
    np.testing.assert_array_equal(flow.loss, arrays["loss"])
    np.testing.assert_array_equal(scheme.omega, arrays["omega_discrete"])


def test_the_table_of_unequal_classes_measures_the_renormalized_features(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "features.npz"
    rows, labels = write_features(path, sizes=SIZES, P=P)
    assert run("--features", path, "--growth", "3", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    H, layout = class_blocks(rows, labels)
    X, _ = renormalized_features(H, layout)
    stats = block_statistics(X, layout)
    W, b = ls_classifier(stats, 0.0)
    parts, row = decompose(stats, W, b, 0.0), printed["table"][0]
    expected = {
        "L_LS": parts.ls,
        "L_NC1": parts.nc1,
        "L_NC2/3": parts.nc23,
        "NC1": phd_nc1(stats),
        "NC2 norm": phd_equinorm(stats.centred_means),
        "NC2 angle": phd_maximal_angle(stats.centred_means),
        "NC3": phd_nc3(stats, W),
    }
    np.testing.assert_allclose([row[name] for name in expected], list(expected.values()), rtol=1e-8)
    assert printed["gap"] < 0.05
    assert run("--features", path, "--growth", "3", "--plot", tmp_path / "figure.png") == 0
    shown = capsys.readouterr().out
    assert "N = 12 to 31" in shown
    assert " for the given class sizes, integrated\n" in shown


def test_equal_sizes_are_the_closed_law(tmp_path: Path) -> None:
    for name, sizes in (("a.npz", ["--sizes", "20,20,20,20"]), ("b.npz", ["--C", "4", "--N", "20"])):
        assert run(*sizes, "--P", "7", "--quiet", "--out", tmp_path / name) == 0
    a, b = store.load_arrays(tmp_path / "a.npz"), store.load_arrays(tmp_path / "b.npz")
    for name in a.keys() - {"config"}:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("full", [[], ["--full"]])
@pytest.mark.parametrize("ridge", ["0", "0.1"])
def test_unequal_classes_at_float32_have_the_table_of_float64(full: list[str], ridge: str, capsys: pytest.CaptureFixture) -> None:
    """Class means of float32 have a mean of rounding, which the classifier behind NC3 took for a start off the mean."""
    options = ["--sizes", "50,20,5", "--P", "6", "--ridge", ridge, "--growth", "2", "--points", "5", "--steps", "50", "--json"]
    tables = []
    for dtype in ("float64", "float32"):
        capsys.readouterr()
        assert run(*options, *full, "--dtype", dtype, "--quiet") == 0
        tables.append([list(row.values())[1:] for row in json.loads(capsys.readouterr().out)["table"]])
    np.testing.assert_allclose(tables[1], tables[0], rtol=1e-3)


@pytest.mark.parametrize("sizes", [["--C", "4", "--N", "20"], ["--sizes", "12,17,31"]])
def test_the_same_seed_at_float32_is_the_float64_data_rounded(sizes: list[str]) -> None:
    from ufm.flow.command import flow_config, parser
    from ufm.flow.start import prepare

    double, single = (
        prepare(flow_config(parser().parse_args([*sizes, "--P", "5", "--seed", "3", "--dtype", dtype])))
        for dtype in ("float64", "float32")
    )
    assert single.H is not None
    assert double.H is not None
    assert single.H.dtype == np.float32
    np.testing.assert_array_equal(single.H, double.H.astype(np.float32))


def test_a_seed_gives_float32_the_float64_data_rounded_through_the_command(tmp_path: Path) -> None:
    """A run of --seed at float32 is that of a file with the float64 draws rounded, bit by bit."""
    layout, options = ClassLayout((12, 17, 31)), ["--growth", "2", "--points", "5", "--steps", "20", "--quiet"]
    drawn = np.random.default_rng(3).standard_normal((5, layout.n))
    store.save_arrays(tmp_path / "rounded.npz", {"features": drawn.T.astype(np.float32), "labels": layout.labels})
    store.save_arrays(tmp_path / "drawn.npz", {"features": drawn.T, "labels": layout.labels})
    random = ["--sizes", "12,17,31", "--P", "5", "--seed", "3"]
    for dtype, name in (("float32", "rounded.npz"), ("float64", "drawn.npz")):
        assert run(*random, "--dtype", dtype, *options, "--out", tmp_path / "random.npz") == 0
        assert run("--features", tmp_path / name, "--dtype", dtype, *options, "--out", tmp_path / "file.npz") == 0
        of_seed, of_file = store.load_arrays(tmp_path / "random.npz"), store.load_arrays(tmp_path / "file.npz")
        for key in of_seed.keys() - {"config"}:
            np.testing.assert_array_equal(of_seed[key], of_file[key], err_msg=key)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "20,20", "--C", "2"], "--sizes 20,20 decides C and N"),
        (["--sizes", "20"], "at least two classes"),
        (["--sizes", "20,x"], "whole numbers with commas"),
        (["--sizes", "20,0"], "at least one example"),
        (["--sizes", "1,1", "--P", "3"], "N = 1"),
        (
            ["--sizes", "50,20,5", "--balance"],
            "random features have the requested sizes: balance goes with given features",
        ),
        (["--ridge", "-1"], "ridge = -1.0"),
        (["--ridge", "nan"], "ridge = nan"),
        (["--kernel-ratio", "0"], "kernel_ratio = 0.0"),
        (["--kernel-ratio", "inf"], "kernel_ratio = inf"),
        (["--feature-decay", "1e-3"], "goes with flow unnormalized"),
        (["--feature-decay", "-1", "--flow", "unnormalized"], "feature_decay = -1.0"),
        (["--ridge", "0.1", "--flow", "unnormalized"], "ridge goes with"),
        (["--kernel-ratio", "2", "--flow", "embedded"], "kernel_ratio goes with"),
        (["--sizes", "3," + ",".join(["4"] * 20000), "--P", "30000"], "need about 739 GB"),  # told before a number is drawn
    ],
)
def test_options_that_make_no_sense_are_refused_with_the_number(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert message in refused(capsys, *arguments)
