"""The class statistics that the models start from, read from what a run stores: its features, or what a simulation declares."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ufm.compare.conserved import change_of_layer
from ufm.compare.coordinates import Entry, LayerBelow, frame_of, gram_of_spectrum, log_gram
from ufm.compare.models import SAME_START
from ufm.compare.outcome import Measured
from ufm.features.ranges import range_of_covariance, reduce_to_range
from ufm.files.features import classifier_of
from ufm.files.json_objects import JsonObject
from ufm.files.store import load_arrays, load_features
from ufm.laws.singular_value_dynamics import UNNORMALIZED
from ufm.laws.trajectory import Trajectory
from ufm.monitor.epoch_statistics import load_statistics


def entry_of_statistics(path: Path, unknown_lam: float = 0.0) -> Entry:
    """Of a file of `ufm.monitor.epoch_statistics`, on the range of Sigma_W; W and b only where the loss is a mean square.

    unknown_lam stands for a lambda that the file does not know, and for the decays of W and b with it; where that is NaN, W and b
    are left out and lambda is 0.

    Raises ValueError where the features have no variability left, or where the file is no such one.
    """
    arrays = load_statistics(path)
    counts, M = arrays["counts"], arrays["class_means"]
    sigma_w, priors = (arrays["sigma_w"] + arrays["sigma_w"].T) / 2, counts / counts.sum()
    _, E, dropped, _ = range_of_covariance(sigma_w, M, priors, float(arrays["precision"]))
    basis = E[:, dropped:]
    if not basis.shape[1]:
        raise ValueError(f"{path}: Sigma_W = 0, every example equals its class mean")
    mean = M @ priors
    W, b = arrays.get("W"), arrays.get("b")
    if W is None or b is None or str(arrays.get("loss", "mse")) != "mse":
        W, b = None, None
    else:
        W, b = W @ basis, b + W @ (mean - basis @ (basis.T @ mean))
    known = {name: float(arrays.get(name, np.nan)) for name in ("lambda", "decay_w", "decay_h")}
    lam = unknown_lam if np.isnan(known["lambda"]) else known["lambda"]
    decay_w, decay_h = (
        default if np.isnan(known[name]) else known[name] for name, default in (("decay_w", lam), ("decay_h", 0.0))
    )
    if np.isnan(lam):  # of no squared error: W and b do not follow its gradient
        W, b, lam, decay_w = None, None, 0.0, 0.0
    centred, layer = basis.T @ (M - mean[:, None]), None
    if "layer_A" in arrays:
        layer = _layer_below(basis.T @ arrays["layer_A"], arrays, priors)
    return Entry(counts, centred, basis.T @ sigma_w @ basis, W, b, basis.T @ mean, decay_w, decay_h, lam, layer)


def _layer_below(A: np.ndarray, arrays: dict[str, np.ndarray], priors: np.ndarray) -> LayerBelow:
    """The layer that features are A Z of, on the range of its Sigma_W, which units that never answer are not in."""
    M, sigma_w = arrays["layer_means"], (arrays["layer_sigma_w"] + arrays["layer_sigma_w"].T) / 2
    _, E, dropped, _ = range_of_covariance(sigma_w, M, priors, float(arrays["precision"]))
    basis = E[:, dropped:]
    return LayerBelow(A @ basis, basis.T @ (M - (M @ priors)[:, None]), basis.T @ sigma_w @ basis)


def change_of_stored_layer(files: Mapping[Path, float]) -> float | None:
    """`change_of_layer` from the first to the last epoch whose file of statistics has the layer below; None for fewer than 2."""
    layers = list[tuple[LayerBelow, np.ndarray]]()
    for path, _ in sorted(files.items(), key=lambda item: item[1]):
        if path.name.startswith("statistics-") and "layer_A" in (arrays := load_statistics(path)):
            M, priors = arrays["layer_means"], arrays["counts"] / arrays["counts"].sum()
            layers.append((LayerBelow(arrays["layer_A"], M - (M @ priors)[:, None], arrays["layer_sigma_w"]), priors))
    return change_of_layer(layers[0][0], layers[-1][0], layers[0][1]) if len(layers) > 1 else None


def entry_of_features(path: Path, lam: float = 0.0, decay_w: float = 0.0, decay_h: float = 0.0) -> Entry:
    """Of a file of features (n, P) and labels, with W and b where it has them, on the range of Sigma_W.

    Raises ValueError where the features have no variability left.
    """
    from manifolds.class_centering import ClassLayout
    from ufm.features.labels import class_blocks

    H, layout = class_blocks(*load_features(path))
    assert isinstance(layout, ClassLayout)
    reduced, reduction = reduce_to_range(H, layout)
    means, deviations = layout.means(reduced), layout.deviations(reduced)
    counts = np.asarray(layout.sizes)
    mean = means @ (counts / counts.sum())
    classifier = classifier_of(load_arrays(path, ("W", "b")), path)
    W, b = None, None
    if np.isnan(lam):  # as in `entry_of_statistics`
        classifier, lam, decay_w = None, 0.0, 0.0
    if classifier is not None:
        W, b = classifier
        W = W.astype(np.float64)
        if W.shape != (layout.C, len(H)):
            raise ValueError(f"{path}: W is {W.shape}, (C, P) = {(layout.C, len(H))} is needed")
        outside = H.astype(np.float64).mean(1)
        b = b + W @ (outside - reduction.basis @ (reduction.basis.T @ outside))
        W = W @ reduction.basis
    sigma_w = deviations @ deviations.T / layout.n
    return Entry(counts, means - mean[:, None], sigma_w, W, b, mean, decay_w, decay_h, lam)


def entry_of_simulation(flow: Trajectory, config: JsonObject, path: Path) -> Entry | None:
    """What a run of `ufm.flow` starts from: Sigma_W = I, Sigma_T = I for the unnormalized law; of --start raw what is stored."""
    counts = flow.class_sizes
    if config.get("start") == "raw":
        arrays = load_arrays(path, ("class_means", "sigma_w"))
        if not {"class_means", "sigma_w"} <= arrays.keys():
            return None
        means = arrays["class_means"]
        return Entry(counts, means - (means @ (counts / counts.sum()))[:, None], arrays["sigma_w"])
    SNR = flow.omega[0][:, None] * flow.V.T
    if config.get("flow") != UNNORMALIZED.name:
        return Entry(counts, SNR, np.eye(len(SNR)))
    U, sigma, _ = np.linalg.svd(SNR * np.sqrt(counts / counts.sum()), full_matrices=False)  # of S, and Sigma_W = (I + S S^T)^{-1}
    root = np.eye(len(SNR)) + (U * ((1 + sigma**2) ** -0.5 - 1)) @ U.T
    return Entry(counts, root @ SNR, root @ root)


def measured(compared: Trajectory, entry: Entry | None) -> tuple[Measured, str]:
    """The epochs compared as they are judged, and why the statistics of the entry are not used ("" where they are).

    They are not where the SNR that they have is not the one stored, as where different directions were dropped.
    """
    V = compared.V if compared.V_t is None else compared.V_t
    counts = compared.class_sizes
    note = ""
    if entry is not None:
        first = V if V.ndim == 2 else V[0]
        stored = gram_of_spectrum(compared.omega[:1], first[None], entry.priors)[0]
        frame = frame_of(stored)
        gap = abs(log_gram(entry.gram(), frame) - log_gram(stored, frame)).max()
        if gap > SAME_START:
            entry, note = (
                None,
                f"the features of the entry have another SNR than the one stored ({gap:.2g} of log omega): not used",
            )
    return Measured(compared.t, compared.omega, V, counts, entry), note
