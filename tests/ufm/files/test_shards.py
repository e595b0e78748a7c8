"""Shards: every row once and in order, whatever the files, the blocks and the processes; damage is one line."""

import os
from pathlib import Path

import numpy as np
import pytest

from ufm.files import shards as module
from ufm.files.shards import Shards
from ufm.flow.source import is_pattern


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return rng.standard_normal((29, 3)).astype(np.float32), rng.integers(0, 4, 29)


@pytest.fixture
def folder(tmp_path, rows):
    """Three kinds of shards: stored, compressed, and a pair of .npy."""
    H, labels = rows
    np.savez(tmp_path / "a.npz", features=H[:10], labels=labels[:10], more=np.zeros(5))
    np.savez_compressed(tmp_path / "b.npz", labels=labels[10:17], features=H[10:17])
    np.save(tmp_path / "features-c.npy", H[17:])
    np.save(tmp_path / "labels-c.npy", labels[17:])
    return tmp_path


@pytest.mark.parametrize("block", [1, 7, 1 << 21])
@pytest.mark.parametrize("size", [1, 2, 5, 40])
def test_processes_read_every_row_once_and_in_order(folder, rows, block, size, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_NUMBERS", block)
    shards = Shards.of(str(folder / "*.np?"))
    assert (shards.n, shards.P, shards.dtype) == (29, 3, np.float32)
    parts = [shards.share(rank, size) for rank in range(size)]
    read = [block for part in parts for block in shards.blocks(part)]
    np.testing.assert_array_equal(np.concatenate([H for H, _ in read]), rows[0])
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in read]), rows[1])
    np.testing.assert_array_equal(np.concatenate([part for rank in parts for part in shards.labels(rank)]), rows[1])
    assert max(len(part) for part in parts) - min(len(part) for part in parts) <= 1


def test_a_name_with_a_wildcard_that_is_a_file_is_that_file(tmp_path):
    assert is_pattern(str(tmp_path / "*.npz"))
    (tmp_path / "[1].npz").touch()
    assert not is_pattern(str(tmp_path / "[1].npz"))


def test_no_shard_is_refused(tmp_path):
    with pytest.raises(ValueError, match="matches this pattern"):
        Shards.of(str(tmp_path / "*.npz"))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"features": np.zeros((4, 2), np.float32)}, "labels"),
        ({"features": np.zeros((4, 2), np.float32), "labels": np.zeros(3, int)}, "must be"),
        ({"features": np.zeros((4, 5), np.float32), "labels": np.zeros(4, int)}, "has P = 5"),
        (
            {"features": np.zeros((4, 3), int), "labels": np.zeros(4, int)},
            r"floats and integers .* features\.astype\('float64'\)",
        ),
        ({"features": np.zeros((4, 3), "V2"), "labels": np.zeros(4, int)}, "save bfloat16 as float32"),
        ({"features": np.zeros((4, 3)), "labels": np.zeros(4)}, r"labels float64.* save labels\.astype\('int64'\)"),
        ({"features": np.zeros((4, 3)), "labels": np.array(["cat"] * 4)}, r"np\.unique\(labels, return_inverse=True\)"),
        ({"features": np.asfortranarray(np.ones((4, 3))), "labels": np.zeros(4, int)}, "by columns"),
        ({"features": np.array([["a", None, "b"]], dtype=object), "labels": np.zeros(1, int)}, "objects"),
    ],
)
def test_shards_that_do_not_go_together_are_refused(folder, arrays, message):
    np.savez(folder / "z.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        Shards.of(str(folder / "*.npz"))


@pytest.mark.parametrize("kept", [0, 30, 200, 400])
def test_a_truncated_shard_is_one_line(folder, kept):
    whole = (folder / "a.npz").read_bytes()
    (folder / "a.npz").write_bytes(whole[:kept])
    with pytest.raises(ValueError, match=r"cannot read .*a\.npz") as error:
        list(Shards.of(str(folder / "*.npz")).blocks(range(29)))
    assert "\n" not in str(error.value)


def test_a_flipped_byte_of_a_shard_is_noticed(folder):
    data = bytearray((folder / "a.npz").read_bytes())
    data[data.index(b"\x93NUMPY") + 140] ^= 1
    (folder / "a.npz").write_bytes(data)
    with pytest.raises(ValueError, match="CRC"):
        list(Shards.of(str(folder / "*.npz")).blocks(range(29)))


@pytest.mark.parametrize(("damaged", "reason"), [(400, "Bad CRC-32"), (20_000, "Error -3 while decompressing")])
def test_damage_before_the_wanted_rows_of_a_compressed_shard_is_one_line(tmp_path, damaged, reason):
    """A process whose share lies behind the damage reads over it; a little of it is noticed by the checksum alone."""
    numbers = np.random.default_rng(0).integers(0, 9, (20_000, 16)).astype(float)
    np.savez_compressed(tmp_path / "a.npz", features=numbers, labels=np.arange(20_000) % 3)
    data = bytearray((tmp_path / "a.npz").read_bytes())
    middle = len(data) // 2
    data[middle : middle + damaged] = b"\xff" * damaged
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ValueError, match=f"cannot read .*a.npz: {reason}"):
        list(Shards.of(str(tmp_path / "*.npz")).blocks(range(19_000, 20_000)))


@pytest.mark.parametrize("kind", ["uint64", ">i4", "uint8", "int64"])
def test_labels_are_int64_whatever_they_are_stored_as(tmp_path, kind):
    """numpy 2.1 counts no uint64."""
    np.savez(tmp_path / "a.npz", features=np.ones((4, 2)), labels=np.array([0, 1, 1, 0], dtype=kind))
    shards = Shards.of(str(tmp_path / "*.npz"))
    ((_, of_block),), (alone,) = shards.blocks(range(4)), shards.labels(range(4))
    for labels in (of_block, alone):
        assert labels.dtype == np.dtype(np.int64)
        np.testing.assert_array_equal(labels, [0, 1, 1, 0])


@pytest.mark.parametrize("name", ["a.npz", "features-c.npy", "labels-c.npy"])
def test_a_shard_that_is_written_between_two_passes_is_refused(folder, rows, name):
    """The class means would be those of other rows than the scatter."""
    shards = Shards.of(str(folder / "*.np?"))
    list(shards.blocks(range(29)))
    if name == "a.npz":
        np.savez(folder / name, features=2 * rows[0][:10], labels=rows[1][:10], more=np.zeros(5))
    else:
        np.save(folder / name, np.load(folder / name)[::-1].copy())
    os.utime(folder / name, ns=(0, 0))  # a clock may be coarser than two writes are apart
    with pytest.raises(ValueError, match="was written while it was read: repeat the run"):
        list(shards.blocks(range(29)))


def test_the_place_of_a_row_names_its_file(folder):
    shards = Shards.of(str(folder / "*.np?"))
    assert shards.place(12) == f"row 2 of {folder / 'b.npz'}"
    assert shards.place(28) == f"row 11 of {folder / 'features-c.npy'}"


def test_a_file_of_two_names_is_refused(folder):
    (folder / "z.npz").symlink_to(folder / "a.npz")
    with pytest.raises(ValueError, match=r"z\.npz is the same file as .*a\.npz: its examples would count twice"):
        Shards.of(str(folder / "*.npz"))


def test_a_pair_without_labels_names_the_file_that_is_missing(folder):
    (folder / "labels-c.npy").unlink()
    with pytest.raises(ValueError, match=r"cannot read .*labels-c\.npy: No such file"):
        Shards.of(str(folder / "*.np?"))


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="tells the bytes that a process reads on Linux alone")
@pytest.mark.parametrize("name", ["big.npz", "features-big.npy"])
def test_rows_before_the_wanted_ones_are_not_read(tmp_path, name):
    """A process whose share lies far down in a large file would read all of it, four times."""
    H, labels = np.random.default_rng(0).standard_normal((20_000, 50)), np.arange(20_000) % 7
    np.savez(tmp_path / "big.npz", more=np.zeros(3), features=H, labels=labels)
    np.save(tmp_path / "features-big.npy", H)
    np.save(tmp_path / "labels-big.npy", labels)
    shards, before = Shards.of(str(tmp_path / name)), bytes_read()
    ((rows, classes),) = shards.blocks(range(19_000, 19_500))
    assert bytes_read() - before < 500_000  # 204,000 are wanted, of 8,160,000
    np.testing.assert_array_equal(rows, H[19_000:19_500])
    np.testing.assert_array_equal(classes, labels[19_000:19_500])


def bytes_read() -> int:
    """By this process, so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.parametrize(
    ("pattern", "path", "named"),
    [
        ("s/*.npz", "s/out.npz", True),
        ("s/*", "s/out.npz", True),
        ("s/[0-9].npz", "s/out.npz", False),
        ("*/*.npz", "s/out.npz", True),
        ("s/*.npz", "out.npz", False),
        ("s/*.npz", "s/.out.npz", False),
        ("s/*.npy", "s/out.npz", False),
        ("*.npz", "out.npz", True),
        ("s/../s/*.npz", "s/out.npz", True),
    ],
)
def test_whether_a_file_would_be_a_shard(pattern, path, named, tmp_path, monkeypatch):
    (tmp_path / "s").mkdir()
    monkeypatch.chdir(tmp_path)
    assert module.is_named(pattern, Path(path)) is named
