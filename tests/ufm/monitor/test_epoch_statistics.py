"""Class statistics of an epoch as a file: what was measured comes back to the last bit, by documented keys."""

from pathlib import Path

import numpy as np
import pytest

from ufm.files.store import load_arrays, save_arrays
from ufm.monitor.epoch_statistics import TRAINING_FACTS, load_statistics, save_statistics, statistics_files
from ufm.monitor.logs import RunLog
from ufm.monitor.measurement import MOST_FEATURES, measure_features

SIZES = (9, 14, 11)


def features(P: int = 5, seed: int = 0, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(3), SIZES))
    return (rng.standard_normal((len(labels), P)) + 30 + 2 * labels[:, None]).astype(dtype), labels


def test_statistics_of_unequal_classes_far_from_zero_come_back(tmp_path: Path) -> None:
    H, y = features(dtype=np.float32)
    rng = np.random.default_rng(1)
    W, b = rng.standard_normal((3, 5)), rng.standard_normal(3)
    facts = {"lambda": 0.3, "decay_w": 0.3, "decay_b": 0.0, "decay_h": 0.01, "learning_rate": 0.1, "optimizer": "sgd"}
    save_statistics(tmp_path, 12, measure_features(H, y, W, b, 0.3), facts)
    arrays = load_statistics(tmp_path / "statistics-0012.npz")
    wide = H.astype(np.float64)
    means = np.stack([wide[y == c].mean(0) for c in range(3)], 1)
    D = wide - means.T[y]
    np.testing.assert_allclose(arrays["class_means"], means, rtol=1e-14)
    np.testing.assert_allclose(arrays["sigma_w"], D.T @ D / len(y), rtol=1e-10, atol=1e-13)
    np.testing.assert_array_equal(arrays["counts"], SIZES)
    np.testing.assert_array_equal(arrays["W"], W)
    np.testing.assert_array_equal(arrays["b"], b)
    assert arrays["precision"] == np.finfo(np.float32).eps
    assert {name: arrays[name].item() for name in facts} == facts
    assert 0 <= arrays["train_error"] <= 1
    assert int(arrays["epoch"]) == 12
    assert set(arrays) - {"epoch", "counts", "class_means", "sigma_w", "precision", "W", "b"} <= set(TRAINING_FACTS)
    stored = (tmp_path / "statistics-0012.npz").stat().st_size
    assert stored < 8 * 5 * (5 + 2 * 3) + 6000  # the stated size, and the archive's own


def test_wide_features_are_left_out_and_files_are_listed_in_order(tmp_path: Path) -> None:
    H, y = features(MOST_FEATURES + 1)
    save_statistics(tmp_path, 1, measure_features(H, y, np.ones((3, H.shape[1])), np.zeros(3), 0.0), {})
    assert not list(tmp_path.iterdir())
    H, y = features()
    for epoch in (20000, 3, 100):
        save_statistics(tmp_path, epoch, measure_features(H, y, np.ones((3, 5)), np.zeros(3), 0.0), {})
    (tmp_path / "statistics-mine.npz").write_text("no epoch")
    assert list(statistics_files(tmp_path).values()) == [3.0, 100.0, 20000.0]


def test_other_facts_and_other_files_are_refused(tmp_path: Path) -> None:
    H, y = features()
    measured = measure_features(H, y, np.ones((3, 5)), np.zeros(3), 0.0)
    with pytest.raises(ValueError, match="'rate' is not stored with statistics"):
        save_statistics(tmp_path, 1, measured, {"rate": 1.0})
    save_statistics(tmp_path, 1, measured, {})
    arrays = load_arrays(tmp_path / "statistics-0001.npz")
    save_arrays(tmp_path / "a.npz", {name: value for name, value in arrays.items() if name != "sigma_w"})
    with pytest.raises(ValueError, match="no array 'sigma_w'"):
        load_statistics(tmp_path / "a.npz")
    save_arrays(tmp_path / "b.npz", arrays | {"sigma_w": np.eye(4)})
    with pytest.raises(ValueError, match=r"sigma_w is float64 \(4, 4\)"):
        load_statistics(tmp_path / "b.npz")


def test_a_log_keeps_them_with_the_facts_it_was_told(tmp_path: Path) -> None:
    H, y = features()
    log = RunLog(tmp_path, lam=0.2, optimizer="SGD", momentum=0.9, decay_h=0.05, seed=3, schedule=[1, 2])
    log(4, {"learning_rate": 0.1}, measure_features(H, y, np.ones((3, 5)), np.zeros(3), 0.2))
    arrays = load_statistics(tmp_path / "statistics-0004.npz")
    values = {name: arrays[name].item() for name in ("lambda", "decay_w", "decay_b", "decay_h", "momentum", "optimizer")}
    assert values == {"lambda": 0.2, "decay_w": 0.2, "decay_b": 0.2, "decay_h": 0.05, "momentum": 0.9, "optimizer": "SGD"}
    assert "seed" not in arrays
