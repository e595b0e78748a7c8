"""Shards: every row once and in order, whatever the files, the blocks and the processes; damage is one line."""

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
    with pytest.raises(ValueError, match="is called so"):
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
