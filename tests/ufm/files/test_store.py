"""Files: atomic, never pickled, and refused with the reason."""

import errno
import os
import re
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ufm.flow.test_full_shares import Group, in_threads
from ufm.files import archive, json_objects, store
from ufm.files.features import load_feature_file
from ufm.files.one_folder import check_one_folder
from ufm.files.shards import Shards


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
    assert store.load_checkpoint(path, config, ["X"]) is None
    store.save_checkpoint(path, config, {"X": np.eye(2)})
    saved = store.load_checkpoint(path, config, ["X"])
    assert saved is not None
    np.testing.assert_array_equal(saved["X"], np.eye(2))
    with pytest.raises(ValueError, match="seed = 3, now 4"):
        store.load_checkpoint(path, {**config, "seed": 4}, ["X"])


@pytest.mark.parametrize("length", [0, 300])
def test_an_archive_that_was_cut_off_is_called_so(tmp_path: Path, length: int) -> None:
    path = tmp_path / "features.npz"
    store.save_arrays(path, {"features": np.zeros((20, 5))})
    path.write_bytes(path.read_bytes()[:length])
    for read in (store.load_arrays, store.array_names, load_feature_file, lambda path: Shards.of(str(path))):
        with pytest.raises(ValueError, match=r"features\.npz: it is damaged or cut off \("):
            read(path)


def test_planted_links_are_not_followed_and_the_mode_is_that_of_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    monkeypatch.setattr(store, "temporary_name", lambda: ".planted.tmp")
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


def test_temporary_folders_of_dead_processes_go_and_others_and_what_links_lead_to_stay(tmp_path: Path) -> None:
    host = store._host()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, link = (f".{host}-{gone.pid}-{digits}.tmp" for digits in ("0123456789ab", "1123456789ab"))
    kept = {
        f".{host}-{os.getppid()}-0123456789ab.tmp",
        f".other-{gone.pid}-0123456789ab.tmp",
        ".tmp",
        ".mine.tmp",
        f".{host}-{gone.pid}-0123456789AB.tmp",
        f".{host}-{gone.pid}-0123456789abc.tmp",
        f"{dead}.old",
        dead[1:],
    }
    for name in (dead, *kept):
        (tmp_path / name / "inside").mkdir(parents=True)
    (tmp_path / link).symlink_to(tmp_path / "kept")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("ours")
    store.remove_stale(tmp_path)
    assert set(os.listdir(tmp_path)) == {"kept", *kept}
    assert all((tmp_path / name / "inside").is_dir() for name in kept)
    assert (tmp_path / "kept" / "file").read_text() == "ours"


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


def test_a_checkpoint_is_read_for_its_wanted_arrays_alone(tmp_path: Path) -> None:
    path, config = tmp_path / "run.partial.npz", {"seed": 3}
    store.save_checkpoint(path, config, {"X": np.eye(2)})
    with zipfile.ZipFile(path, "a") as added:
        added.writestr("other.npy", npy(b"(((\n"))
    saved = store.load_checkpoint(path, config, ["X"])
    assert saved is not None
    assert saved.keys() == {"X"}


@pytest.mark.parametrize("load", [store.load_features, load_feature_file, lambda path: Shards.of(str(path)), store.load_arrays])
@pytest.mark.parametrize("shape", ["(10**13, 9)", "(9, 10**13)", f"({10**300}, 9)"])
def test_features_declared_huge_are_refused_before_memory_is_taken(load: Callable, shape: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    shape = shape.replace("10**13", str(10**13))
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    with zipfile.ZipFile(path, "w") as written:
        written.writestr("features.npy", npy(header) + bytes(99))
        written.writestr("labels.npy", npy(b"{'descr': '<i8', 'fortran_order': False, 'shape': (9,), }\n") + bytes(72))
    tracemalloc.start()
    with pytest.raises(ValueError, match="cannot read"):
        load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6


@pytest.mark.parametrize("name", ["labels", "W", "epoch", "lambda", "optimizer"])
def test_an_array_far_larger_than_the_features_is_not_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    arrays: Any = {"features": np.eye(6), "labels": np.repeat([0, 1], 3), name: np.zeros(2_000_000, dtype=int)}
    np.savez_compressed(path, **arrays)
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"{name} has 16 MB, far more than features with 288 B"):
        load_feature_file(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


def test_what_does_not_fit_into_the_free_memory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "x.npz", features=np.zeros((1000, 2000)), labels=np.zeros(1000, dtype=int))
    monkeypatch.setattr(archive, "free_memory", lambda: 10**6)
    tracemalloc.start()
    with pytest.raises(ValueError, match="features has 16 MB, with 1 MB of memory free"):
        store.load_arrays(tmp_path / "x.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6
    np.save(tmp_path / "features.npy", np.eye(6))
    np.save(tmp_path / "labels.npy", np.zeros(2_000_000, dtype=int))
    with pytest.raises(ValueError, match="labels has 16 MB, with 1 MB of memory free"):
        load_feature_file(tmp_path / "features.npy")


def test_free_memory_is_that_of_the_machine_or_of_a_limit() -> None:
    free = archive.free_memory()
    assert free is not None
    assert 10**7 < free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limited = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2 * 10**9,) * 2)"
    program = f"{limited}; from ufm.files import archive; print(archive.free_memory())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 2 * 10**9


def test_json_of_any_depth_and_length_is_refused(tmp_path: Path) -> None:
    for text in ("[" * 100_000, "9" * 10_000, "{", "[1]", ""):
        with pytest.raises(ValueError, match="cannot read here"):
            json_objects.parse_json(text, "here")
    assert json_objects.parse_json('{"a": 1}', "here") == {"a": 1}


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_process_0_cannot_write_into_is_named_in_all(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux refuses to remove what is not there, too, on a disk that is not to be written."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)

    def work(group: Group) -> None:
        words = "process 0 failed: " * group.rank + f"cannot write into {tmp_path}: {os.strerror(code)}"
        with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
            check_one_folder(tmp_path, group)

    in_threads(2, work)
