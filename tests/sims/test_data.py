"""Official formats written byte by byte and read back; balance, padding, normalisation; every bad file has its error."""

import contextlib
import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

from sims.training import data, readers
from sims.training.data import DataChoice, balanced, load, normalizer_of
from sims.training.readers import Split

RNG = np.random.default_rng(5)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder: Path, per_class: int = 3, gz: bool = False, side: tuple[int, int] = (5, 7)) -> dict[str, np.ndarray]:
    written = {}
    for prefix in ("train", "t10k"):
        labels = RNG.permutation(np.repeat(np.arange(10, dtype=np.uint8), per_class))
        images = RNG.integers(0, 256, (len(labels), *side), dtype=np.uint8)
        for name, array in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
            written[name] = array
            (folder / f"{name}{'.gz' * gz}").write_bytes(gzip.compress(idx(array)) if gz else idx(array))
    return written


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("dataset", ["mnist", "fashionmnist"])
def test_idx_files_are_read_as_written(tmp_path: Path, gz: bool, dataset: str) -> None:
    written = write_mnist(tmp_path, gz=gz)
    train, test = readers.read_folder(dataset, tmp_path)
    np.testing.assert_array_equal(train.images[:, 0], written["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(test.labels, written["t10k-labels-idx1-ubyte"])
    assert train.labels.dtype == np.int64


def test_cifar_batches_are_read_as_written(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (6, 2, 3, 32, 32), dtype=np.uint8)
    for k, name in enumerate([*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]):
        (tmp_path / name).write_bytes(b"".join(bytes([k + j]) + image.tobytes() for j, image in enumerate(images[k])))
    train, test = readers.read_folder("cifar10", tmp_path)
    np.testing.assert_array_equal(train.images, images[:5].reshape(10, 3, 32, 32))
    np.testing.assert_array_equal(train.labels, [0, 1, 1, 2, 2, 3, 3, 4, 4, 5])
    np.testing.assert_array_equal(test.images, images[5])


def test_svhn_files_are_read_as_written_and_ten_is_the_digit_zero(tmp_path: Path) -> None:
    X = RNG.integers(0, 256, (32, 30, 3, 4), dtype=np.uint8)
    for name in ("train_32x32.mat", "test_32x32.mat"):
        savemat(tmp_path / name, {"X": X, "y": np.array([[10], [1], [9], [10]], dtype=np.uint8)})
    train, _ = readers.read_folder("svhn", tmp_path)
    assert train.images.shape == (4, 3, 32, 30)
    assert train.images[2, 1, 31, 4] == X[31, 4, 1, 2]
    np.testing.assert_array_equal(train.labels, [0, 1, 9, 0])


def test_stl10_files_are_read_column_by_column(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (2, 3, 96, 96), dtype=np.uint8)  # image, channel, column, row
    for name in ("train", "test"):
        (tmp_path / f"{name}_X.bin").write_bytes(pixels.tobytes())
        (tmp_path / f"{name}_y.bin").write_bytes(bytes([10, 1]))
    train, _ = readers.read_folder("stl10", tmp_path)
    assert train.images[1, 2, 17, 80] == pixels[1, 2, 80, 17]
    np.testing.assert_array_equal(train.labels, [9, 0])


def bad_files(folder: Path) -> dict[str, tuple[object, str]]:
    """What is wrong, the reader to call, and the message that it must give."""

    def file(name: str, content: bytes) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    whole = idx(np.zeros((3, 2, 2), dtype=np.uint8))
    savemat(folder / "y.mat", {"X": np.zeros((2, 2, 3, 1), dtype=np.uint8), "y": [[11]]})
    savemat(folder / "empty.mat", {"z": [1]})
    savemat(folder / "float.mat", {"X": np.zeros((2, 2, 3, 1)), "y": [[1]]})
    stl = file("X.bin", bytes(3 * 96 * 96))
    return {
        "empty": (
            lambda: readers.read_idx_pair(file("e", idx(np.zeros((0, 2, 2), np.uint8))), file("l0", idx(np.zeros(0, np.uint8)))),
            "holds no examples",
        ),
        "absent": (lambda: readers.read_idx(folder / "absent"), "No such file"),
        "header": (lambda: readers.read_idx(file("h", b"\1\2\3\4junk")), "header 01 02 03 04"),
        "floats": (lambda: readers.read_idx(file("f", b"\0\0\x0d\1" + whole[4:])), "00 00 08"),
        "short": (lambda: readers.read_idx(file("s", whole[:-1])), r"announces 12 bytes of shape \(3, 2, 2\) and holds 11"),
        "long": (lambda: readers.read_idx(file("l", whole + b"\0")), "holds 13"),
        "tiny": (lambda: readers.read_idx(file("t", b"\0")), "header 00"),
        "gzip": (lambda: readers.read_idx(file("g.gz", gzip.compress(whole)[:-9])), "not a whole gzip"),
        "no gzip": (lambda: readers.read_idx(file("n.gz", whole)), "not a whole gzip"),
        "pair": (
            lambda: readers.read_idx_pair(file("i", whole), file("j", idx(np.zeros(2, dtype=np.uint8)))),
            r"\(3, 2, 2\) and \(2,\)",
        ),
        "label": (
            lambda: readers.read_idx_pair(file("i", whole), file("j", idx(np.array([0, 10, 3], dtype=np.uint8)))),
            r"labels run from 0 to 10, outside 0\.\.9",
        ),
        "cifar size": (lambda: readers.read_cifar10([file("c", bytes(3074))]), "3074 bytes, not a positive multiple of 3073"),
        "cifar label": (lambda: readers.read_cifar10([file("c", b"\x0b" + bytes(3072))]), "labels run from 11 to 11"),
        "mat": (lambda: readers.read_svhn(file("m.mat", b"not matlab" * 30)), "MATLAB v5"),
        "mat cut": (lambda: readers.read_svhn(file("k.mat", (folder / "y.mat").read_bytes()[:150])), "MATLAB v5"),
        "mat label": (lambda: readers.read_svhn(folder / "y.mat"), "labels run from 11 to 11"),
        "mat names": (lambda: readers.read_svhn(folder / "empty.mat"), "it has: z"),
        "mat type": (lambda: readers.read_svhn(folder / "float.mat"), "float64"),
        "stl size": (lambda: readers.read_stl10(stl, file("y.bin", b"\1\2")), "2 labels: 27648 bytes a label"),
        "stl label": (lambda: readers.read_stl10(stl, file("y.bin", b"\0")), "labels run from 0 to 0"),
        "folder": (lambda: readers.read_folder("svhn", folder), "none of train_32x32.mat"),
        "name": (lambda: readers.read_folder("imagenet", folder), "mnist, fashionmnist, cifar10"),
    }


@pytest.mark.parametrize("what", [
    "absent", "header", "floats", "short", "long", "tiny", "gzip", "no gzip", "pair", "label", "cifar size", "cifar label",
    "mat", "mat cut", "mat label", "mat names", "mat type", "stl size", "stl label", "folder", "name",
])  # fmt: skip
def test_bad_files_have_their_errors(tmp_path: Path, what: str) -> None:
    cases = bad_files(tmp_path)
    call, message = cases[what]
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


def test_the_embedded_digits_are_those_of_scikit_learn_split_once() -> None:
    from sklearn.datasets import load_digits

    train, test = data.digits()
    everything: Any = load_digits()
    assert len(train) + len(test) == 1797
    rows = {image.tobytes() for split in (train, test) for image in split.images}
    assert rows == {image.astype(np.uint8).tobytes() for image in everything.images}
    np.testing.assert_array_equal(np.bincount(test.labels), np.bincount(everything.target) // 5)
    again, _ = data.digits()
    np.testing.assert_array_equal(train.images, again.images)
    assert not {image.tobytes() for image in train.images} & {image.tobytes() for image in test.images}


@given(st.integers(2, 5), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_balanced_subsamples_have_equal_classes_and_their_own_labels(C: int, wanted: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(C), rng.integers(wanted, wanted + 5, C)))
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    subset = balanced(Split(images, labels), wanted, C, np.random.default_rng(seed), "training")
    np.testing.assert_array_equal(np.bincount(subset.labels, minlength=C), wanted)
    assert len(np.unique(subset.images)) == len(subset)
    np.testing.assert_array_equal(labels[subset.images[:, 0, 0, 0]], subset.labels)


def test_too_few_examples_are_counted() -> None:
    split = Split(np.zeros((5, 1, 2, 2), np.uint8), np.array([0, 0, 0, 1, 1]))
    with pytest.raises(ValueError, match="class 1 has 2 test examples, 3 a class are needed: ask for at most 2"):
        balanced(split, 3, 2, np.random.default_rng(0), "test")
    with pytest.raises(ValueError, match="class 2 has 0 test examples, 1 a class are needed"):
        balanced(split, None, 3, np.random.default_rng(0), "test")
    with pytest.raises(ValueError, match="0 examples a class"):
        balanced(split, 0, 2, np.random.default_rng(0), "test")


@given(st.integers(1, 3), st.integers(2, 4), st.integers(5, 6), st.integers(0, 99))
def test_normalisation_by_channel_and_by_pixel(channels: int, height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (40, channels, height, width), dtype=np.uint8)
    images[:, :, 0, 1] = 7  # a constant pixel
    frame = (1, 2, 0, 3)
    padded = torch.from_numpy(np.pad(images, ((0, 0), (0, 0), frame[:2], frame[2:])))
    inside = (slice(None), slice(None), slice(1, 1 + height), slice(0, width))
    by_channel = normalizer_of(images, "channel", frame)(padded)[inside].double()
    assert abs(by_channel.mean((0, 2, 3))).max() < 1e-6
    assert abs(by_channel.std((0, 2, 3), correction=0) - 1).max() < 1e-6
    by_pixel = normalizer_of(images, "pixel", frame)(padded).double()
    assert abs(by_pixel.mean(0)).max() < 1e-5
    deviation = by_pixel[inside].std(0, correction=0)
    assert not deviation[:, 0, 1].any()
    deviation[:, 0, 1] = 1
    assert abs(deviation - 1).max() < 1e-5
    by_pixel[inside] = 0
    assert not by_pixel.any()


def test_a_run_gets_padded_balanced_reproducible_data(tmp_path: Path) -> None:
    write_mnist(tmp_path, per_class=4)
    choice = DataChoice("mnist", folder=str(tmp_path), per_class=3, test_per_class=2, pad_to=12, seed=1)
    data, again = load(choice), load(choice)
    assert data.train.images.shape == (30, 1, 12, 12)
    assert len(data.test) == 20
    np.testing.assert_array_equal(data.train.images, again.train.images)
    inside = data.train.images[:, :, 3:8, 2:9]
    assert inside.sum() == data.train.images.sum()
    random = load(DataChoice("mnist", folder=str(tmp_path), per_class=3, test_per_class=2, pad_to=12, seed=1, random_labels=True))
    np.testing.assert_array_equal(random.train.images, data.train.images)
    assert (random.train.labels != data.train.labels).any()
    np.testing.assert_array_equal(np.bincount(random.train.labels), np.bincount(data.train.labels))
    np.testing.assert_array_equal(random.test.labels, data.test.labels)


def test_choices_that_make_no_sense(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    folder = str(tmp_path)
    for choice, message in (
        (DataChoice("mnist", folder=folder, pad_to=6), "5 x 7 cannot be padded to 6: ask for at least 7"),
        (DataChoice("mnist", folder=folder, normalization="row"), "'row': it is one of channel, pixel"),
        (DataChoice("mnist"), "data_dir"),
        (DataChoice("mnist", folder=folder, hub="mnist"), "not from both"),
        (DataChoice("cifar10-jpeg"), r"its folders train/CLASS and test/CLASS are, .*\(hub\)"),
        (DataChoice("mnist", folder=f"{folder}/t10k-images-idx3-ubyte"), "neither a folder nor an archive"),
        (DataChoice("letters"), "'letters'; there are digits, mnist"),
        (DataChoice("mnist", hub=str(tmp_path / "absent")), "cannot load the dataset"),
    ):
        with pytest.raises(ValueError, match=message):
            load(choice)


def test_hugging_face_datasets_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import Dataset, Features, Image, Value, config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "decoded"))

    written = {}
    for name in ("train", "test"):
        images = RNG.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
        written[name] = images
        columns = Features({"img": Image(), "label": Value("int64")})
        rows = Dataset.from_dict({"img": list(images), "label": [0, 1, 2, 0, 1, 2]}, features=columns)
        rows.to_parquet(tmp_path / f"{name}.parquet")
    train, test = (split.rows(np.arange(6)) for split in data.from_hub(str(tmp_path)))
    np.testing.assert_array_equal(train.images, written["train"].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(test.images[:, 1], written["test"][..., 1])
    np.testing.assert_array_equal(test.labels, [0, 1, 2, 0, 1, 2])


def test_a_folder_of_jpegs_is_read_with_its_classes_in_alphabetical_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import config
    from PIL import Image

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "decoded"))
    for split in ("train", "test"):
        for value, name in ((40, "airplane"), (200, "truck")):
            (tmp_path / "jpeg" / split / name).mkdir(parents=True)
            for k in range(2):  # other bytes in each split
                picture = Image.new("RGB", (32, 32), (value, value, value))
                picture.save(tmp_path / "jpeg" / split / name / f"{k}.jpg", quality=75 + 10 * (split == "test"))
    decoded = []
    monkeypatch.setattr(data.np, "stack", lambda pictures: decoded.append(len(pictures)) or np.array(pictures))
    few = load(DataChoice("cifar10-jpeg", hub=str(tmp_path / "jpeg"), per_class=1, test_per_class=1))
    assert decoded == [2, 2]  # what is not chosen is not decoded
    again = load(DataChoice("cifar10-jpeg", hub=str(tmp_path / "jpeg"), per_class=1, test_per_class=1))
    assert decoded == [2, 2]  # nor what has been decoded
    assert again.fingerprint == few.fingerprint
    stored = load(DataChoice("cifar10-jpeg", hub=str(tmp_path / "jpeg")))
    assert len(few.train) == len(few.test) == 2
    np.testing.assert_array_equal(few.train.images[:, 0, 0, 0], np.array([40, 200])[few.train.labels])
    for part in (stored.train, stored.test):
        assert part.images.shape == (4, 3, 32, 32)
        np.testing.assert_array_equal(np.sort(part.labels), [0, 0, 1, 1])
        np.testing.assert_array_equal(part.images[:, 0, 0, 0], np.array([40, 200])[part.labels])


def test_a_matlab_file_that_crashes_its_parser_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MATLAB_PARSER", "import os; os.kill(os.getpid(), 11)")
    with pytest.raises(ValueError, match=r"cannot read .*train_32x32.mat as a MATLAB v5 file: its parser died of signal 11"):
        readers.read_svhn(tmp_path / "train_32x32.mat")


@pytest.mark.parametrize("system", ["with", "without"])
def test_a_matlab_file_takes_no_more_memory_than_one_of_its_size_may_need(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if system == "without":  # limits, as some systems are
        without = "import sys; sys.modules['resource'] = None\n"
        monkeypatch.setattr(readers, "MATLAB_PARSER", without + readers.MATLAB_PARSER.replace("/proc", "/nowhere"))
    X = np.zeros((32, 32, 3, 10_000), dtype=np.uint8)  # 31 MB in 30 kB
    savemat(tmp_path / "x.mat", {"X": X, "y": np.ones((10_000, 1), dtype=np.uint8)}, do_compression=True)
    monkeypatch.setattr(readers, "PARSER_MEMORY", 1 << 24)
    with pytest.raises(ValueError, match=r"cannot read .*x.mat as a MATLAB v5 file: it needs more than the 16 MiB that"):
        readers.read_svhn(tmp_path / "x.mat")


def test_of_a_matlab_file_nothing_but_the_images_and_labels_is_read(tmp_path: Path) -> None:
    X, y = np.arange(4 * 4 * 3 * 5, dtype=np.uint8).reshape(4, 4, 3, 5), np.array([[10], [1], [9], [10], [2]], dtype=np.uint8)
    savemat(tmp_path / "x.mat", {"file": [[1]], "X": X, "y": y})
    assert readers.read_svhn(tmp_path / "x.mat").labels.tolist() == [0, 1, 9, 0, 2]


@pytest.mark.parametrize("seed", range(6))
def test_a_flipped_bit_of_a_matlab_file_is_an_error_or_without_meaning_for_its_form(seed: int, tmp_path: Path) -> None:
    X = np.arange(4 * 4 * 3 * 5, dtype=np.uint8).reshape(4, 4, 3, 5)
    savemat(tmp_path / "x.mat", {"X": X, "y": np.array([[10], [1], [9], [10], [2]], dtype=np.uint8)})
    damaged = bytearray((tmp_path / "x.mat").read_bytes())
    damaged[128 + 7 * seed] ^= 1 << seed  # in the tags and dimensions of the first array
    (tmp_path / "x.mat").write_bytes(damaged)
    with contextlib.suppress(ValueError):
        data = readers.read_svhn(tmp_path / "x.mat")
        assert (data.images.shape, data.images.dtype) == ((5, 3, 4, 4), np.uint8)
