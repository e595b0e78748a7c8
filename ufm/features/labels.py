"""From labelled features (n, P), as a network gives them, to class blocks (P, n), as the theory writes them."""

import numpy as np

from manifolds.class_centering import ClassLayout
from manifolds.rng import RNG
from ufm.arrays import NUMBERED, FeatureMatrix, Labels, PerClass, Rows, check_real, check_scale, check_unmasked


def class_blocks(features: Rows[np.ndarray], labels: Labels[np.ndarray]) -> tuple[FeatureMatrix[np.ndarray], ClassLayout]:
    """H (P, n) with columns in class blocks, and its layout. features (n, P), labels (n,) with values 0..C-1.

    The order inside a class is kept. Raises ValueError for mismatched shapes, NaN or infinite entries, labels that are not
    integers or skip a class, and fewer than two classes.
    """
    if not (isinstance(features, np.ndarray) and isinstance(labels, np.ndarray)):
        raise TypeError("features and labels must be numpy arrays: of torch tensors, give tensor.detach().cpu().numpy()")
    labels = check_labels(features, labels)
    counts = np.bincount(labels)
    check_counts(counts)
    order = np.argsort(labels, kind="stable")
    native = np.float64 if features.dtype.itemsize > 8 else features.dtype.newbyteorder("=")
    return np.ascontiguousarray(features[order].T, dtype=native), ClassLayout(tuple(counts.tolist()))


def check_counts(counts: PerClass[np.ndarray]) -> None:
    """Raise ValueError for examples of every class (C,) of fewer than two classes, or where one has none."""
    if len(counts) < 2:
        raise ValueError("all labels are 0: collapse needs at least C = 2 classes")
    missing = np.flatnonzero(counts == 0)
    if len(missing):
        hint = "the labels seem to start at 1: subtract 1" if missing.tolist() == [0] else "relabel the classes 0..C-1"
        raise ValueError(f"labels skip class {missing[0]} ({len(missing)} of 0..{len(counts) - 1} without any example): {hint}")


def check_labels(features: Rows[np.ndarray], labels: Labels[np.ndarray]) -> np.ndarray:
    """The labels as integers, after every check that labels (n,) and features (n, P) allow."""
    if features.ndim != 2 or labels.ndim != 1:
        raise ValueError(f"features must be (n, P) and labels (n,), got shapes {features.shape} and {labels.shape}")
    if len(features) != len(labels):
        raise ValueError(f"{len(features)} rows of features but {len(labels)} labels: one label a row is needed")
    if not features.size:
        raise ValueError(f"features have shape {features.shape}: at least one example and one feature are needed")
    check_real(features, "features")
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise ValueError(f"features have NaN or infinite entries, first in row {row}")
    check_scale(float(abs(features).max()), "features")
    check_whole(labels)
    if len(labels) and labels.min() < 0:
        raise ValueError(f"label {labels.min()} is negative: labels run from 0 to C-1")
    if not labels.max() < len(labels):
        raise ValueError(f"label {labels.max()} with {len(labels)} examples: labels run from 0 to C-1 and skip none")
    return labels.astype(np.int64)


def check_whole(labels: Labels[np.ndarray]) -> None:
    """Raise ValueError for labels that are no whole numbers, whatever their dtype, or masked."""
    check_unmasked(labels, "labels")
    if labels.dtype.kind not in "iu" and not (
        labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.round(labels)).all()
    ):
        raise ValueError(f"labels have dtype {labels.dtype}: integers 0..C-1 are needed; {NUMBERED}")


def balance(H: FeatureMatrix[np.ndarray], layout: ClassLayout, rng: RNG) -> tuple[FeatureMatrix[np.ndarray], ClassLayout]:
    """A random subsample with equal classes, each of the smallest size. H (P, n) -> (P, C min n_c)"""
    smallest, rng = min(layout.sizes), np.random.default_rng(rng)
    ends = np.cumsum(layout.sizes)
    columns = [
        end - size + np.sort(rng.choice(size, smallest, replace=False)) for size, end in zip(layout.sizes, ends, strict=True)
    ]
    return np.ascontiguousarray(H[:, np.concatenate(columns)]), ClassLayout.equal(layout.C, smallest)
