"""Class statistics of a measured epoch as a file of the run's folder: what predictions of its later course start from.

`statistics-EPOCH.npz`, written once and atomically, so that a long run rewrites nothing, and read without torch:

    epoch (), counts (C,), class_means (P, C), sigma_w (P, P), precision ()   machine epsilon of the features
    W (C, P), b (C,)                              where a classifier was known
    lambda ()                                     of the loss, NaN where it is not known
    decay_w, decay_b, decay_h ()                  1/2 decay_w ||W||^2, 1/2 decay_b ||b||^2 and 1/2 decay_h Ave ||h||^2 beside
                                                  1/2 Ave ||W h + b - y||^2 (for torch's MSELoss: C / 2 times those given to it)
    learning_rate, momentum, batch_size, optimizer, loss, train_error ()   where they are known
    layer_A (P, d), layer_means (d, C), layer_sigma_w (d, d)   where the features are A Z of a layer Z that was measured

8 P (P + 2 C) bytes each: 34 kB at P = 64, 2.2 MB at P = 512. Wider features
(`ufm.monitor.measurement.MOST_FEATURES`) are left out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ufm.arrays import as_numpy
from ufm.features.statistics import ClassStatistics
from ufm.files.store import load_arrays, save_arrays

if TYPE_CHECKING:  # with torch, which reading needs not
    from ufm.monitor.measurement import Measurement

REQUIRED_ARRAYS = ("epoch", "counts", "class_means", "sigma_w", "precision")
TRAINING_FACTS = (
    *("lambda", "decay_w", "decay_b", "decay_h"),
    *("learning_rate", "momentum", "batch_size", "optimizer", "loss", "train_error"),
)
TEXTS = ("optimizer", "loss")
KNOWN = {*REQUIRED_ARRAYS, *TRAINING_FACTS, "W", "b", "layer_A", "layer_means", "layer_sigma_w"}


def statistics_file(folder: Path, epoch: int) -> Path:
    """Where the statistics of an epoch lie."""
    return folder / f"statistics-{epoch:04d}.npz"


def stored_facts(facts: Mapping[str, object]) -> dict[str, float | str]:
    """Those of a training's facts that its statistics hold: texts and single numbers, not the name of a schedule."""
    stored: dict[str, float | str] = {}
    for name in TRAINING_FACTS:
        value = facts.get(name)
        if isinstance(value, str if name in TEXTS else int | float):
            stored[name] = int(value) if isinstance(value, bool) else value
    return stored


def save_statistics(folder: Path, epoch: int, measurement: "Measurement", facts: Mapping[str, float | str]) -> None:
    """Write the statistics of a measured epoch with facts of the training (`TRAINING_FACTS`), atomically.

    Nothing is written where the measurement has none (P above MOST_FEATURES). Raises ValueError for a fact of another name.
    """
    strange = sorted(facts.keys() - set(TRAINING_FACTS))
    if strange:
        raise ValueError(f"{strange[0]!r} is not stored with statistics; what is stored is {', '.join(TRAINING_FACTS)}")
    stats, classifier = measurement.statistics, measurement.classifier
    if stats is None:
        return
    arrays = {"epoch": np.asarray(epoch), "counts": measurement.counts, "precision": np.asarray(measurement.precision)}
    arrays |= {"class_means": as_numpy(stats.means), "sigma_w": as_numpy(stats.sigma_w)}
    if classifier is not None:
        arrays |= {"W": as_numpy(classifier.W), "b": as_numpy(classifier.b)}
    if "train_error" in measurement.scalars:
        arrays["train_error"] = np.asarray(measurement.scalars["train_error"])
    arrays |= {name: np.asarray(value) for name, value in facts.items()}
    save_arrays(statistics_file(folder, epoch), arrays)


def add_layer(folder: Path, epoch: int, A: np.ndarray, below: ClassStatistics[np.ndarray]) -> None:
    """Add the layer below to the statistics of an epoch: features are A Z, A (P, d), with the class statistics of Z.

    Raises ValueError where these are not the features'.
    """
    path = statistics_file(folder, epoch)
    arrays = load_statistics(path)
    own, mapped = arrays["sigma_w"], A @ below.sigma_w @ A.T
    if not np.allclose(own, mapped, rtol=1e-6, atol=1e-6 * float(abs(own).max())):
        raise ValueError(f"{path}: the features are not A Z of this layer, their Sigma_W differ by {abs(own - mapped).max():.2g}")
    layer = {"layer_A": A, "layer_means": below.means, "layer_sigma_w": below.sigma_w}
    save_arrays(path, arrays | layer)


def load_statistics(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file of statistics. Raises ValueError for anything else."""
    arrays = load_arrays(path, KNOWN)
    missing = [name for name in REQUIRED_ARRAYS if name not in arrays]
    if missing:
        raise ValueError(f"{path} holds no class statistics: it has no array {missing[0]!r}")
    C, means, A = arrays["counts"].size, arrays["class_means"], arrays.get("layer_A", np.zeros((0, 0)))
    P, d = (array.shape[axis] if array.ndim == 2 else 0 for array, axis in ((means, 0), (A, 1)))
    shapes = {"counts": (C,), "class_means": (P, C), "sigma_w": (P, P), "W": (C, P), "b": (C,)}
    shapes |= {"layer_A": (P, d), "layer_means": (d, C), "layer_sigma_w": (d, d)}
    for name, value in arrays.items():
        words = name in TEXTS
        if value.shape != shapes.get(name, ()) or value.dtype.kind not in ("U" if words else "iuf"):
            needed = "text is" if words else f"numbers of shape {shapes.get(name, ())} are"
            raise ValueError(f"{path}: {name} is {value.dtype} {value.shape}, {needed} needed")
        if name in shapes and not np.isfinite(value).all():
            raise ValueError(f"{path}: {name} has NaN or infinite entries")
    if not C or arrays["counts"].min() < 1:
        raise ValueError(f"{path}: counts are {arrays['counts'].tolist()}, every class has examples")
    return arrays


def statistics_files(folder: Path) -> dict[Path, float]:
    """The files of statistics in a folder with their epochs, in order."""
    numbers = {path: path.stem.removeprefix("statistics-") for path in folder.glob("statistics-*.npz")}
    epochs = {path: float(number) for path, number in numbers.items() if number.isdigit()}
    return dict(sorted(epochs.items(), key=lambda pair: pair[1]))
