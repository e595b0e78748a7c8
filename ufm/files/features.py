"""Features of any origin on disk: .npz, .safetensors, or .npy files side by side, memory-mapped.

Keys, those of `KEYS`; features (n, P) of any float dtype and labels (n,) of integers are needed, everything else is optional.
"""

from pathlib import Path
from typing import Literal

import numpy as np

from ufm.arrays import as_numpy
from ufm.files.archive import check_memory, read_header
from ufm.files.store import array_names, load_arrays, reason_of

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


def load_feature_file(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file of features by the names of `KEYS`; features of bfloat16 as float32.

    A .npy is memory-mapped, never read whole; labels.npy, W.npy, ... lie beside it. Raises ValueError for files that
    cannot be read and for those without features and labels, naming what there is.
    """
    if path.suffix == ".safetensors":
        arrays = _safetensors(path)
    elif path.suffix == ".npy":
        arrays = _arrays_beside(path)
    else:
        arrays = load_arrays(path, KEYS, beside="features")
    if not {"features", "labels"} <= arrays.keys():
        names = ", ".join(sorted(arrays) if path.suffix in (".safetensors", ".npy") else array_names(path)) or "none"
        raise ValueError(f"{path} needs the arrays 'features' (n, P) and 'labels' (n,); it has: {names}")
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


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            arrays = {name: as_numpy(file.get_tensor(name)) for name in file.keys() if name in KEYS}  # noqa: SIM118 - no mapping
            return {name: np.asarray(text) for name, text in (file.metadata() or {}).items() if name in KEYS} | arrays
    except (SafetensorError, OSError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def _arrays_beside(path: Path) -> dict[str, np.ndarray]:
    arrays = {"features": _single_array(path, mmap_mode="r")}
    for name in KEYS.keys() - {"features"}:
        other = path.with_name(f"{name}.npy")
        if other.exists() and other != path:
            arrays[name] = _single_array(other)
    return arrays


def _single_array(path: Path, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    """The array of a .npy. Raises ValueError for a file that is none, whatever is wrong with it."""
    try:
        if mmap_mode is None:
            with open(path, "rb") as file:
                check_memory({path.stem: read_header(file).size})
        array = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except MemoryError as error:
        raise ValueError(f"cannot read {path}: it does not fit into memory ({error})") from error
    except Exception as error:  # a damaged header raises anything, from SyntaxError to TokenError
        raise ValueError(f"cannot read {path}: {reason_of(error)}") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(f"cannot read {path}: it is an archive, a single array is needed")
    return array
