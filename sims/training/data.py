"""Datasets as the experiments use them: read, balanced by subsampling, padded, normalised; reproducible from a seed."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sims.training.archives import SUFFIXES, is_archive, unpacked
from sims.training.cache import cached
from sims.training.digits import digits_table
from sims.training.progress import with_progress
from sims.training.readers import DATASETS, JPEG, NORMALIZATIONS, DataChoice, Split, read_folder
from ufm.files.store import load_arrays, save_arrays

DIGITS_TEST_SHARE = 0.2  # the digits come without an official split
DIGITS_SPLIT_SEED = 0  # which digits are the test set is part of the dataset, not of a run
IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "labels")


@dataclass(frozen=True, eq=False)
class Normalizer:
    """(x - mean) / deviation in float32, statistics of the training set, each (channels, h, w) or (channels, 1, 1)."""

    mean: Tensor
    deviation: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Images (b, channels, h, w) uint8 to what the network takes."""
        return images.float().sub_(self.mean).div_(self.deviation)  # a copy already: in place, the same bits

    def to(self, device: torch.device) -> "Normalizer":
        """The same on a device."""
        return Normalizer(self.mean.to(device), self.deviation.to(device))


@dataclass(frozen=True, eq=False)
class Encoded:
    """A split of a Hugging Face dataset whose images, in the column `image` of `table`, are decoded when rows are taken.

    What is decoded stays in the cache under the SHA-256 of the encoded bytes; processes that ask at once decode once.
    """

    table: Any
    image: str
    labels: np.ndarray
    quiet: bool = True

    def rows(self, indices: np.ndarray) -> Split:
        """Some of the examples, decoded."""
        chosen = self.table.select(indices)
        folder = cached("decoded", self._digest(chosen), lambda made: save_arrays(made / "images.npz", self._decoded(chosen)))
        return Split(load_arrays(folder / "images.npz")["images"], self.labels[indices])

    def _decoded(self, chosen: Any) -> dict[str, np.ndarray]:
        rows = with_progress(chosen, "decoding", "images", self.quiet, len(chosen))
        pixels = np.stack([np.asarray(row[self.image], dtype=np.uint8) for row in rows])
        if pixels.ndim == 3:
            pixels = pixels[..., None]
        return {"images": np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))}

    def _digest(self, chosen: Any) -> str:
        """Of the encoded images in their order, and of what decodes them."""
        from datasets import Image
        from PIL import __version__

        digest = hashlib.sha256(__version__.encode())
        if isinstance(chosen.features[self.image], Image):
            chosen = chosen.cast_column(self.image, Image(decode=False))
        for row in with_progress(chosen, "reading", "images", self.quiet, len(chosen)):
            value = row[self.image]
            if isinstance(value, dict):
                content = value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
            else:  # arrays, not encoded
                content = np.ascontiguousarray(value, dtype=np.uint8).tobytes()
            digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Data:
    """Training and test split, padded, with the normaliser of the training set and the number of classes."""

    train: Split
    test: Split
    normalizer: Normalizer
    classes: int

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all images and labels, in hexadecimal: the same wherever the files lie."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            for array in (split.images, split.labels):
                digest.update(str((array.dtype, array.shape)).encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def load(choice: DataChoice, quiet: bool = True) -> Data:
    """The data of a run. Raises ValueError for missing files, bad files, too few examples a class, or images too large to pad.

    Unless `quiet`, a terminal is shown how far slow preparations are.
    """
    train, test = read(choice, quiet)
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    rng = np.random.default_rng(choice.seed)
    train = balanced(train, choice.per_class, classes, rng, "training")
    test = balanced(test, choice.test_per_class, classes, rng, "test")
    if choice.random_labels:
        train = Split(train.images, rng.permutation(train.labels))
    if train.images.shape[1:] != test.images.shape[1:]:
        raise ValueError(f"training images are {train.images.shape[1:]} and test images {test.images.shape[1:]}")
    padding = _padding(train.images.shape[-2:], choice.pad_to)
    normalizer = normalizer_of(train.images, choice.normalization, padding)
    return Data(_padded(train, padding), _padded(test, padding), normalizer, classes)


def read(choice: DataChoice, quiet: bool = True) -> "tuple[Split | Encoded, Split | Encoded]":
    """Both splits as published."""
    if choice.folder is not None and choice.hub is not None:
        raise ValueError("the data comes from a folder or from the hub, not from both")
    if choice.hub is not None:
        return from_hub(choice.hub, quiet)
    if choice.dataset == "digits":
        return digits()
    if choice.dataset not in DATASETS:
        raise ValueError(f"no dataset is called {choice.dataset!r}; there are {', '.join(DATASETS)}")
    if choice.folder is None:
        files = "folders train/CLASS and test/CLASS" if choice.dataset == JPEG else "official files"
        raise ValueError(
            f"{choice.dataset} is not embedded: say where its {files} are, or an archive of them (data_dir), or its name (hub)"
        )
    folder = _folder(Path(choice.folder), quiet)
    return from_hub(str(folder), quiet) if choice.dataset == JPEG else read_folder(choice.dataset, folder)


def _folder(path: Path, quiet: bool) -> Path:
    """A folder as it is, or that of an archive."""
    if path.is_file() and not is_archive(path):
        raise ValueError(f"{path} is neither a folder nor an archive ({', '.join(SUFFIXES)})")
    return unpacked(path, quiet) if is_archive(path) else path


def digits() -> tuple[Split, Split]:
    """The 1797 handwritten digits of scikit-learn (8x8, values 0..16), every fifth of a class for the test."""
    table = digits_table()
    everything = Split(np.ascontiguousarray(table[:, :-1]).reshape(-1, 1, 8, 8), table[:, -1].astype(np.int64))
    rng = np.random.default_rng(DIGITS_SPLIT_SEED)
    test = np.zeros(len(everything), dtype=bool)
    for c in range(10):
        members = np.flatnonzero(everything.labels == c)
        test[rng.choice(members, int(DIGITS_TEST_SHARE * len(members)), replace=False)] = True
    return everything.rows(np.flatnonzero(~test)), everything.rows(np.flatnonzero(test))


def from_hub(name: str, quiet: bool = True) -> "tuple[Encoded, Encoded]":
    """Train and test split, still encoded, of a Hugging Face dataset, by name or local folder."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ValueError("named datasets need the library datasets: pip install 'neural-collapse-flow[train]'") from error
    try:
        dataset: Any = load_dataset(name)
    except Exception as error:  # the library raises its own and those of every transport below it
        raise ValueError(f"cannot load the dataset {name!r}: {type(error).__name__}: {error}") from error
    missing = [split for split in ("train", "test") if split not in dataset]
    if missing:
        raise ValueError(f"{name} has no split {missing[0]!r}; it has: {', '.join(dataset)}")
    return _hub_split(dataset["train"], name, quiet), _hub_split(dataset["test"], name, quiet)


def balanced(split: "Split | Encoded", per_class: int | None, classes: int, rng: np.random.Generator, what: str) -> Split:
    """`per_class` random examples of every class in their original order, or everything where it is None.

    Raises ValueError for a class without that many, or without any.
    """
    counts = np.bincount(split.labels, minlength=classes)
    wanted = 1 if per_class is None else per_class
    if wanted < 1:
        raise ValueError(f"{per_class} examples a class: at least 1 is needed")
    if counts.min() < wanted:
        c = int(counts.argmin())
        raise ValueError(
            f"class {c} has {counts[c]} {what} examples, {wanted} a class are needed: ask for at most {counts.min()}"
        )
    if per_class is None:
        return split.rows(np.arange(len(split.labels))) if isinstance(split, Encoded) else split
    kept = [rng.choice(np.flatnonzero(split.labels == c), per_class, replace=False) for c in range(classes)]
    return split.rows(np.sort(np.concatenate(kept)))


def normalizer_of(images: np.ndarray, normalization: str, padding: tuple[int, int, int, int]) -> Normalizer:
    """Mean and deviation of every channel, or of every pixel, before padding. Padded (and constant) pixels divide by 1.

    By channel, the padding then has the value of black, as padding before torchvision's Normalize gives; by pixel it is 0.
    """
    if normalization == "channel":
        pixels = images.astype(np.float64).transpose(1, 0, 2, 3).reshape(images.shape[1], -1)
        mean, deviation = pixels.mean(1)[:, None, None], pixels.std(1)[:, None, None]
    elif normalization == "pixel":
        frame = ((0, 0), padding[:2], padding[2:])
        mean = np.pad(images.mean(0, dtype=np.float64), frame)
        deviation = np.pad(images.std(0, dtype=np.float64), frame)
    else:
        raise ValueError(f"normalization = {normalization!r}: it is one of {', '.join(NORMALIZATIONS)}")
    deviation = np.where(deviation > 0, deviation, 1.0)
    return Normalizer(torch.from_numpy(mean).float(), torch.from_numpy(deviation).float())


def _padding(sides: tuple[int, ...], pad_to: int | None) -> tuple[int, int, int, int]:
    """Zeros (top, bottom, left, right) to a square of the side asked for."""
    if pad_to is None:
        return 0, 0, 0, 0
    height, width = sides
    if max(height, width) > pad_to:
        raise ValueError(f"images of {height} x {width} cannot be padded to {pad_to}: ask for at least {max(height, width)}")
    top, left = (pad_to - height) // 2, (pad_to - width) // 2
    return top, pad_to - height - top, left, pad_to - width - left


def _padded(split: Split, padding: tuple[int, int, int, int]) -> Split:
    return Split(np.pad(split.images, ((0, 0), (0, 0), padding[:2], padding[2:])), split.labels)


def _hub_split(rows: Any, name: str, quiet: bool) -> "Encoded":
    columns = rows.column_names
    image = next((column for column in IMAGE_COLUMNS if column in columns), None)
    label = next((column for column in LABEL_COLUMNS if column in columns), None)
    if image is None or label is None:
        raise ValueError(f"{name} needs a column of images and one of labels; it has: {', '.join(columns)}")
    labels = np.asarray(rows[label], dtype=np.int64)
    if labels.min() < 0:
        raise ValueError(f"{name} has unlabelled examples (label {labels.min()})")
    return Encoded(rows, image, labels, quiet)
