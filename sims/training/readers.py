"""Official data files read as they are published, nothing unpickled: idx, CIFAR-10 binary, SVHN .mat (v5), STL10 .bin.

Every reader returns images (n, channels, side, side) uint8 and labels (n,) int64 in 0..C-1, and raises ValueError with the file
and the violated number for a bad header, a truncated file, or a label out of range.
"""

import gzip
import math
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ufm.files.archive import check_memory
from ufm.files.store import load_arrays

CLASSES = 10
IDX_UBYTE = 0x08  # the idx type code of unsigned bytes
MATLAB_NAMES = ("X", "y")  # of SVHN's files; nothing else in them is read
PARSER_MEMORY = 1 << 27  # bytes that the parser of a .mat file may always take beyond its libraries
PARSER_BYTES = 8  # that it may take for every byte of the file: photographs hardly compress, and it holds them three times
MATLAB_PARSER = """
import os
import sys
import threading
import time
import tracemalloc
import numpy as np
from scipy.io import loadmat, whosmat
path, out, memory, *names = sys.argv[1:]
reason = f"it needs more than the {int(memory) >> 20} MiB that a file of its size may"
def watch():  # limits of the system are not on every one, and count what threads merely reserve
    while tracemalloc.get_traced_memory()[1] <= int(memory):
        time.sleep(0.005)
    os.write(2, reason.encode())
    os._exit(1)
tracemalloc.start()
threading.Thread(target=watch, daemon=True).start()
try:
    stored = [name for name, *_ in whosmat(path)]
    if not set(names) <= set(stored):
        sys.exit(f"it needs the variables {' and '.join(names)}; it has: {', '.join(stored) or 'none'}")
    arrays = {name: loadmat(path, variable_names=[name])[name] for name in names}
    if tracemalloc.get_traced_memory()[1] > int(memory):  # since the last look
        sys.exit(reason)
    if any(array.dtype.hasobject for array in arrays.values()):
        sys.exit("its variables are no arrays of numbers")
    np.savez(out, **arrays)
except MemoryError:
    sys.exit(reason)
except Exception as error:
    sys.exit(str(error) or type(error).__name__)
"""


@dataclass(frozen=True, eq=False)
class Split:
    """Images (n, channels, height, width) uint8 with their labels (n,) int64."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, indices: np.ndarray) -> "Split":
        """Some of the examples."""
        return Split(self.images[indices], self.labels[indices])


def read_idx(path: Path) -> np.ndarray:
    """The array of an idx file of unsigned bytes, plain or gzipped (http://yann.lecun.com/exdb/mnist)."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read(4)
            dimensions = raw[3] if len(raw) == 4 else 0
            sizes = file.read(4 * dimensions)
            if len(sizes) < 4 * dimensions or raw[:2] != b"\0\0" or raw[2] != IDX_UBYTE or not dimensions:
                raise ValueError(f"{path} has the header {raw.hex(' ')}, an idx file of unsigned bytes starts with 00 00 08")
            shape = tuple(int(size) for size in np.frombuffer(sizes, dtype=">u4"))
            expected = math.prod(shape)
            check_memory({str(path): expected})
            values = file.read(expected + 1)  # of a file that goes on for ever no more is read
    except (OSError, EOFError, zlib.error) as error:
        what = "is not a whole gzip file" if path.suffix == ".gz" else "cannot be read"
        raise ValueError(f"{path} {what}: {error}") from error
    if len(values) != expected:
        more = "more" if path.suffix == ".gz" else path.stat().st_size - 4 - len(sizes)
        held = more if len(values) > expected else len(values)
        raise ValueError(f"{path} announces {expected} bytes of shape {shape} and holds {held}")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def read_idx_pair(images: Path, labels: Path) -> Split:
    """A split of MNIST or Fashion-MNIST."""
    pixels, classes = read_idx(images), read_idx(labels)
    if pixels.ndim != 3 or classes.shape != pixels.shape[:1]:
        raise ValueError(
            f"{images} and {labels} hold arrays of shapes {pixels.shape} and {classes.shape}, not (n, h, w) and (n,)"
        )
    return _checked_split(pixels[:, None], classes, labels)


def read_cifar10(paths: list[Path]) -> Split:
    """Batches of CIFAR-10, binary version: records of one label and 3072 pixels, channel by channel."""
    record = 1 + 3 * 32 * 32
    parts = []
    for path in paths:
        raw = np.frombuffer(_bytes(path), dtype=np.uint8)
        if not len(raw) or len(raw) % record:
            raise ValueError(f"{path} has {len(raw)} bytes, not a positive multiple of {record}: not a CIFAR-10 binary batch")
        parts.append(raw.reshape(-1, record))
    records = np.concatenate(parts)
    return _checked_split(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0], paths[0])


def read_svhn(path: Path) -> Split:
    """SVHN's cropped digits, MATLAB v5: X (32, 32, 3, n), y (n, 1) with 10 for the digit 0."""
    arrays = _matlab_arrays(path)
    X, y = arrays["X"], arrays["y"].reshape(-1)
    if X.ndim != 4 or X.shape[2] != 3 or X.shape[3] != len(y) or X.dtype != np.uint8:
        raise ValueError(f"{path}: X is {X.dtype} {X.shape} with {len(y)} labels, expected uint8 (height, width, 3, {len(y)})")
    if len(y) and not 1 <= y.min() <= y.max() <= CLASSES:
        raise ValueError(f"{path}: labels run from {y.min()} to {y.max()}, SVHN's from 1 to {CLASSES}")
    return _checked_split(np.ascontiguousarray(X.transpose(3, 2, 0, 1)), y.astype(np.int64) % CLASSES, path)


def _matlab_arrays(path: Path) -> dict[str, np.ndarray]:
    """X and y of a MATLAB v5 file, parsed in a process of its own with a limit on memory: a damaged file can crash scipy's."""
    memory = PARSER_MEMORY + PARSER_BYTES * (path.stat().st_size if path.exists() else 0)
    with tempfile.TemporaryDirectory() as folder:
        call = [sys.executable, "-c", MATLAB_PARSER, str(path), folder + "/arrays.npz", str(memory), *MATLAB_NAMES]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = next(reversed(done.stderr.splitlines()), f"its parser died of signal {-done.returncode}")
            raise ValueError(f"cannot read {path} as a MATLAB v5 file: {reason}")
        return load_arrays(folder + "/arrays.npz")


def read_stl10(images: Path, labels: Path) -> Split:
    """STL10: 3 x 96 x 96 bytes an image, each channel column by column; labels 1..10."""
    size = 3 * 96 * 96
    pixels, y = np.frombuffer(_bytes(images), dtype=np.uint8), np.frombuffer(_bytes(labels), dtype=np.uint8)
    if not len(y) or len(pixels) != size * len(y):
        raise ValueError(f"{images} has {len(pixels)} bytes and {labels} {len(y)} labels: {size} bytes a label are needed")
    if not 1 <= y.min() <= y.max() <= CLASSES:
        raise ValueError(f"{labels}: labels run from {y.min()} to {y.max()}, STL10's from 1 to {CLASSES}")
    columns_first = pixels.reshape(-1, 3, 96, 96)
    return _checked_split(np.ascontiguousarray(columns_first.transpose(0, 1, 3, 2)), y.astype(np.int64) - 1, labels)


def _mnist(folder: Path) -> tuple[Split, Split]:
    def pair(prefix: str) -> Split:
        images = _first(folder, f"{prefix}-images-idx3-ubyte", f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-images.idx3-ubyte")
        labels = _first(folder, f"{prefix}-labels-idx1-ubyte", f"{prefix}-labels-idx1-ubyte.gz", f"{prefix}-labels.idx1-ubyte")
        return read_idx_pair(images, labels)

    return pair("train"), pair("t10k")


def _cifar10(folder: Path) -> tuple[Split, Split]:
    train = [_first(folder, f"data_batch_{k}.bin", f"cifar-10-batches-bin/data_batch_{k}.bin") for k in range(1, 6)]
    return read_cifar10(train), read_cifar10([_first(folder, "test_batch.bin", "cifar-10-batches-bin/test_batch.bin")])


def _svhn(folder: Path) -> tuple[Split, Split]:
    return read_svhn(_first(folder, "train_32x32.mat")), read_svhn(_first(folder, "test_32x32.mat"))


def _stl10(folder: Path) -> tuple[Split, Split]:
    def pair(name: str) -> Split:
        images, labels = (f"{name}_{part}.bin" for part in ("X", "y"))
        return read_stl10(
            _first(folder, images, f"stl10_binary/{images}"),
            _first(folder, labels, f"stl10_binary/{labels}"),
        )

    return pair("train"), pair("test")


READERS: dict[str, Callable[[Path], tuple[Split, Split]]] = {
    "mnist": _mnist,
    "fashionmnist": _mnist,
    "cifar10": _cifar10,
    "svhn": _svhn,
    "stl10": _stl10,
}


JPEG = "cifar10-jpeg"  # CIFAR-10 after lossy compression: not the published images, so never under their name
DATASETS = ("digits", *READERS, JPEG)
NORMALIZATIONS = ("channel", "pixel")


@dataclass(frozen=True)
class DataChoice:
    """Which data, and what is done to it.

    `folder` has the official files, or is an archive of such a folder; `hub` names a Hugging Face dataset instead.
    """

    dataset: str
    folder: str | None = None
    hub: str | None = None
    per_class: int | None = None
    test_per_class: int | None = None
    pad_to: int | None = None
    normalization: str = "channel"
    random_labels: bool = False
    seed: int = 0


def read_folder(dataset: str, folder: Path) -> tuple[Split, Split]:
    """Train and test split of a dataset from a folder with its official files. Raises ValueError for what is missing or bad."""
    if dataset not in READERS:
        raise ValueError(f"no files are known for {dataset!r}; there are {', '.join(READERS)}")
    return READERS[dataset](folder)


def _first(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise ValueError(f"{folder} has none of {', '.join(names)}")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error


def _checked_split(images: np.ndarray, labels: np.ndarray, path: Path) -> Split:
    if not len(labels):
        raise ValueError(f"{path} holds no examples")
    if not 0 <= int(labels.min()) <= int(labels.max()) < CLASSES:
        raise ValueError(f"{path}: labels run from {labels.min()} to {labels.max()}, outside 0..{CLASSES - 1}")
    return Split(images, labels.astype(np.int64))
