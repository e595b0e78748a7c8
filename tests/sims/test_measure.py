"""`python -m sims.measure`: a file's measures are those of its features, and bad files have one line."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sims import measure
from sims.measure import main, measure_features
from ufm.files.store import load_arrays, save_arrays
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
