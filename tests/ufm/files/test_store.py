"""Files: atomic, never pickled, and refused with the reason."""

import os
import subprocess
import sys
import zipfile
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


def test_planted_links_are_not_followed_and_the_mode_is_that_of_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    monkeypatch.setattr(store, "_temporary_name", lambda: ".planted.tmp")
    (tmp_path / ".planted.tmp").symlink_to(victim)
    with pytest.raises(ValueError, match="File exists"):
        store.write_text(tmp_path / "x", "ours")
    assert victim.read_text() == "untouched"
    monkeypatch.undo()
    before = os.umask(0o027)
    try:
        store.write_text(tmp_path / "x", "ours")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_temporary_files_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    host = store._host()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for process in (gone.pid, os.getppid()):
        (tmp_path / f".{host}-{process}-0123456789ab.tmp").write_bytes(b"half")
    (tmp_path / f".other-{gone.pid}-0123456789ab.tmp").write_bytes(b"another host's")
    store.write_text(tmp_path / "x", "ours")
    assert sorted(os.listdir(tmp_path)) == sorted(
        [f".{host}-{os.getppid()}-0123456789ab.tmp", f".other-{gone.pid}-0123456789ab.tmp", "x"]
    )


def test_a_name_as_long_as_the_system_allows_can_be_written(tmp_path: Path) -> None:
    store.write_text(tmp_path / ("x" * 255), "ours")
    with pytest.raises(ValueError, match="name too long"):
        store.check_writable(tmp_path / ("x" * 256))


def npy(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize(
    "member",
    [
        npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999, 9999), }\n"),
        npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (-3,), }\n"),
        npy(b"{'descr': '<f8', 'shape': (3,)"),
        npy(b"(" * 200 + b"\n"),
        npy(b"\xff\xfe\n"),
        npy(b"{'descr': 'V99999999999', 'fortran_order': False, 'shape': (3,), }\n"),
        npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }\n") + b"12",
        b"",
    ],
)
def test_damaged_members_are_refused_in_one_line(member: bytes, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", member)
    with pytest.raises(ValueError, match=r"cannot read .*x\.npz") as refused:
        store.load_arrays(tmp_path / "x.npz")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("field", [6, 8])
def test_encrypted_and_unknown_compression_are_refused(field: int, tmp_path: Path) -> None:
    """The flag bits lie at 6 (local) and 8 (central directory), the method two bytes on."""
    store.save_arrays(tmp_path / "x.npz", {"a": np.arange(3.0)})
    data = bytearray((tmp_path / "x.npz").read_bytes())
    central = data.index(b"PK\x01\x02")
    offset = 0 if field == 6 else 2
    for start, place in ((0, 6), (central, 8)):
        data[start + place + offset] = 1 if field == 6 else 99
    (tmp_path / "y.npz").write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"cannot read .*y\.npz"):
        store.load_arrays(tmp_path / "y.npz")


def test_only_the_wanted_members_are_read(tmp_path: Path) -> None:
    rows = np.zeros((4, 2))
    store.save_arrays(tmp_path / "x.npz", {"features": rows, "labels": np.arange(4)})
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("unused.npy", b"not an array")
    features, labels = store.load_features(tmp_path / "x.npz")
    np.testing.assert_array_equal(features, rows)
    assert labels.tolist() == [0, 1, 2, 3]


def test_json_of_any_depth_and_length_is_refused(tmp_path: Path) -> None:
    for text in ("[" * 100_000, "9" * 10_000, "{", "[1]", ""):
        with pytest.raises(ValueError, match="cannot read here"):
            store.parse_json(text, "here")
    assert store.parse_json('{"a": 1}', "here") == {"a": 1}
