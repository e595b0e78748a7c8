"""Checkpoints of rows in one process: bytes, blocks, other hands' folders, refusals; nothing foreign is unpickled."""

import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed import checkpoint as dcp

from tests.ufm.files.checkpoint_processes import rows
from ufm.files import checkpoint_writer
from ufm.files.checkpoint import CheckpointRows, load_rows
from ufm.files.checkpoint_writer import save_rows
from ufm.flow.command import main
from ufm.flow.source import read_by

H, LABELS = rows("float64")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_writer, "BLOCK_NUMBERS", 64)  # 9 rows of 7


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_rows(tmp_path / "saved", H, LABELS)
    return tmp_path / "saved"


def save_with_torch(folder: Path, **tensors: torch.Tensor) -> Path:
    """What torch writes by itself, in one piece a tensor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(tensors, checkpoint_id=folder, no_dist=True)
    return folder


@pytest.mark.parametrize(
    "given",
    [
        H,
        H.astype(">f8"),
        np.asfortranarray(H),
        H[::-1][::-1],
        torch.from_numpy(H),
        torch.from_numpy(H).requires_grad_(),
        H.astype(np.float32),
        torch.from_numpy(H).half(),
    ],
    ids=["rows", "swapped", "columns", "view", "torch", "grad", "float32", "float16"],
)
def test_every_byte_comes_back_from_numpy_and_torch(given: Any, tmp_path: Path) -> None:
    for labels in (LABELS, torch.from_numpy(LABELS).to(torch.int16), LABELS.astype(np.uint8)):
        out = tmp_path / str(labels.dtype)
        save_rows(out, given, labels)
        features, got = load_rows(out)
        expected = given.detach().numpy() if isinstance(given, torch.Tensor) else given
        assert features.tobytes() == np.ascontiguousarray(expected.astype(expected.dtype.newbyteorder("="))).tobytes()
        assert (got.dtype, got.tolist()) == (np.int64, LABELS.tolist())


@pytest.mark.parametrize("size", [1, 2, 5, 300])
def test_processes_read_every_row_once_and_in_order_block_by_block(size: int, folder: Path) -> None:
    stored = CheckpointRows.of(str(folder))
    assert (stored.n, stored.P, stored.dtype) == (217, 7, np.float64)
    parts = [stored.share(rank, size) for rank in range(size)]
    read = [block for part in parts for block in stored.blocks(part)]
    assert max(len(features) for features, _ in read) == min(9, len(parts[0]) or 1)
    assert np.concatenate([features for features, _ in read]).tobytes() == H.tobytes()
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in read]), LABELS)
    np.testing.assert_array_equal(np.concatenate([part for rank in parts for part in stored.labels(rank)]), LABELS)


def test_torch_reads_it_and_what_torch_wrote_is_read(folder: Path, tmp_path: Path) -> None:
    target = {"features": torch.zeros(217, 7, dtype=torch.float64), "labels": torch.zeros(217, dtype=torch.int64)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(target, checkpoint_id=folder, no_dist=True)
    assert target["features"].numpy().tobytes() == H.tobytes()
    assert target["labels"].tolist() == LABELS.tolist()
    theirs = save_with_torch(tmp_path / "theirs", features=torch.from_numpy(H), labels=torch.from_numpy(LABELS).int())
    features, labels = load_rows(theirs)
    assert features.tobytes() == H.tobytes()
    assert labels.tolist() == LABELS.tolist()


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


@pytest.mark.parametrize("evil", [Evil(), {"state_dict_metadata": Evil()}])
def test_nothing_but_descriptions_is_unpickled(evil: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / ".metadata").write_bytes(pickle.dumps(evil))
    with pytest.raises(ValueError, match=r"\.metadata: it asks for posix\.mkdir, which describes no tensor"):
        load_rows(folder)
    assert not (tmp_path / "evil").exists()


def damaged(folder: Path, how: str) -> None:
    """Do something to a checkpoint."""
    data = folder / "__0_0.distcp"
    if how == "short":
        os.truncate(data, data.stat().st_size // 2)
    elif how == "lost":
        data.unlink()
    elif how == "cut":
        os.truncate(folder / ".metadata", 200)
    elif how == "other":
        (folder / ".metadata").write_bytes(pickle.dumps(7))
    elif how == "unfinished":
        (folder / ".metadata").unlink()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("short", "cannot read the features of"),
        ("lost", "cannot read the features of .*: No such file"),
        ("cut", r"cannot read .*\.metadata"),
        ("other", r"cannot read .*\.metadata: it holds int"),
        ("unfinished", "no checkpoint: it has no .metadata, which is written last"),
    ],
)
def test_a_damaged_folder_is_one_line(how: str, words: str, folder: Path, capsys: pytest.CaptureFixture) -> None:
    damaged(folder, how)
    with pytest.raises(ValueError, match=words):
        load_rows(folder)
    assert main(["--features", str(folder)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"labels": torch.arange(3)}, "needs the tensors 'features' .*; it has: labels"),
        ({"features": torch.zeros(3, 2), "labels": torch.arange(4)}, r"got \(3, 2\) and \(4,\)"),
        ({"features": torch.zeros(3), "labels": torch.arange(3)}, r"got \(3,\) and \(3,\)"),
        ({"features": torch.zeros(3, 2).bfloat16(), "labels": torch.arange(3)}, "features are torch.bfloat16"),
        ({"features": torch.zeros(3, 2), "labels": torch.zeros(3)}, "labels torch.float32"),
    ],
)
def test_other_tensors_are_refused(tensors: dict[str, torch.Tensor], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        load_rows(save_with_torch(tmp_path / "theirs", **tensors))


def test_pieces_that_leave_rows_out_or_cut_columns_are_refused(folder: Path) -> None:
    path = folder / ".metadata"
    for change, words in (
        (lambda chunks: chunks.pop(3), "rows 27 to 36 of its features are missing or there twice"),
        (lambda chunks: chunks.pop(), "216 rows of its features are there, of"),
        (lambda chunks: setattr(chunks[0], "sizes", torch.Size([9, 3])), "sharded along their columns"),
    ):
        whole = path.read_bytes()
        metadata = pickle.loads(whole)
        change(metadata.state_dict_metadata["features"].chunks)
        path.write_bytes(pickle.dumps(metadata))
        with pytest.raises(ValueError, match=words):
            load_rows(folder)
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("features", "labels", "words"),
    [
        (H, LABELS[:-1], r"got \(217, 7\) and \(216,\)"),
        (H[:, 0], LABELS, "features must be"),
        (H[:, :0], LABELS, "features must be"),
        (np.zeros((217, 7), dtype=np.int64), LABELS, "features are int64, one of float16"),
        (torch.from_numpy(H).bfloat16(), LABELS, "features are bfloat16, .*bfloat16 becomes float32 without a loss"),
        (H, LABELS.astype(float), "labels are float64, integers are needed"),
        (H, torch.from_numpy(LABELS).bool(), "labels are bool, integers are needed"),
        (H[:0], LABELS[:0], "no process has an example"),
    ],
)
def test_what_is_no_features_is_refused_before_anything_is_written(
    features: Any, labels: Any, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        save_rows(tmp_path / "out", features, labels)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_and_a_failure_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for taken in (folder, folder / ".metadata"):
        with pytest.raises(ValueError, match="is there already: choose another name, or move it away"):
            save_rows(taken, H, LABELS)
    assert load_rows(folder)[0].tobytes() == H.tobytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_writer._RowsPlanner, "resolve_data", full)
    with pytest.raises(ValueError, match=r"cannot write .*more: .*No space left on device"):
        save_rows(folder.with_name("more"), H, LABELS)
    assert [path.name for path in folder.parent.iterdir()] == ["saved"]


def test_a_run_on_a_checkpoint_is_the_run_on_one_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    features = np.where(np.isfinite(H), H, 0.0)
    save_rows(tmp_path / "saved", features, LABELS)
    np.savez(tmp_path / "one.npz", features=features, labels=LABELS)
    for options in ([], ["--full"]):
        for given, out in (("saved", "many.npz"), ("one.npz", "single.npz")):
            command = ["--features", str(tmp_path / given), "--out", str(tmp_path / "".join((*options, out)))]
            assert main([*command, "--points", "20", "--steps", "20", *options]) == 0
        assert "217 examples in a checkpoint" in capsys.readouterr().out
        one, many = (np.load(tmp_path / "".join((*options, name)))["omega"] for name in ("single.npz", "many.npz"))
        np.testing.assert_allclose(many, one, rtol=1e-12)
    files = [str(tmp_path / "saved" / name) for name in (".metadata", "__0_0.distcp")]
    assert read_by(str(tmp_path / "saved")) == tuple(files)
    assert main(["--features", str(tmp_path / "saved"), "--balance"]) == 2
    assert "balance needs all features in memory" in capsys.readouterr().err
