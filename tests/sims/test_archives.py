"""Archives are read as the folders they were made from, and whatever else is in one reaches no file and fills no disk."""

import gzip
import io
import multiprocessing
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sims.training import archives
from sims.training.archives import unpacked
from sims.training.cache import cached
from sims.training.data import load
from sims.training.readers import DataChoice

RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's archives are unpacked."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ufm"


def packed(folder: Path, name: str) -> Path:
    """An archive of a folder, under its name."""
    path = folder.parent / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, file.relative_to(folder.parent))
    else:
        mode: Any = f"w:{name.rpartition('.')[2]}"
        with tarfile.open(path, mode) as archive:
            archive.add(folder, folder.name)
    return path


def mnist(folder: Path) -> None:
    folder.mkdir()
    for prefix in ("train", "t10k"):
        labels = np.arange(20, dtype=np.uint8) % 10
        images = RNG.integers(0, 256, (20, 4, 4), dtype=np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (folder / f"{prefix}-{kind}-ubyte").write_bytes(head + array.tobytes())


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar.xz", "a.tar.bz2", "a.zip"])
def test_an_archive_is_the_folder_it_was_made_from(name: str, tmp_path: Path, cache: Path) -> None:
    mnist(tmp_path / "files")
    archive = packed(tmp_path / "files", name)
    a, b = (load(DataChoice("mnist", folder=str(path))) for path in (tmp_path / "files", archive))
    assert a.fingerprint == b.fingerprint
    inside = sorted(path.name for path in (cache / "archives").iterdir())
    assert [name.partition(".")[2] for name in inside] == ["", "lock"]
    archive.rename(tmp_path / "moved.bin.zip")  # the name of a file says nothing of its kind
    assert unpacked(tmp_path / "moved.bin.zip") == unpacked(tmp_path / "moved.bin.zip")
    assert sorted(path.name for path in (cache / "archives").iterdir()) == inside  # by its content


def test_a_folder_of_jpegs_in_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import config
    from PIL import Image

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "hub")
    for split in ("train", "test"):
        for value, name in ((40, "airplane"), (200, "truck")):
            (tmp_path / "jpeg" / split / name).mkdir(parents=True)
            Image.new("RGB", (32, 32), (value, value, value)).save(tmp_path / "jpeg" / split / name / "0.jpg")
    for path in (tmp_path / "jpeg", packed(tmp_path / "jpeg", "jpeg.tar.xz")):
        data = load(DataChoice("cifar10-jpeg", folder=str(path)))
        np.testing.assert_array_equal(data.train.images[:, 2, 5, 7], np.array([40, 200])[data.train.labels])


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def named(name: str, content: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), content


def zip_of(*members: tuple[str, bytes, int]) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return raw.getvalue()


def smaller_than_it_is(content: bytes) -> bytes:
    """A zip whose directory says that its member has one byte."""
    whole = zip_of(("a", content, 0))
    directory = whole.index(b"PK\1\2")
    return whole[: directory + 24] + struct.pack("<I", 1) + whole[directory + 28 :]


def encrypted() -> bytes:
    whole = bytearray(zip_of(("a", b"x", 0)))
    for place in (6, whole.index(b"PK\1\2") + 8):
        whole[place] |= 1
    return bytes(whole)


def long_header() -> bytes:
    """A tar whose extended header alone is far larger than the archive."""
    info = tarfile.TarInfo("a")
    info.pax_headers = {"comment": "a" * 5_000_000}
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info)
    return raw.getvalue()


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "above.tar.gz": (lambda: tar_of(named("a/../../escaped")), "does not lie below"),
    "absolute.tar.gz": (lambda: tar_of(named("/tmp/escaped")), "does not lie below"),
    "above.zip": (lambda: zip_of(("../escaped", b"x", 0)), "does not lie below"),
    "windows.zip": (lambda: zip_of(("C:\\escaped", b"x", 0)), "does not lie below"),
    "symlink.tar.gz": (lambda: tar_of((special("a", tarfile.SYMTYPE, "/etc"), b""), named("a/escaped")), "no regular file"),
    "hardlink.tar.gz": (lambda: tar_of(named("b"), (special("a", tarfile.LNKTYPE, "b"), b"")), "no regular file"),
    "device.tar.gz": (lambda: tar_of((special("a", tarfile.CHRTYPE), b"")), "no regular file"),
    "pipe.tar.gz": (lambda: tar_of((special("a", tarfile.FIFOTYPE), b"")), "no regular file"),
    "symlink.zip": (lambda: zip_of(("a", b"/etc", stat.S_IFLNK | 0o777)), "no regular file"),
    "twice.tar.gz": (lambda: tar_of(named("a/b"), named("a/./b")), "a/b twice"),
    "folder_and_file.tar.gz": (lambda: tar_of(named("a"), named("a/b")), "a twice"),
    "bomb.tar.gz": (lambda: tar_of(named("a", bytes(20_000_000))), "more than 50 times"),
    "bomb.zip": (lambda: zip_of(*((str(k), bytes(2_000_000), 0) for k in range(10))), "more than 50 times"),
    "header.tar.gz": (long_header, "more than 50 times"),
    "understated.zip": (lambda: smaller_than_it_is(bytes(9000)), "CRC"),
    "encrypted.zip": (encrypted, "encrypted"),
    "cut.tar.gz": (lambda: tar_of(named("a", RNG.bytes(9000)))[:-20], "ended before|unexpected end"),
    "flipped.tar.gz": (lambda: tar_of(named("a", b"abc"))[:-6] + b"\0\1\2\3\4\5", "CRC|ended|length"),
    "cut.zip": (lambda: zip_of(("a", b"x", 0))[:-9], "it is damaged or cut off"),
    "no.tar.xz": (lambda: b"nothing of the kind", "neither a zip archive nor"),
    "no_tar.tar.gz": (lambda: gzip.compress(b"nothing of the kind" * 100), "header"),
    "empty.zip": (lambda: b"", "neither a zip archive nor"),
}


@pytest.mark.parametrize("name", BAD)
def test_anything_else_is_one_line_and_leaves_nothing(name: str, tmp_path: Path, cache: Path) -> None:
    make, message = BAD[name]
    (tmp_path / name).write_bytes(make())
    with pytest.raises(ValueError, match=message) as caught:
        unpacked(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.suffix for path in (cache / "archives").iterdir()] == [".lock"]
    assert not list(tmp_path.rglob("escaped"))
    assert not Path("/tmp/escaped").exists()


def test_modes_of_an_archive_are_not_taken_and_links_of_a_file_neither(tmp_path: Path) -> None:
    info, content = named("a")
    info.mode = 0o6777
    (tmp_path / "m.tar.gz").write_bytes(tar_of((info, content)))
    assert stat.S_IMODE((unpacked(tmp_path / "m.tar.gz") / "a").stat().st_mode) & 0o7111 == 0


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mnist(tmp_path / "files")
    archive = packed(tmp_path / "files", "a.zip")
    monkeypatch.setattr(archives, "RESERVED", 1 << 62)
    with pytest.raises(ValueError, match="has too little free space"):
        unpacked(archive)


def fill(folder: Path) -> None:
    with (folder.parents[2] / "log").open("a") as file:
        file.write("made\n")
    (folder / "a").write_text("x")


def ask(_: int) -> str:
    return str(cached("things", "digest", fill))


def test_processes_that_ask_at_once_make_a_folder_once(cache: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        paths = pool.map(ask, range(4))
    assert set(paths) == {str(cache / "things" / "digest")}
    assert (cache.parent / "log").read_text() == "made\n"


def test_what_a_killed_process_left_is_made_again(cache: Path) -> None:
    child = os.fork()
    if not child:
        cached("things", "digest", lambda folder: (folder.joinpath("half").touch(), os._exit(9)))  # type: ignore[func-returns-value]
    os.waitpid(child, 0)
    assert (cache / "things" / "digest.partial" / "half").exists()
    whole = cached("things", "digest", fill)
    assert [path.name for path in whole.iterdir()] == ["a"]
    assert not (cache / "things" / "digest.partial").exists()


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"cannot write .*Not a directory; XDG_CACHE_HOME"):
        cached("things", "digest", fill)
