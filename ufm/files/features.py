"""Features of any origin on disk: .npz, .safetensors, or .npy files side by side, memory-mapped.

Keys, those of `KEYS`; features (n, P) of any float dtype and labels (n,) of integers are needed, everything else is optional.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ufm.files.store import array_names, load_arrays

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
        arrays = _beside(path)
    else:
        arrays = load_arrays(path, KEYS)
    if not {"features", "labels"} <= arrays.keys():
        names = ", ".join(sorted(arrays) if path.suffix in (".safetensors", ".npy") else array_names(path)) or "none"
        raise ValueError(f"{path} needs the arrays 'features' (n, P) and 'labels' (n,); it has: {names}")
    return arrays


def scalar(arrays: dict[str, np.ndarray], name: str, path: Path) -> float | None:
    """One number by its key, None where it is absent. Raises ValueError where it is no single finite number."""
    if name not in arrays:
        return None
    value = arrays[name]
    if value.size != 1 or not np.issubdtype(value.dtype, np.number) or not np.isfinite(value).all():
        raise ValueError(f"{path}: {name} is {value.dtype} {value.shape}, one finite number is needed")
    return float(value.reshape(()))


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    import torch
    from safetensors import SafetensorError, safe_open

    def as_numpy(tensor: Any) -> np.ndarray:
        return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()

    try:
        with safe_open(path, framework="pt") as file:
            arrays = {name: as_numpy(file.get_tensor(name)) for name in file.keys() if name in KEYS}  # noqa: SIM118 - no mapping
            return {name: np.asarray(text) for name, text in (file.metadata() or {}).items() if name in KEYS} | arrays
    except (SafetensorError, OSError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def _beside(path: Path) -> dict[str, np.ndarray]:
    try:
        arrays = {"features": np.load(path, mmap_mode="r", allow_pickle=False)}
        for name in KEYS.keys() - {"features"}:
            other = path.with_name(f"{name}.npy")
            if other.exists() and other != path:
                arrays[name] = np.load(other, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    return arrays
