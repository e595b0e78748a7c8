"""What is read is never written over, a lost value of an option is an error, and digits that are not there are told."""

import json
import os
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import sims.measure
from tests.attack.commands import COMMANDS, check_answer, run
from ufm.features.labels import class_blocks
from ufm.features.snr import snr
from ufm.features.statistics import CHUNK, block_statistics, statistics_of
from ufm.files.store import save_arrays


def features_file(path: Path, condition: float = 1.0) -> Path:
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(5), 40)
    raw = rng.standard_normal((200, 7)) + 3 * rng.standard_normal((5, 7))[labels]
    Q = np.linalg.qr(rng.standard_normal((7, 7)))[0]
    save_arrays(path, {"features": raw * np.geomspace(1, condition**-0.5, 7) @ Q, "labels": labels})
    return path


@pytest.mark.parametrize("option", ["--out", "--report"])
@pytest.mark.parametrize("disguise", ["same", "symbolic link", "hard link", "detour"])
def test_measure_never_writes_over_what_it_reads(tmp_path: Path, option: str, disguise: str) -> None:
    given = features_file(tmp_path / "in.npz")
    before, target = given.read_bytes(), tmp_path / "other.npz"
    if disguise == "same":
        target = given
    elif disguise == "symbolic link":
        target.symlink_to(given)
    elif disguise == "hard link":
        os.link(given, target)
    else:
        (tmp_path / "folder").mkdir()
        target = tmp_path / "folder" / ".." / "in.npz"
    outcome = run("sims.measure", [str(given), option, str(target)])
    assert outcome.code == 2
    assert "would overwrite" in outcome.err
    assert given.read_bytes() == before


@pytest.mark.parametrize("option", ["--out", "--report"])
@pytest.mark.parametrize("name", ["labels.npy", "W.npy"])
def test_measure_never_writes_over_what_lies_beside_memory_mapped_features(tmp_path: Path, option: str, name: str) -> None:
    for key, value in {"features": np.eye(6), "labels": np.repeat([0, 1], 3)}.items():
        np.save(tmp_path / f"{key}.npy", value)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    outcome = run("sims.measure", [str(tmp_path / "features.npy"), option, str(tmp_path / name)])
    assert outcome.code == 2
    assert "would overwrite" in outcome.err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("option", ["--out", "--report"])
@pytest.mark.parametrize("name", ["config.json", "trajectory.npz", "checkpoint.pt"])
def test_measure_never_writes_over_a_file_of_the_run_it_reads(tmp_path: Path, option: str, name: str) -> None:
    for file in ("config.json", "trajectory.npz", "checkpoint.pt"):
        (tmp_path / file).write_text(file)
    outcome = run("sims.measure", [str(tmp_path), option, str(tmp_path / name)])
    assert outcome.code == 2
    assert "would overwrite" in outcome.err
    assert (tmp_path / name).read_text() == name


def test_two_results_of_one_name_are_refused(tmp_path: Path) -> None:
    given, target = features_file(tmp_path / "in.npz"), tmp_path / "same"
    outcome = run("sims.measure", [str(given), "--out", str(target), "--report", str(tmp_path / "." / "same")])
    assert outcome.code == 2
    assert "both" in outcome.err
    assert not target.exists()


@pytest.mark.parametrize("content", ["archive", "objects", "random", "cut", "expression"])
@pytest.mark.parametrize("name", ["features", "labels"])
def test_a_damaged_memory_mapped_file_is_one_line(tmp_path: Path, name: str, content: str) -> None:
    np.save(tmp_path / "features.npy", np.eye(6))
    np.save(tmp_path / "labels.npy", np.repeat([0, 1], 3))
    path = tmp_path / f"{name}.npy"
    whole = path.read_bytes()
    if content == "archive":
        np.savez(tmp_path / "other.npz", features=np.eye(6))
        (tmp_path / "other.npz").rename(path)
    elif content == "objects":
        np.save(path, np.array([{}] * 6), allow_pickle=True)
    elif content == "expression":
        path.write_bytes(whole.replace(b"'shape': (6", b"'shape': )6"))
    else:
        path.write_bytes(whole[:-1] if content == "cut" else b"\x93NUMPY\x01\x00" + 40 * b"(")
    outcome = run("sims.measure", [str(tmp_path / "features.npy")])
    assert outcome.code == 2
    check_answer(outcome)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_two_dashes_are_no_value_of_an_option(command: str) -> None:
    outcome = run(command, ["--out=--"])
    assert outcome.code == 2
    assert "'--' is no value" in outcome.err


@pytest.mark.parametrize("condition", [1e13, 6e14])
def test_digits_that_a_covariance_does_not_hold_are_told(tmp_path: Path, capsys: pytest.CaptureFixture, condition: float) -> None:
    path = features_file(tmp_path / "f.npz", condition)
    assert sims.measure.main([str(path), "--json"]) == 0
    told = capsys.readouterr()
    measured = json.loads(told.out)
    with np.load(path) as arrays:
        exact = snr(*class_blocks(arrays["features"], arrays["labels"])).omega
    error = abs(np.array(measured["omega"]) / exact - 1).max()
    assert 0 < error <= measured["rounding"]
    assert "warning: omega" in told.err


@pytest.mark.parametrize("shift", [1e10, 1e13])
@pytest.mark.parametrize("command", ["ufm.flow", "sims.measure"])
def test_digits_that_features_far_from_zero_do_not_hold_are_told(tmp_path: Path, command: str, shift: float) -> None:
    path = features_file(tmp_path / "f.npz")
    with np.load(path) as arrays:
        features, labels = arrays["features"], arrays["labels"]
    exact = snr(*class_blocks(features, labels)).omega
    save_arrays(path, {"features": features + shift, "labels": labels})
    line = [str(path)] if command == "sims.measure" else ["--features", str(path), "--steps", "10", "--points", "5"]
    outcome = run(command, [*line, "--json"])
    assert outcome.code == 0
    measured = json.loads(outcome.out)
    omega = np.array(measured["omega" if command == "sims.measure" else "omega_start"])
    [told] = re.findall(r"warning: .*omega.* known to a relative (\S+) only", outcome.err)
    assert 0 < abs(omega / exact - 1).max() <= float(told)


def test_nothing_is_told_where_all_digits_are_there(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert sims.measure.main([str(features_file(tmp_path / "f.npz", 1e4)), "--json"]) == 0
    assert capsys.readouterr().err == ""


def test_many_classes_need_the_memory_of_those_in_a_batch() -> None:
    C, P = 6007, 3
    rng = np.random.default_rng(5)
    labels = rng.permutation(np.repeat(np.arange(C), 2))
    features = rng.standard_normal((2 * C, P))
    tracemalloc.start()
    measured = statistics_of(features, labels, C)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * CHUNK * C  # a table of rows against classes in float64
    H, layout = class_blocks(features, labels)
    expected = block_statistics(H, layout)
    np.testing.assert_allclose(measured.means, expected.means, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(measured.sigma_w, expected.sigma_w, rtol=1e-12)
    np.testing.assert_allclose(measured.class_variances, expected.class_variances, rtol=1e-10)


def test_features_that_are_all_equal_have_no_loss_at_lambda_zero(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    save_arrays(path, {"features": np.zeros((6, 1)), "labels": np.repeat([0, 1], 3), "W": np.ones((2, 1)), "b": np.ones(2)})
    outcome = run("sims.measure", [str(path), "--lambda", "0"])
    assert outcome.code == 0
    assert "undefined: loss: Sigma_T = 0" in outcome.err
