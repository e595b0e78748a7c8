"""Features in .npz, .safetensors and memory-mapped .npy are the same features; every key of the documentation is read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sims.measure import main, measure_file
from ufm.files.features import load_feature_file
from ufm.files.store import save_arrays


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(3), 20))
    features = (rng.standard_normal((3, 5))[labels] + 0.3 * rng.standard_normal((60, 5))).astype(np.float32)
    return {"features": features, "labels": labels, "W": rng.standard_normal((3, 5)), "b": rng.standard_normal(3)}


def test_every_format_gives_the_same_measures_and_reads_lambda_and_epoch(tmp_path: Path) -> None:
    facts = {"epoch": np.asarray(7), "lambda": np.asarray(0.05)}
    save_arrays(tmp_path / "a.npz", {**arrays(), **facts, "optimizer": np.asarray("SGD")})
    tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in (arrays() | facts).items()}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"optimizer": "SGD"})
    for name, value in (arrays() | facts).items():
        np.save(tmp_path / f"{name}.npy", value)
    expected = measure_file(tmp_path / "a.npz", 0.05)
    for name in ("a.npz", "a.safetensors", "features.npy"):
        epoch, measurement = measure_file(tmp_path / name)
        assert (epoch, measurement.scalars) == (7, expected[1].scalars), name
    assert str(load_feature_file(tmp_path / "a.safetensors")["optimizer"]) == "SGD"
    assert isinstance(load_feature_file(tmp_path / "features.npy")["features"], np.memmap)


def test_bfloat16_features_are_read_as_they_are(tmp_path: Path) -> None:
    data = {name: torch.from_numpy(value) for name, value in arrays().items()}
    save_file({**data, "features": data["features"].bfloat16()}, tmp_path / "b.safetensors")
    read = load_feature_file(tmp_path / "b.safetensors")["features"]
    np.testing.assert_array_equal(read, data["features"].bfloat16().float().numpy())


def test_a_stored_training_error_stands_where_there_is_no_classifier(tmp_path: Path) -> None:
    plain = {name: arrays()[name] for name in ("features", "labels")}
    save_arrays(tmp_path / "f.npz", {**plain, "train_error": np.asarray(0.25)})
    assert measure_file(tmp_path / "f.npz", 0.1)[1].scalars["train_error"] == 0.25
    save_arrays(tmp_path / "w.npz", {**arrays(), "train_error": np.asarray(0.25)})
    assert measure_file(tmp_path / "w.npz", 0.1)[1].scalars["train_error"] != 0.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lambda": np.asarray(-1.0)}, "lambda = -1.0"),
        ({"lambda": np.asarray([1.0, 2.0])}, r"lambda is float64 \(2,\), one finite number"),
        ({"lambda": np.asarray(np.nan)}, "one finite number"),
        ({"lambda": np.asarray("much")}, "one finite number"),
    ],
)
def test_bad_facts_are_refused(change: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    save_arrays(tmp_path / "f.npz", {**arrays(), **change})
    with pytest.raises(ValueError, match=message):
        measure_file(tmp_path / "f.npz")


def test_damaged_and_incomplete_files_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "d.safetensors").write_bytes(b"no header")
    (tmp_path / "d.npy").write_bytes(b"no header")
    np.save(tmp_path / "features.npy", arrays()["features"])
    for name, message in (("d.safetensors", "cannot read"), ("d.npy", "cannot read"), ("features.npy", "needs the arrays")):
        assert main([str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
