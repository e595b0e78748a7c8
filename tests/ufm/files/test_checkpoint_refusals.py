"""What users give to checkpoints of rows by mistake, and what they find on disk, is refused in one line that says the way out."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.ufm.files.checkpoint_processes import rows
from ufm.distributed import OneProcess
from ufm.files import checkpoint, checkpoint_writer
from ufm.files.checkpoint import CheckpointRows, load_rows
from ufm.files.checkpoint_writer import save_rows
from ufm.flow.command import main
from ufm.flow.source import check_shared

H, LABELS = rows("float64")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(checkpoint_writer, "BLOCK_NUMBERS", 700)  # 100 rows
    save_rows(tmp_path / "saved", H, LABELS)
    return tmp_path / "saved"


class Placed(torch.Tensor):
    """What looks like a DTensor."""

    def to_local(self) -> torch.Tensor:
        return self


@pytest.mark.parametrize(
    ("features", "labels", "words"),
    [
        (torch.from_numpy(H).as_subclass(Placed), LABELS, r"features are a DTensor.*: give features\.to_local\(\)"),
        (H, torch.from_numpy(LABELS).as_subclass(Placed), r"labels are a DTensor"),
        (np.ma.masked_invalid(H), LABELS, "features are a masked array: leave the masked examples out"),
        (torch.from_numpy(H).to_sparse(), LABELS, "features are torch.sparse_coo: a dense tensor is needed"),
        (H, np.full(217, 2**63, np.uint64), r"a label is 2\*\*63 or more"),
        (H, np.full(217, 2**63, ">u8"), r"a label is 2\*\*63 or more"),
        (H, torch.from_numpy(np.full(217, 2**63, np.uint64)), r"a label is 2\*\*63 or more"),
    ],
)
def test_what_does_not_lie_as_rows_is_refused(features: Any, labels: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        save_rows(tmp_path / "out", features, labels)
    assert list(tmp_path.iterdir()) == []


def test_a_list_is_no_array(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="expected a numpy array or a torch tensor, got list"):
        save_rows(tmp_path / "out", H.tolist(), LABELS)  # type: ignore[arg-type]


def test_no_folder_is_made_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given, above in (("~/out", "~"), ("new/out", "new")):
        with pytest.raises(ValueError, match=f"cannot write {given}: there is no folder {above}; make it first"):
            save_rows(given, H, LABELS)
    assert list(tmp_path.iterdir()) == []
    for name in ("in words", "[1]*", "b\udcff"):
        save_rows(name, H[:1, :1], LABELS[:1])
        assert load_rows(name)[0].tobytes() == H[:1, :1].tobytes()


def test_names_that_are_taken_or_gone(folder: Path) -> None:
    (folder.parent / "empty").mkdir()
    (folder.parent / "link").symlink_to("nowhere")
    for taken in ("empty", "link", "saved", "saved/..", ""):
        with pytest.raises(ValueError, match="is there already: choose another name, or move it away"):
            save_rows(folder.parent / taken, H, LABELS)
    (folder.parent / "other").symlink_to(folder)
    assert CheckpointRows.of(folder.parent / "other").n == 217
    with pytest.raises(ValueError, match=r"there is no folder .*/gone$"):
        load_rows(folder.parent / "gone")
    with pytest.raises(ValueError, match=r"shards are named by a pattern, '.*/empty/[*].npz'"):
        load_rows(folder.parent / "empty")
    with pytest.raises(ValueError, match="there is no gone; give features"):
        check_shared("gone", OneProcess())


def test_ctrl_c_stays_ctrl_c_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_writer._RowsPlanner, "resolve_data", stop)
    with pytest.raises(KeyboardInterrupt):
        save_rows(tmp_path / "out", H, LABELS)
    assert list(tmp_path.iterdir()) == []


def test_an_error_without_a_word_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(checkpoint_writer._RowsPlanner, "resolve_data", fail)
    with pytest.raises(ValueError, match=r"cannot write .*out: process 0 failed: MemoryError"):
        save_rows(tmp_path / "out", H, LABELS)


def test_a_result_may_lie_in_the_folder_and_be_written_again(folder: Path) -> None:
    (folder / "notes.txt").write_text("ours")
    assert CheckpointRows.of(folder).files() == tuple(str(folder / name) for name in (".metadata", "__0_0.distcp"))


def test_a_damaged_description_is_refused_or_read(folder: Path) -> None:
    path = folder / ".metadata"
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            load_rows(folder)
        except ValueError:
            refused += 1
    assert refused > len(whole) / 12


def described(folder: Path, name: str, value: Any) -> None:
    """Change an attribute of the description."""
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    setattr(metadata, name, value)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def test_a_description_without_places_or_of_files_elsewhere(folder: Path, capsys: pytest.CaptureFixture) -> None:
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    for place in metadata.storage_data.values():
        place.relative_path = "/dev/zero"
    described(folder, "storage_data", metadata.storage_data)
    with pytest.raises(ValueError, match=r"\.metadata: it asks for /dev/zero, outside its folder"):
        load_rows(folder)
    described(folder, "storage_data", None)
    assert main(["--features", str(folder)]) == 2
    assert "does not say where its tensors lie" in capsys.readouterr().err


def test_a_model_of_many_tensors_is_told_in_a_line(folder: Path) -> None:
    described(folder, "state_dict_metadata", {f"layer{k:02}": None for k in range(99)})
    with pytest.raises(ValueError, match=r"it has: layer00, .*, layer07, \.\.\.$"):
        load_rows(folder)


def test_rows_that_do_not_fit_into_memory_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ufm.files.archive.free_memory", lambda: 1000)
    with pytest.raises(ValueError, match=r"saved: features has .* memory free; read blocks of it .*, or start more processes"):
        checkpoint.load_rows(folder)


def test_memory_maps_and_strided_tensors_are_saved(tmp_path: Path) -> None:
    np.save(tmp_path / "h.npy", H)
    wide = torch.from_numpy(np.repeat(H, 2, 1))
    for name, given in (("map", np.load(tmp_path / "h.npy", mmap_mode="r")), ("strided", wide[:, ::2])):
        save_rows(tmp_path / name, given, LABELS)
        assert load_rows(tmp_path / name)[0].tobytes() == H.tobytes()
        assert sum(os.path.getsize(file) for file in CheckpointRows.of(tmp_path / name).files()) < 3 * H.nbytes
