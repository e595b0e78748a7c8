"""Files: atomic, never pickled, and refused with the reason."""

import os
from pathlib import Path

import numpy as np
import pytest

from ufm.files import store


def test_arrays_round_trip_and_leave_nothing_else(tmp_path: Path) -> None:
    arrays = {"a": np.arange(3.0), "name": np.array("text"), "scalar": np.array(2.5)}
    store.save_arrays(tmp_path / "x.npz", arrays)
    loaded = store.load_arrays(tmp_path / "x.npz")
    assert loaded.keys() == arrays.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(loaded[name], value)
    assert os.listdir(tmp_path) == ["x.npz"]


def test_a_failing_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    store.save_arrays(path, {"a": np.arange(3)})

    def fail(file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    with pytest.raises(ValueError, match="No space left"):
        store.write_atomically(path, fail)

    def interrupt(file: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.write_atomically(path, interrupt)
    np.testing.assert_array_equal(store.load_arrays(path)["a"], np.arange(3))
    assert os.listdir(tmp_path) == ["x.npz"]


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(tmp_path / "owned"),))

    np.savez(tmp_path / "x.npz", features=np.array([Trap()], dtype=object), labels=np.arange(1))
    with pytest.raises(ValueError, match="cannot read"):
        store.load_features(tmp_path / "x.npz")
    assert not (tmp_path / "owned").exists()


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        store.load_arrays(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(ValueError, match=r"no \.npz archive"):
        store.load_arrays(tmp_path / "text.npz")
    store.save_arrays(tmp_path / "x.npz", {"a": np.arange(1000)})
    whole = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot read"):
        store.load_arrays(tmp_path / "cut.npz")
    np.save(tmp_path / "single.npy", np.arange(3))
    with pytest.raises(ValueError, match="single array"):
        store.load_arrays(tmp_path / "single.npy")
    with pytest.raises(ValueError, match=r"it has: a$"):
        store.load_features(tmp_path / "x.npz")


def test_unwritable_places_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        store.check_writable(tmp_path / "no" / "x.npz")
    with pytest.raises(ValueError, match="it is a folder"):
        store.check_writable(tmp_path)
    store.check_writable(tmp_path / "x.npz")
    assert os.listdir(tmp_path) == []


def test_checkpoints_belong_to_their_configuration(tmp_path: Path) -> None:
    path, config = tmp_path / "run.partial.npz", {"seed": 3, "eta": None, "flow": "embedded"}
    assert store.load_checkpoint(path, config) is None
    store.save_checkpoint(path, config, {"X": np.eye(2)})
    saved = store.load_checkpoint(path, config)
    assert saved is not None
    np.testing.assert_array_equal(saved["X"], np.eye(2))
    with pytest.raises(ValueError, match="seed = 3, now 4"):
        store.load_checkpoint(path, {**config, "seed": 4})
