"""Features of any origin on disk: .npz, .safetensors, or .npy files side by side, memory-mapped.

Keys, those of `KEYS`; features (n, P) of any float dtype and labels (n,) of integers are needed, everything else is optional.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ufm.arrays import as_numpy
from ufm.files.archive import check_memory, check_sizes, read_header, reason_of
from ufm.files.store import array_names, load_arrays

FLOATS = (np.float16, np.float32, np.float64)  # what torch takes from numpy, in the byte order of the machine
KEYS = {
    "features": "(n, P), any float dtype",
    "labels": "(n,), integers 0..C-1",
    "W": "(C, P), the classifier; without it a least-squares one stands in",
    "b": "(C,), its bias; 0 without",
    "epoch": "one integer",
    "lambda": "one number, of the loss 1/2 Ave ||W h + b - y||^2 + lambda/2 (||W||^2 + ||b||^2)",
    "weight_decay": "one number, the decay of the optimizer",
    "feature_decay": "one number, the decay of the features",
    "learning_rate": "one number, at this epoch",
    "optimizer": "text",
    "train_error": "one number, for features without classifier",
}


class RowsOnDisk(np.memmap[Any, np.dtype[Any]]):
    """A memory-mapped .npy, of which slices of rows are read rather than mapped.

    To touch a mapped page of a file that has shrunk ends the process; reading past its end is a ValueError.
    """

    path: Path | None = None  # of the whole array, not of what is derived from it

    @classmethod
    def of(cls, path: Path) -> np.ndarray:
        """The rows of a .npy that is stored by rows; one stored by columns is read whole."""
        with open(path, "rb") as file:
            header = read_header(file)
        if header.fortran and len(header.shape) > 1:
            return _single_array(path)
        rows = np.load(path, mmap_mode="r", allow_pickle=False).view(cls)
        rows.path = path.absolute()
        return rows

    def __getitem__(self, index: Any) -> Any:
        """Rows first:last as an array of their own, everything else as numpy has it."""
        if self.path is None or not isinstance(index, slice) or index.step not in (None, 1):
            return super().__getitem__(index)
        first, last, _ = index.indices(len(self))
        rows = np.empty((max(last - first, 0), *self.shape[1:]), self.dtype)
        with open(self.path, "rb") as file:
            file.seek(self.offset + first * self.dtype.itemsize * math.prod(self.shape[1:]))
            if file.readinto(rows.reshape(-1).view(np.uint8)) < rows.nbytes:  # type: ignore[attr-defined]
                raise ValueError(f"cannot read {self.path}: it ends before row {last} of {len(self)}, it was truncated")
        return rows


def load_feature_file(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file of features by the names of `KEYS`; features of bfloat16 as float32.

    A .npy is memory-mapped, never read whole; labels.npy, W.npy, ... lie beside it. Raises ValueError for files that
    cannot be read and for those without features and labels, naming what there is.
    """
    if path.suffix == ".csv":
        raise ValueError(f"{path} is a table: sims.figures draws it; features are in .npz, .safetensors or .npy")
    if path.suffix == ".safetensors":
        arrays = _safetensors(path)
    elif path.suffix == ".npy":
        arrays = _arrays_beside(path)
    else:
        arrays = load_arrays(path, KEYS, beside="features")
    if not {"features", "labels"} <= arrays.keys():
        names = ", ".join(sorted(arrays) if path.suffix in (".safetensors", ".npy") else array_names(path)) or "none"
        of_run = path.name == "trajectory.npz" or path.name.startswith("statistics-")
        instead = f"; it is a file of a run, give the folder {path.absolute().parent}" if of_run else ""
        raise ValueError(f"{path} needs the arrays 'features' (n, P) and 'labels' (n,); it has: {names}{instead}")
    return arrays


def files_of(path: Path | str) -> list[Path]:
    """The files that `load_feature_file` reads for a path, those beside it that need not be there among them."""
    path = Path(path)
    return [path, *(path.with_name(f"{name}.npy") for name in KEYS)] if path.suffix == ".npy" else [path]


def scalar(arrays: dict[str, np.ndarray], name: str, path: Path) -> float | None:
    """One number by its key, None where it is absent. Raises ValueError where it is no single finite number."""
    if name not in arrays:
        return None
    value = arrays[name]
    if value.size != 1 or not np.issubdtype(value.dtype, np.number) or not np.isfinite(value).all():
        raise ValueError(f"{path}: {name} is {value.dtype} {value.shape}, one finite number is needed")
    return float(value.reshape(()))


def epoch_of(arrays: dict[str, np.ndarray], path: Path) -> int | None:
    """The key `epoch` of a file, None where it is absent. Raises ValueError where it is no single integer."""
    if "epoch" not in arrays:
        return None
    epoch = arrays["epoch"]
    if epoch.ndim or not np.issubdtype(epoch.dtype, np.integer):
        raise ValueError(f"{path}: epoch is {epoch.dtype} {epoch.shape}, one integer is needed")
    return int(epoch)


def classifier_of(arrays: dict[str, np.ndarray], path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """W (C, P) and b (C,) of a file, zero where it has no b, None where it has no W.

    Raises ValueError where they are no finite floats of these shapes.
    """
    if "W" not in arrays:
        return None
    W = arrays["W"]
    b = arrays.get("b", np.zeros(W.shape[:1]))
    for name, weights, axes in (("W", W, 2), ("b", b, 1)):
        if weights.dtype not in FLOATS or weights.ndim != axes:
            raise ValueError(f"{path}: {name} is {weights.dtype} {weights.shape}; W (C, P) and b (C,) of floats are needed")
        if not np.isfinite(weights).all():
            raise ValueError(f"{path}: {name} has NaN or infinite entries")
    return W, b


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name in KEYS]  # noqa: SIM118 - no mapping
            check_sizes({name: _bytes_of(file.get_slice(name)) for name in names}, "features")
            arrays = {name: as_numpy(file.get_tensor(name)) for name in names}
            return {name: np.asarray(text) for name, text in (file.metadata() or {}).items() if name in KEYS} | arrays
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:  # TypeError: a dtype that numpy lacks
        raise ValueError(f"cannot read {path}: {error}") from error


def _bytes_of(tensor: Any) -> int:
    """Bytes of a tensor that is not read yet; its dtype is called F32, BF16, F8_E4M3, BOOL, ..."""
    bits = re.search(r"\d+", tensor.get_dtype())
    return math.prod(tensor.get_shape()) * (8 if bits is None else int(bits[0])) // 8


def _arrays_beside(path: Path) -> dict[str, np.ndarray]:
    arrays = {"features": _checked_array(path, lambda: RowsOnDisk.of(path))}
    for name in KEYS.keys() - {"features"}:
        other = path.with_name(f"{name}.npy")
        if other.exists() and other != path:
            arrays[name] = _single_array(other)
    return arrays


def _single_array(path: Path) -> np.ndarray:
    """The array of a .npy. Raises ValueError for a file that is none, whatever is wrong with it."""

    def read() -> np.ndarray:
        with open(path, "rb") as file:
            check_memory({path.stem: read_header(file).size})
        return np.load(path, allow_pickle=False)

    return _checked_array(path, read)


def _checked_array(path: Path, read: Callable[[], np.ndarray]) -> np.ndarray:
    try:
        array = read()
    except MemoryError as error:
        raise ValueError(f"cannot read {path}: it does not fit into memory ({error})") from error
    except Exception as error:  # a damaged header raises anything, from SyntaxError to TokenError
        raise ValueError(f"cannot read {path}: {reason_of(error)}") from error
    return array
