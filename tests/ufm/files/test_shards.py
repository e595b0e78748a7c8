"""Shards: every row once and in order, whatever the files, the blocks and the processes; damage is one line."""

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
        ({"features": np.zeros((4, 3), int), "labels": np.zeros(4, int)}, "floats and integers"),
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
